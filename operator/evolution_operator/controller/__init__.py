"""Executes the planner's actions on a cluster: kopf watches, one level-triggered reconcile per run creates Jobs."""
