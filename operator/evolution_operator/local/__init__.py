"""Executes the planner's actions with processes on one machine."""
