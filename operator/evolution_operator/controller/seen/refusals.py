"""What the API server says if it refuses a Job or its Pods, in the words of a run: which field, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .attempts import Note

QUOTA = "exceeded quota"
"""In the message of the admission plugin ResourceQuota."""

_OBJECT = re.compile(r'^(?:Error creating: )?(?:[\w.]+ "[^"]*" is (?:forbidden|invalid): )?')
"""How the Job controller's message begins. It has the Pod's name, which differs each time."""

_REMEDIES = (
    (r"must be less than or equal to .*limit", "set pod.resources.limits, or see the namespace's LimitRange"),
    (
        r"(maximum|minimum) \S+ (usage|request|limit).* per (Container|Pod)|max limit to request ratio",
        "change pod.resources, or see the namespace's LimitRange",
    ),
    (r"failed quota: .*must specify", "set what is missing in pod.resources, because of the namespace's ResourceQuota"),
    (
        r"security context constraint|SecurityContextConstraints",
        "on OpenShift, set the chart's value openshift: true",
    ),
    (r"violates PodSecurity", "correct pod.volumes, or the namespace's Pod Security level"),
    (
        r"service ?account .*not found|looking up service account",
        "create the service account, or correct pod.serviceAccountName",
    ),
    (r"no PriorityClass with name", "create the PriorityClass, or correct pod.priorityClassName"),
    (r"RuntimeClass .*not found", "create the RuntimeClass, or correct pod.runtimeClassName"),
)
"""Pattern of a message, and what to do. The first that matches counts."""

_PLACE = re.compile(r"spec\.template\.(?:spec\.|metadata\.)?(?:(containers)(?:\[0\])?\.)?(\w+)(?:\[(\d+)\])?")
"""A field of a Job's Pod template, in a message of the API server."""


def refused_pods(message: str) -> Note:
    """Why a Job may not create its Pods, from the event about it. The same for each of its tries."""
    words = _OBJECT.sub("", message).strip()
    if QUOTA in words:
        return "QuotaExceeded", f"{words}: raise the quota or lower the stage's pod.resources"
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, words)), None)
    return "PodsRefused", f"{words}: {remedy}" if remedy else words


def refused_job(message: str, terminating: bool) -> Note:
    """Why a Job may not be created now (403). `terminating`: because its namespace is being deleted."""
    if QUOTA in message:
        return "QuotaExceeded", f"{message}: raise the quota or delete finished runs"
    return "NamespaceTerminating" if terminating else "JobRefused", message


def invalid_job(message: str, job: Mapping[str, Any]) -> str:
    """Why a Job is malformed (400, 422), with the fields of the run instead of those of the Job.

    An item of a list is named instead of numbered, because the Job's lists also have the operator's items.
    """
    template = job["spec"]["template"]["spec"]

    def in_the_run(place: re.Match[str]) -> str:
        container, field, index = place.groups()
        items = (template["containers"][0] if container else template).get(field)
        if index is None or not isinstance(items, list) or int(index) >= len(items):
            return f"spec.pod.{field}"
        name = items[int(index)].get("name") or items[int(index)].get("key")
        return f'spec.pod.{field}["{name}"]' if name else f"spec.pod.{field}"

    words = _PLACE.sub(in_the_run, _OBJECT.sub("", message))
    return f"the API server refuses the Job; correct spec.pod or the stage's own pod: {words}"
