"""Starts one short Pod as a stage's, to try the image and the storage from inside the cluster, and deletes it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.trial import StoreTrial
from pydantic import ValidationError

from ...controller import labels
from ...controller.jobs.pods import Object
from ...controller.labels import CONTAINER
from ...controller.seen.attempts import CONFIG_REASONS, PULL_REASONS
from ..kube import ApiError, Cluster
from .check import Check, failed, ok, skipped, warning
from .storage import check_storage

SECONDS = 900.0
"""Longest time that the Pod may take, its image's pull included."""
LOOK_SECONDS = 2.0
RUN = "evolution-doctor"
"""Label of the Pod in place of a run's name, so that the NetworkPolicies of stages apply to it. No run has this name."""
TRIED_AGAIN = frozenset({"ErrImagePull", "RegistryUnavailable", "RunContainerError"})
"""Reasons that may pass by themselves: the kubelet tries again."""
INSIDE = " (from a Pod)"


def probe_pod(template: Mapping[str, Any], storage: Storage, namespace: str) -> Object:
    """A Pod as prepare's, that tries the storage in place of a stage. It asks for little, and for no GPU."""
    (container,) = template["containers"]
    command = ["python", "-m", "evolution_jobs.storage_trial", "--storage", json.dumps(storage.wire())]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{RUN}-{secrets.token_hex(4)}",
            "namespace": namespace,
            "labels": {labels.RUN: RUN, labels.MANAGED_BY: RUN, "app.kubernetes.io/component": "doctor"},
        },
        "spec": {
            **template,
            "activeDeadlineSeconds": int(SECONDS),
            "terminationGracePeriodSeconds": 0,
            "containers": [{**container, "command": command, "resources": PROBE_RESOURCES}],
        },
    }


PROBE_RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


def try_in_pod(
    cluster: Cluster,
    pod: Object,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> list[Check]:
    """The checks that the Pod made. It is deleted in any case. Raises PermanentError `ClusterUnreachable`."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods"
    try:
        cluster.post(path, pod)
    except ApiError as error:
        remedy = "see the message; the Pod complies with the level restricted, as those of stages do"
        return [failed("probe Pod", f"the API server refuses it: {error}", remedy)]
    left: list[Check] = []
    try:
        found = _wait(cluster, f"{path}/{name}", clock, pause)
    finally:
        try:
            cluster.delete(f"{path}/{name}")
        except ApiError as error:
            if error.status != 404:
                by_hand = f"kubectl -n {namespace} delete pod {name}"
                left = [warning("probe Pod", f"{name} could not be deleted: {error}", by_hand)]
    return [*found, *left]


def _wait(cluster: Cluster, path: str, clock: Callable[[], float], pause: Callable[[float], None]) -> list[Check]:
    deadline = clock() + SECONDS
    while True:
        try:
            found = checks_of(cluster.get(path), lambda: _log(cluster, path), clock() > deadline)
        except (ApiError, ConnectionResetError) as error:
            return [failed("probe Pod", f"it was lost: {error}", "try again")]
        if found is not None:
            return found
        pause(LOOK_SECONDS)


def _log(cluster: Cluster, path: str) -> str:
    return b"".join(cluster.stream(f"{path}/log", {"container": CONTAINER})).decode("utf-8", "replace")


def checks_of(pod: Mapping[str, Any], read_log: Callable[[], str], late: bool) -> list[Check] | None:
    """What the Pod shows so far; None if it must be looked at again."""
    status = pod.get("status") or {}
    image = pod["spec"]["containers"][0]["image"]
    states = [each.get("state") or {} for each in status.get("containerStatuses") or [] if each["name"] == CONTAINER]
    waiting = (states[0].get("waiting") or {}) if states else {}
    reason, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in PULL_REASONS | CONFIG_REASONS and (late or reason not in TRIED_AGAIN):
        remedy = "correct pod.image or the chart's stages.image; set pod.imagePullSecrets for a private registry"
        what = f"image {image}" if reason in PULL_REASONS else "probe Pod"
        return [failed(f"{what}{INSIDE}", f"{reason}: {words}", remedy if what != "probe Pod" else "")]
    if status.get("phase") in ("Succeeded", "Failed"):
        return [ok(f"image {image}{INSIDE}", "it was pulled and started"), *_said(status, read_log())]
    if not late:
        return None
    conditions = [each for each in status.get("conditions") or [] if each.get("status") == "False"]
    why = "; ".join(str(each.get("message") or each.get("reason")) for each in conditions) or "it did not end"
    return [failed("probe Pod", f"after {SECONDS:.0f} s: {why}")]


def _said(status: Mapping[str, Any], log: str) -> list[Check]:
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            return check_storage(StoreTrial.stored(line), INSIDE)
        except ValidationError:
            continue
    words = lines[-1][:300] if lines else str(status.get("message") or "its log is empty")
    if "storage_trial" in words:
        return [skipped(f"storage{INSIDE}", "the image is of a version that cannot try it", "upgrade the image")]
    return [failed(f"storage{INSIDE}", words)]
