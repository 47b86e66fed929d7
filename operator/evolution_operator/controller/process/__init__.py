"""The operator's process: kopf's handlers, the work queue and health."""
