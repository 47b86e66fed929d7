"""Job objects and their Pods, built from a run's spec. Pure."""
