"""What the operator has seen of the cluster: cached objects, and the planner's attempts derived from them."""
