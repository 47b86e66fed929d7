"""Whether a run's results are what its manifests say: digests, keys, pointers, provenance and signatures."""
