"""Stages of an evolution run: what a Job or a local process executes."""
