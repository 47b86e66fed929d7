"""Which stage's logs are meant, and which of its Pods or files have them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.stage import OBSERVING

from ...api.status import RunStatus, StageStatus


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    stage: str | None = None
    """Id of the stage; None leaves the choice to `choose_stage`."""
    attempt: int | None = None
    """Number of the attempt; None takes the newest."""
    previous: bool = False
    """True takes the log before the newest one."""
    tail: int | None = None
    """Lines from the end of each log; None takes all."""


@dataclass(frozen=True)
class Source:
    """One log: that of a Pod, or a file."""

    name: str
    """Name of the Pod, or path of the file."""
    stage: str
    attempt: int
    index: int
    """The shard's or node's index; 0 if there is one."""
    made: str
    """When it was made: comparable among the sources of a run."""
    started: bool = True
    """Whether it has a log."""
    ended: bool = False
    """Whether nothing will be added."""
    waits: str = ""
    """Why it has not started."""


def choose_stage(status: RunStatus, wanted: str | None) -> StageStatus:
    """The stage whose logs to show: the one that is named, that runs, that has failed, or that ended last.

    Raises PermanentError `LogsMissing` if the run has no such stage, or none has started.
    """
    stages = status.stages
    if wanted is not None:
        found = status.stage_by_id().get(wanted)
        if found is None:
            known = ", ".join(stage.id for stage in stages) or "none yet"
            raise PermanentError("LogsMissing", f"the run has no stage {wanted}; its stages: {known}")
        return found
    running = [stage for stage in stages if stage.state == "Running"]
    # An evaluation runs beside the next round, which the run waits for.
    running.sort(key=lambda stage: stage.name in OBSERVING)
    failed = [stage for stage in stages if stage.state == "Failed"]
    stopped = [stage for stage in stages if stage.state != "Succeeded" and stage.attempts]
    done = [stage for stage in stages if stage.state == "Succeeded" and stage.attempts and not stage.cached]
    done.sort(key=lambda stage: stage.finished_at.isoformat() if stage.finished_at else "", reverse=True)
    for stage in (*running, *failed, *stopped, *done):
        return stage
    cached = sum(stage.cached for stage in stages)
    why = f"; {cached} of {len(stages)} stages were computed by earlier runs" if cached else ""
    raise PermanentError("LogsMissing", f"no stage of the run has started: it is {status.phase}{why}")


def choose_sources(found: Iterable[Source], wanted: Wanted) -> list[Source]:
    """One source for each index: the newest one of the attempt, or the one before it."""
    sources = sorted(found, key=lambda source: (source.attempt, source.made))
    if wanted.attempt is not None:
        sources = [source for source in sources if source.attempt == wanted.attempt]
    if not sources:
        return []
    by_index: dict[int, list[Source]] = {}
    for source in sources:
        by_index.setdefault(source.index, []).append(source)
    if wanted.previous:
        return [each[-2] for _, each in sorted(by_index.items()) if len(each) > 1]
    # An older attempt may have had more shards.
    newest = sources[-1].attempt
    return [each[-1] for _, each in sorted(by_index.items()) if each[-1].attempt == newest]


def choose_current(found: Sequence[Source], wanted: Wanted) -> list[Source]:
    """Of each stage, what `choose_sources` takes."""
    stages = dict.fromkeys(source.stage for source in found)
    return [each for stage in stages for each in choose_sources([s for s in found if s.stage == stage], wanted)]


def prefixes(sources: Sequence[Source]) -> dict[str, str]:
    """By name of the source: what stands before each of its lines. Empty if there is one source."""
    several = len({source.stage for source in sources}) > 1
    if several:
        return {source.name: f"[{source.stage} {source.index}] " for source in sources}
    return {source.name: f"[{source.index}] " if len(sources) > 1 else "" for source in sources}


def why_not_this(stage: str, wanted: Wanted, found: Sequence[Source]) -> PermanentError | None:
    """The error if a stage has logs, and not the one that is wanted; None if it has none at all."""
    if wanted.previous and found:
        return PermanentError("LogsMissing", f"stage {stage} has no log before the newest one")
    if wanted.attempt is not None and found:
        numbers = ", ".join(map(str, sorted({source.attempt for source in found})))
        return PermanentError(
            "LogsMissing", f"stage {stage} has no log of attempt {wanted.attempt}; there are: {numbers}"
        )
    return None


def why_none(stage: StageStatus, wanted: Wanted, found: Sequence[Source], place: str) -> PermanentError:
    """The error if a stage has no such log. `place` says where it would be, and why it may be gone."""
    if error := why_not_this(stage.id, wanted, found):
        return error
    if stage.cached:
        return PermanentError("LogsMissing", f"stage {stage.id} was computed by an earlier run, which has its log")
    said = ": ".join(part for part in (stage.reason, stage.message) if part)
    state = f"it is {stage.state}" + (f" ({said})" if said else "")
    if not stage.attempts:
        return PermanentError("LogsMissing", f"stage {stage.id} has not started: {state}")
    return PermanentError("LogsMissing", f"no log of stage {stage.id} is left{place}; {state}")
