"""Pairwise comparison of answers by another model: its prompt and verdicts, and figures that show its biases. Pure."""
