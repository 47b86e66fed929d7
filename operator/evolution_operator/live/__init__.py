"""The live page: a read-only view of runs while they go on, for the operator and for a run on this machine."""
