"""The resource, the planner, and its two executors: the controller for a cluster, the local driver for one machine."""
