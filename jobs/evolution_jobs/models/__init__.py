"""Base models and adapters: finding and loading them."""
