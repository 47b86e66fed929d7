"""Evaluation metrics. Each name says how the metric is computed."""
