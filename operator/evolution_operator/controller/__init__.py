"""The planner's hand on a cluster: kopf watches, one level-triggered reconcile a run acts through Kubernetes Jobs."""
