"""How preference pairs are made: prompts, reflection, filters."""
