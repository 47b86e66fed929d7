"""Small views of Jobs and Pods: the fields that decisions need, not the whole objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evolution_jobs.contract.stage import TRAINED, kind_of

from .. import labels
from ..jobs.pods import gpus_of
from ..labels import CONTAINER


@dataclass(frozen=True)
class Meta:
    """Identity and labels of an object."""

    namespace: str
    name: str
    uid: str
    version: int
    """resourceVersion: comparable among versions of one object (KEP-5504)."""
    run: str
    stage: str
    owner: str | None
    """Uid of the controlling owner."""
    deleting: bool

    @property
    def kind(self) -> str:
        """Kind of the stage; `labels.CLEANUP` for the Job that deletes a run's artifacts."""
        return kind_of(self.stage)


@dataclass(frozen=True)
class JobView:
    """A Job of a run."""

    meta: Meta
    number: int
    iteration: int
    key: str
    suspended: bool
    queue: str | None
    completions: int
    """Pods that must end well: one for each shard, or for each node that trains with others."""
    succeeded: int
    """Pods that the Job controller has counted as ended well."""
    started_at: datetime | None
    """When it was allowed to run."""
    held: bool = False
    """Whether something else keeps it suspended: since its creation, or although the operator has resumed it."""
    template: str = ""
    """Digest of its Pod template; empty if its operator wrote none."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Resource limits in its Pod template."""
    conditions: Mapping[str, JobCondition] = field(default_factory=dict)
    """Conditions that are True, by type."""
    pods: tuple[PodView, ...] = ()
    """Its Pods, deleted ones included."""

    @property
    def shards(self) -> int:
        """Shards of the stage. Nodes that train together are one."""
        return 1 if self.meta.kind in TRAINED else self.completions

    def shards_of(self, pods: int) -> int:
        """Shards that are done once this many Pods have ended well."""
        return int(pods >= self.completions) if self.meta.kind in TRAINED else pods

    @property
    def ended(self) -> bool:
        """Whether it has succeeded or failed."""
        return "Complete" in self.conditions or "Failed" in self.conditions

    @property
    def active(self) -> bool:
        """Whether its Pods may run now."""
        return not (self.suspended or self.meta.deleting or self.ended)

    @property
    def ended_unseen(self) -> bool:
        """Whether it has ended and a Pod that says how is still unknown: its watch event may not have arrived yet."""
        if any(pod.alive for pod in self.pods):
            return False
        if "Complete" in self.conditions:
            return sum(pod.phase == "Succeeded" for pod in self.pods) < self.completions
        return "Failed" in self.conditions and not any(pod.phase == "Failed" for pod in self.pods)


@dataclass(frozen=True)
class JobCondition:
    """A condition of a Job that is True."""

    reason: str
    message: str
    since: datetime | None


@dataclass(frozen=True)
class PodView:
    """A Pod of a run's Job."""

    meta: Meta
    phase: str
    image: str
    gpus: int
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Resource limits of the container as the Pod was made: a LimitRange or a webhook may have set some."""
    node: str | None = None
    disrupted: bool = False
    """Whether the cluster disrupted it: eviction, preemption, drain, a lost node."""
    unschedulable: str | None = None
    """The scheduler's message."""
    waiting: tuple[str, str] | None = None
    """Why the container does not start: reason and message."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    """Why the container, or the Pod as a whole, ended: OOMKilled, Error, Evicted."""
    message: str = ""
    """Termination message of the container, else the Pod's own."""
    evicted: str | None = None
    """The kubelet's message, if it evicted the Pod: the node was short, or the Pod exceeded a limit of its own."""
    kept_by: tuple[str, ...] = ()
    """Containers that go on after the stage has ended: an injected proxy, for example. The Pod does not end by itself."""
    gone: bool = False
    """True once the Pod is deleted. Its exit code and report are kept as long as its Job exists."""

    @property
    def alive(self) -> bool:
        """Whether its process may still write."""
        return not self.gone and not self.kept_by and self.phase not in ("Succeeded", "Failed")


def job_view(body: Mapping[str, Any]) -> JobView:
    """The view of a Job. Missing labels read as empty, so a Job without them is not recognised as an attempt."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    tags = metadata.get("labels") or {}
    conditions = {
        condition["type"]: JobCondition(
            condition.get("reason") or "", condition.get("message") or "", _time(condition.get("lastTransitionTime"))
        )
        for condition in status.get("conditions") or []
        if condition.get("status") == "True"
    }
    return JobView(
        meta=_meta(body),
        number=_number(tags.get(labels.ATTEMPT)),
        iteration=_number(tags.get(labels.ITERATION)),
        key=(metadata.get("annotations") or {}).get(labels.KEY, ""),
        suspended=bool(spec.get("suspend")),
        queue=tags.get(labels.QUEUE),
        completions=spec.get("completions") or 1,
        succeeded=status.get("succeeded") or 0,
        started_at=_began(body),
        held=bool(spec.get("suspend")) and _suspended_elsewhere(metadata),
        template=(metadata.get("annotations") or {}).get(labels.TEMPLATE, ""),
        limits=_limits((spec.get("template") or {}).get("spec") or {}),
        conditions=conditions,
    )


def pod_view(body: Mapping[str, Any]) -> PodView:
    """The view of a Pod."""
    spec, status = body.get("spec") or {}, body.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled") or {}
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    container: Mapping[str, Any] = next((c for c in spec.get("containers") or [] if c["name"] == CONTAINER), {})
    statuses = [c for c in status.get("containerStatuses") or [] if c["name"] == CONTAINER]
    state = (statuses[0].get("state") or {}) if statuses else {}
    ended, waiting = state.get("terminated") or {}, state.get("waiting")
    began = ended.get("startedAt") or (state.get("running") or {}).get("startedAt")
    evicted = status.get("reason") == "Evicted"
    return PodView(
        meta=_meta(body),
        phase=status.get("phase") or "Pending",
        image=container.get("image") or "",
        gpus=gpus_of(container.get("resources") or {}),
        limits=_limits(spec),
        node=spec.get("nodeName"),
        disrupted=(conditions.get("DisruptionTarget") or {}).get("status") == "True",
        unschedulable=(scheduled.get("message") or "") if unschedulable else None,
        waiting=(waiting.get("reason") or "", waiting.get("message") or "") if waiting else None,
        started_at=_time(began),
        finished_at=_time(ended.get("finishedAt")),
        exit_code=ended.get("exitCode"),
        reason=ended.get("reason") or status.get("reason") or "",
        message=ended.get("message") or status.get("message") or "",
        evicted=status.get("message") or "" if evicted else None,
        kept_by=_kept_by(body) if ended else (),
    )


def _kept_by(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Containers beside the stage's that still run, unless the Pod is asked to end. Native sidecars are not among them."""
    status = body["status"]
    if body["metadata"].get("deletionTimestamp") or status.get("phase") != "Running":
        return ()
    others = [c for c in status["containerStatuses"] if c["name"] != CONTAINER]
    return tuple(c["name"] for c in others if "terminated" not in (c.get("state") or {}))


def _limits(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stage's resource limits in a Pod's spec."""
    container: Mapping[str, Any] = next((c for c in spec.get("containers") or [] if c["name"] == CONTAINER), {})
    return (container.get("resources") or {}).get("limits") or {}


def _suspended_elsewhere(metadata: Mapping[str, Any]) -> bool:
    """Whether a suspended Job waits for someone else. A user's change of a Job that runs is undone once."""
    ours = (metadata.get("annotations") or {}).get(labels.SUSPENDED)
    return ours == "false" or (ours is None and metadata.get("generation", 1) == 1)


def _began(body: Mapping[str, Any]) -> datetime | None:
    """When the Job was allowed to run: its creation, unless it was ever suspended.

    The Job controller sets startTime a moment later, which would cost one more status write for each stage.
    """
    status = body.get("status") or {}
    conditions = status.get("conditions") or []
    held = (body.get("spec") or {}).get("suspend") or any(each["type"] == "Suspended" for each in conditions)
    made = body["metadata"].get("creationTimestamp")
    return _time(status.get("startTime") if held or made is None else made)


def _meta(body: Mapping[str, Any]) -> Meta:
    metadata = body["metadata"]
    tags = metadata.get("labels") or {}
    owners = metadata.get("ownerReferences") or []
    return Meta(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=_number(metadata.get("resourceVersion")),
        run=tags.get(labels.RUN, ""),
        stage=tags.get(labels.STAGE, ""),
        owner=next((owner["uid"] for owner in owners if owner.get("controller")), None),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
