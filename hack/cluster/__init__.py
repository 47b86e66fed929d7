"""A real Kubernetes on one Linux host, without Docker.

``python -m hack.cluster up`` starts a node that runs containers. ``tests/api`` needs only `ControlPlane`.
`binaries` builds the programs from Go modules and caches them.
"""


class ClusterError(Exception):
    """An error that the user sees as one message, without a stack trace."""
