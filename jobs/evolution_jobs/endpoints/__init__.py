"""Models behind an OpenAI-compatible endpoint: asked side by side, within a rate, with the cost of each answer."""
