"""The Service by which the nodes of a stage find each other. Pure."""

from __future__ import annotations

import hashlib

from evolution_jobs.contract.stage import RunRef

from ...api.spec import API_VERSION, KIND
from .. import labels
from .pods import Object


def service_name(owner: RunRef) -> str:
    """`ranks-<run>-<digest8>`: the same for all stages of a run, and another for a later run of that name.

    A Service's name must begin with a letter, and a run's need not.
    """
    return f"ranks-{owner.name}-{hashlib.sha256(owner.uid.encode()).hexdigest()[:8]}"


def build_service(owner: RunRef) -> Object:
    """A headless Service: it gives each Pod of an Indexed Job a name that stays, `<job>-<index>.<service>`.

    It belongs to the run and is deleted with it. Pods have their names before they are ready, because none is ready
    before it has met the others.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service_name(owner),
            "namespace": owner.namespace,
            "labels": {labels.MANAGED_BY: labels.OPERATOR, labels.RUN: owner.name},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {labels.RUN: owner.name},
        },
    }


def owner_reference(owner: RunRef) -> Object:
    """The run as the controlling owner of an object."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
