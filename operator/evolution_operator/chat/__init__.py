"""A chat with one or two models of a run: what is said, the models, and the terminal."""
