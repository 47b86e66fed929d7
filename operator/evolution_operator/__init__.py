"""The brain and its two hands: the resource, the planner, the controller for a cluster, the driver for one machine."""
