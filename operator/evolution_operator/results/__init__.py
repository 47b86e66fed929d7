"""What a run has left in its storage: found by a run file, by a run on the cluster, or by the pointers in the store."""
