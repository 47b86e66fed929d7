"""Logs of a run's Pods on the cluster of the current kubeconfig context."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from evolution_jobs.contract.errors import PermanentError

from ...api.status import RunStatus, StageStatus
from ...controller import labels
from ..cluster import read_run, read_status
from ..kube import Cluster, explained
from .choice import Source, Wanted, choose_current, choose_sources, choose_stage, prefixes, why_none
from .lines import lines_of, show, tell

INDEX = "batch.kubernetes.io/job-completion-index"
LOOK_SECONDS = 2.0
"""Seconds between two looks at the run and its Pods, while their logs are followed."""
GONE = (
    " on the cluster: a Pod's log is deleted with its Pod, which ends with the run, with its node, or once a newer attempt "
    "replaces it"
)


class PodLogs:
    """The logs of one run's Pods.

    Every method raises PermanentError `ClusterRefused`, `ClusterUnreachable`.
    """

    def __init__(self, run: str, namespace: str | None) -> None:
        self.run = run
        self._cluster = Cluster(namespace)
        self._path = f"/api/v1/namespaces/{self._cluster.namespace}/pods"

    def status(self) -> RunStatus:
        """The run's status."""
        return read_status(read_run(self._cluster, self.run).get("status") or {})

    def sources(self, stage: str | None = None) -> list[Source]:
        """The Pods of a stage, or of all stages."""
        selector = f"{labels.RUN}={self.run},{labels.ATTEMPT}" + (f",{labels.STAGE}={stage}" if stage else "")
        place = f"namespace {self._cluster.namespace}"
        with explained(f"not allowed to list Pods in {place}", f"there is no {place}"):
            found = self._cluster.get(self._path, {"labelSelector": selector})
        return [source_of(pod) for pod in found["items"]]

    def read(self, pod: str, tail: int | None) -> Iterator[str]:
        """The lines of a Pod's log so far."""
        try:
            yield from lines_of(self._stream(pod, tail))
        except ConnectionResetError as error:
            words = f"the connection to {self._cluster.server} was lost while the log of {pod} was read: try again"
            raise PermanentError("ClusterUnreachable", words) from error

    def follow(self, pod: str, tail: int | None) -> Iterator[str]:
        """The lines of a Pod's log until its container has ended. A connection that is lost is made again."""
        last = ""
        while True:
            # Gateways close connections on which nothing is said for a minute.
            with suppress(ConnectionResetError):
                options = {"follow": "true", "timestamps": "true"}
                for line in lines_of(self._stream(pod, None if last else tail, **options)):
                    stamp, _, text = line.partition(" ")
                    # The kubelet writes stamps of one length, so their order is that of the text.
                    if stamp > last:
                        last = stamp
                        yield text
            if all(source.ended for source in self.sources() if source.name == pod):
                return
            time.sleep(LOOK_SECONDS)

    def _stream(self, pod: str, tail: int | None, **options: str) -> Iterator[bytes]:
        lines = {} if tail is None else {"tailLines": str(tail)}
        with explained(
            f"not allowed to read logs of Pods in namespace {self._cluster.namespace} (pods/log)",
            f"Pod {pod} has been deleted, and its log with it",
        ):
            yield from self._cluster.stream(
                f"{self._path}/{pod}/log", {"container": labels.CONTAINER, **lines, **options}
            )


def source_of(pod: dict[str, Any]) -> Source:
    """What a Pod's object says about its log."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    tags, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    containers = [each for each in status.get("containerStatuses") or [] if each.get("name") == labels.CONTAINER]
    state = (containers[0].get("state") or {}) if containers else {}
    waiting = state.get("waiting") or {}
    conditions = [each for each in status.get("conditions") or [] if each.get("type") == "PodScheduled"]
    unscheduled: dict[str, Any] = next((each for each in conditions if each.get("status") == "False"), {})
    words = [waiting.get("reason"), waiting.get("message") or unscheduled.get("message")]
    ended = status.get("phase") in ("Succeeded", "Failed") or "terminated" in state
    index = str(notes.get(INDEX) or tags.get(INDEX) or "0")
    return Source(
        name=metadata["name"],
        stage=str(tags.get(labels.STAGE, "")),
        attempt=int(tags.get(labels.ATTEMPT) or 0),
        index=int(index) if index.isdecimal() else 0,
        made=str(metadata.get("creationTimestamp") or ""),
        started="running" in state or "terminated" in state,
        ended=ended,
        waits=": ".join(str(each) for each in words if each) or str(status.get("phase") or "Pending"),
    )


def print_pod_logs(logs: PodLogs, wanted: Wanted) -> None:
    """Print the logs of a stage so far. Raises PermanentError `LogsMissing`."""
    stage = choose_stage(logs.status(), wanted.stage)
    found = logs.sources(stage.id)
    chosen = choose_sources(found, wanted)
    if not chosen:
        raise why_none(stage, wanted, found, GONE)
    before = prefixes(chosen)
    _head(stage, chosen)
    shown = 0
    for source in chosen:
        if not source.started:
            tell(f"{before[source.name]}{source.name} has not started: {source.waits}")
            continue
        for line in logs.read(source.name, wanted.tail):
            show(before[source.name], line)
            shown += 1
    if not shown and any(source.ended for source in chosen):
        tell("The log is empty.")


def _head(stage: StageStatus, chosen: Sequence[Source]) -> None:
    names = ", ".join(source.name for source in chosen)
    tell(f"{stage.id}, attempt {chosen[0].attempt}, {stage.state}: {names}")


def follow_pod_logs(logs: PodLogs, wanted: Wanted) -> None:
    """Print the logs of a stage as they grow, until it has ended; without a stage, those of the run.

    Pods that replace others are followed, too. Raises PermanentError `LogsMissing` if the stage or run is over and has none.
    """
    said: queue.Queue[tuple[str, str] | PermanentError] = queue.Queue()
    readers: dict[str, threading.Thread] = {}
    told: dict[str, str] = {}
    status = logs.status()
    if over(status, wanted.stage):
        print_pod_logs(logs, wanted)
        return
    # Of a run, what has ended before is of no interest.
    past = set() if wanted.stage else {source.name for source in logs.sources() if source.ended}
    while True:
        finished = over(status, wanted.stage)
        for source in choose_current(logs.sources(wanted.stage), wanted):
            if source.name in past or source.name in readers:
                continue
            if source.started:
                prefix = f"[{source.stage} {source.index}] "
                reader = threading.Thread(
                    target=_read_to_end, args=(logs, source, prefix, wanted.tail, said), daemon=True
                )
                readers[source.name] = reader
                tell(f"{prefix}attempt {source.attempt}: {source.name}")
                reader.start()
            elif told.get(source.name) != source.waits:
                told[source.name] = source.waits
                tell(f"[{source.stage} {source.index}] {source.name} has not started: {source.waits}")
        _print_until(said, readers, time.monotonic() + LOOK_SECONDS, finished)
        if finished:
            return
        status = logs.status()


def over(status: RunStatus, stage: str | None) -> bool:
    """Whether a stage, or the run, has ended for now."""
    if status.phase in ("Complete", "Failed", "Suspended"):
        return True
    return stage is not None and choose_stage(status, stage).state in ("Succeeded", "Failed")


def _read_to_end(
    logs: PodLogs, source: Source, prefix: str, tail: int | None, said: queue.Queue[tuple[str, str] | PermanentError]
) -> None:
    try:
        for line in logs.follow(source.name, tail):
            said.put((prefix, line))
    except PermanentError as error:
        said.put(error)


def _print_until(
    said: queue.Queue[tuple[str, str] | PermanentError],
    readers: dict[str, threading.Thread],
    deadline: float,
    finished: bool,
) -> None:
    """Print lines until the deadline; once the stage is `finished`, until every reader has ended."""
    while True:
        busy = any(reader.is_alive() for reader in readers.values())
        left = LOOK_SECONDS if finished and busy else deadline - time.monotonic()
        try:
            each = said.get(timeout=max(0.0, left)) if not finished or busy else said.get_nowait()
        except queue.Empty:
            if finished and busy:
                continue
            return
        if isinstance(each, PermanentError):
            tell(f"{each.reason}: {each}")
        else:
            show(*each)
