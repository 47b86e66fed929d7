"""A real Kubernetes on one Linux host, without Docker.

``python -m hack.cluster up`` makes a whole node for trials in containers; `ControlPlane` alone is
what ``tests/api`` runs against. The binaries are built from Go modules and cached (`binaries`).
"""


class ClusterError(Exception):
    """A fault told to the user in one message, without a stack trace."""
