"""The Kubernetes API: requests, named calls, the server's clock, and the Lease of the leading replica."""
