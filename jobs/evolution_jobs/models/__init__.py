"""Base models and adapters: where they come from and how they are loaded."""
