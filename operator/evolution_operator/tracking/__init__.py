"""Experiment trackers: figures, losses and settings of a run, sent to MLflow, Weights & Biases or Trackio. Off by default."""
