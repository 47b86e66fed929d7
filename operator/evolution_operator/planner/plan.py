"""`plan(run, observed, now)` decides what a run does next. Both executors call it and execute its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.settings import ReflectionSettings
from evolution_jobs.contract.stage import Ahead, Input, Node, StageSpec

from ..api.status import RunStatus, StageStatus
from . import policies
from .actions import Action, Plan, Resume, Start, Stop, Suspend
from .events import events_between
from .graph import build_graph, critical, made_ahead, ranks, shards
from .ledger import Ledger, fold, prepare_report, stopped
from .observed import UNSCHEDULABLE, Attempt, Observed, Published, Run
from .safety import unsafe
from .status import Outlook, derive_status, figures_by_model, rejected_status
from .stopping import early_ending


def plan(run: Run, observed: Observed, now: datetime) -> Plan:
    """Decide the next actions, the status to write and the events to send.

    Level-triggered: the answer follows from the current state, not from the last change, so lost and repeated calls do
    no harm. `observed.previous` is the only memory.
    """
    if observed.invalid is not None:
        status = rejected_status(run, observed, now)
        return Plan((), status, events_between(observed.previous, status), None)
    graph = build_graph(run.spec, dict(run.pins))
    contents = _contents(observed, graph)
    known = resolve_keys(graph, contents)
    published = _published(observed, known)
    ledger = fold(run, observed, graph, known, published, now)
    metrics = figures_by_model(observed, published, ledger.stages.values())
    if (ending := early_ending(run.spec, metrics, ledger.stages)) is not None:
        graph = [node for node in graph if (node.iteration or 0) <= ending.iteration]
        metrics = [entry for entry in metrics if entry.iteration <= ending.iteration]
        ledger = ledger.only(graph)
    keys = resolve_keys(graph, contents if ledger.stages["prepare"].state == "Succeeded" else None)
    started_at = _started_at(run, observed, ledger, now)
    late = _late(run, ledger, started_at, now)
    awaited = critical(graph)
    actions = _actions(run, graph, ledger, keys, awaited, halted=late)
    stages = _after_actions(ledger, actions)
    ordered = [stages[node.id] for node in graph]
    excluded = unsafe(metrics)
    outlook = Outlook(
        late=late,
        stuck=_stuck(graph, ordered, awaited),
        ending=ending,
        champion=policies.champion(metrics, run.spec.evaluation, excluded),
        ineligible=tuple(excluded.values()),
    )
    status = derive_status(run, observed, ordered, contents, metrics, started_at, outlook, now)
    expiry = policies.expiry(run.spec, status.finished_at)
    return Plan(
        actions=actions,
        status=status,
        events=events_between(observed.previous, status),
        wake_at=_wake_at(run, status, expiry, now),
        expired=expiry is not None and expiry <= now,
    )


def _contents(observed: Observed, graph: list[Node]) -> Mapping[str, str] | None:
    """Prepare's content digests: from its attempt's report, from the store, or as remembered for the same key."""
    key = resolve_keys(graph, None)["prepare"]
    memory = observed.previous.stage_by_id().get("prepare") if observed.previous else None
    settled = memory.settled if memory else 0
    if (report := prepare_report(observed, key, settled)) is not None:
        return report.contents
    if key in observed.published and observed.contents:
        return observed.contents
    return observed.previous.contents if observed.previous and memory and memory.key == key else None


def _published(observed: Observed, keys: Mapping[str, str]) -> dict[str, Published]:
    """Finished stages in the store: those the executor has found, and those that prepare reports when it ends.

    Prepare's report counts only in the pass that first sees its end, because a stage may be found corrupt later.
    """
    memory = observed.previous.stage_by_id().get("prepare") if observed.previous else None
    found = dict(observed.published)
    report = prepare_report(observed, keys["prepare"], memory.settled if memory else 0)
    if report is None or (memory is not None and memory.state == "Succeeded" and memory.key == keys["prepare"]):
        return found
    for stage in report.published:
        if stage in keys:
            found.setdefault(
                keys[stage], Published(report.figures.get(stage, {}), report.figure_intervals.get(stage, {}))
            )
    return found


def _started_at(run: Run, observed: Observed, ledger: Ledger, now: datetime) -> datetime:
    """When the run last started: at its creation, at a retry after failure, or when a finished run got more rounds."""
    previous = observed.previous
    if previous is None or previous.started_at is None:
        return now
    retried = previous.phase == "Failed" and run.retry is not None and run.retry != previous.retried
    extended = previous.phase == "Complete" and _unfinished(ledger)
    return now if retried or extended else previous.started_at


def _late(run: Run, ledger: Ledger, started_at: datetime, now: datetime) -> bool:
    """Whether an unfinished run is past its deadline."""
    end = policies.deadline(run.spec, started_at)
    return end is not None and end <= now and _unfinished(ledger)


def _unfinished(ledger: Ledger) -> bool:
    return any(stage.state != "Succeeded" for stage in ledger.stages.values())


def _actions(
    run: Run, graph: list[Node], ledger: Ledger, keys: Mapping[str, str], awaited: frozenset[str], halted: bool
) -> tuple[Action, ...]:
    stops: list[Action] = [Stop(attempt.stage, attempt.number) for attempt in ledger.stale]
    live = ledger.live.values()
    failed = any(ledger.stages[stage].state == "Failed" for stage in awaited)
    if halted or failed:
        return (*stops, *(Stop(attempt.stage, attempt.number) for attempt in live))
    if run.spec.suspend:
        return (*stops, *(Suspend(a.stage, a.number) for a in live if a.state != "suspended"))
    starts = [
        _start(run, graph, node, ledger.stages[node.id], keys, node.id in awaited)
        for node in graph
        if _ready(node, ledger.stages, keys)
    ]
    return (*stops, *_yields(run, awaited, ledger), *starts)


def _yields(run: Run, awaited: frozenset[str], ledger: Ledger) -> Iterable[Action]:
    """Evaluations and judges use spare resources only: one that finds none, or blocks a critical stage, is suspended until the end.

    With Kueue the queue decides instead.
    """
    unfinished = any(ledger.stages[stage].state != "Succeeded" for stage in awaited)
    blocked = any(attempt.stage in awaited and _finds_no_room(attempt) for attempt in ledger.live.values())
    for attempt in ledger.live.values():
        postponed = attempt.stage not in awaited and unfinished and run.spec.queue_name is None
        if attempt.state == "suspended":
            if not postponed:
                yield Resume(attempt.stage, attempt.number)
        elif postponed and (attempt.state == "queued" or blocked):
            yield Suspend(attempt.stage, attempt.number)


def _finds_no_room(attempt: Attempt) -> bool:
    """An attempt with only some shards unscheduled is `running` and says so in its note."""
    return attempt.state == "queued" or (attempt.note is not None and attempt.note[0] == UNSCHEDULABLE)


def _ready(node: Node, stages: Mapping[str, StageStatus], keys: Mapping[str, str]) -> bool:
    return (
        node.id in keys
        and stages[node.id].state == "Waiting"
        and all(stages[upstream].state == "Succeeded" for upstream in node.upstream)
    )


def _start(
    run: Run, graph: list[Node], node: Node, stage: StageStatus, keys: Mapping[str, str], awaited: bool
) -> Start:
    number = stage.settled + 1
    inputs = {}
    for name, source in node.inputs.items():
        upstream, _, output = source.partition("/")
        inputs[name] = Input(stage=upstream, key=keys[upstream], output=output)
    spec = StageSpec(
        run=run.ref,
        stage=node.id,
        kind=node.kind,
        iteration=node.iteration,
        key=keys[node.id],
        attempt=f"{run.attempt_prefix}-{number}",
        settings=node.settings,
        seed=node.seed,
        inputs=inputs,
        storage=run.spec.storage,
        ranks=ranks(run.spec, node.kind),
        ahead=_ahead(made_ahead(run.spec, graph, node), keys),
        graph=graph if node.kind == "prepare" else [],
    )
    return Start(spec=spec, number=number, shards=shards(run.spec, node), critical=awaited)


def _ahead(reflect: Node | None, keys: Mapping[str, str]) -> Ahead | None:
    # Without a key, prepare's result lacks something that only reflect reads.
    if reflect is None or reflect.id not in keys or not isinstance(reflect.settings, ReflectionSettings):
        return None
    return Ahead(stage=reflect.id, key=keys[reflect.id], settings=reflect.settings, seed=reflect.seed)


def _stuck(graph: list[Node], stages: Iterable[StageStatus], awaited: frozenset[str]) -> bool:
    """Whether a failed stage leaves nothing to do: the rounds wait for it, or what is unfinished reads from it.

    A failed evaluation does not stop the rounds: the run fails once nothing else is left.
    """
    states = {stage.id: stage.state for stage in stages}
    lost = {stage for stage, state in states.items() if state == "Failed"}
    if lost & awaited:
        return True
    for node in graph:
        if node.upstream & lost:
            lost.add(node.id)
    # What still runs may end well, although it reads from a stage that has failed since.
    ended = ("Succeeded", "Failed")
    return bool(lost) and all(
        state in ended or (state == "Waiting" and stage in lost) for stage, state in states.items()
    )


def _after_actions(ledger: Ledger, actions: Iterable[Action]) -> dict[str, StageStatus]:
    """The stages after these actions. They are remembered at once, because the next observation may be stale."""
    stages = dict(ledger.stages)
    for action in actions:
        if isinstance(action, Start):
            stage = stages[action.spec.stage]
            started = {"attempts": max(stage.attempts, action.number), "next_attempt_at": None}
            stages[stage.id] = stage.model_copy(update=started)
        elif isinstance(action, Stop):
            attempt = ledger.live.get(action.stage)
            if attempt is not None and attempt.number == action.number:
                stages[action.stage] = stopped(stages[action.stage], attempt)
    return stages


def _wake_at(run: Run, status: RunStatus, expiry: datetime | None, now: datetime) -> datetime | None:
    times = [stage.next_attempt_at for stage in status.stages if stage.next_attempt_at is not None]
    if status.phase not in ("Complete", "Failed"):
        end = policies.deadline(run.spec, status.started_at)
        times += [end] if end else []
    times += [expiry] if expiry else []
    return min((time for time in times if time > now), default=None)
