"""The hand for one machine: carries out the planner's actions with processes."""
