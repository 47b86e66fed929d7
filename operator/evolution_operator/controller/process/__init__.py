"""The operator's process: kopf's handlers, the work queue, health and logs."""
