"""Chats as token ids, the same for training, generation and evaluation: the model's template, and text that stays text."""
