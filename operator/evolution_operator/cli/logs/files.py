"""Logs of a run's stages on this machine: the files that `evolution run` writes."""

from __future__ import annotations

import fcntl
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError

from ...local.driver import LOCK, log_directory
from ...planner.graph import build_graph
from ...planner.observed import Run
from .choice import Source, Wanted, choose_current, choose_sources, prefixes, why_not_this
from .lines import lines_of, show, tell

LOOK_SECONDS = 0.5
"""Seconds between two looks at files that grow."""
PIECE = 1 << 16


class FileLogs:
    """The log files of one run on this machine."""

    def __init__(self, run: Run) -> None:
        self.name = f"{run.ref.namespace}/{run.ref.name}"
        self.stages = [node.id for node in build_graph(run.spec, {})]
        self.directory = log_directory(run.spec.storage.uri, run.ref.namespace, run.ref.name)

    def sources(self) -> list[Source]:
        """Every log of a stage, in the order of the graph."""
        paths = self.directory.glob("*.log") if self.directory.is_dir() else []
        found = [source for path in paths if (source := self._source(path)) is not None]
        return sorted(found, key=lambda source: (self.stages.index(source.stage), source.attempt, source.index))

    def _source(self, path: Path) -> Source | None:
        for stage in self.stages:
            found = re.fullmatch(rf"{re.escape(stage)}-(\d+)(?:-(\d+))?\.log", path.name)
            if found:
                made = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
                return Source(str(path), stage, int(found[1]), int(found[2] or 0), made)
        return None

    def chosen(self, wanted: Wanted) -> list[Source]:
        """The files to show: those of the stage that is named, or that wrote last. Raises PermanentError `LogsMissing`."""
        if wanted.stage is not None and wanted.stage not in self.stages:
            raise PermanentError(
                "LogsMissing", f"the run has no stage {wanted.stage}; its stages: {', '.join(self.stages)}"
            )
        found = self.sources()
        stage = wanted.stage or max(found, key=lambda source: source.made, default=Source("", "", 0, 0, "")).stage
        own = [source for source in found if source.stage == stage]
        chosen = choose_sources(own, wanted)
        if not chosen:
            if error := why_not_this(stage, wanted, own):
                raise error
            of = f"stage {stage} of {self.name}" if stage else self.name
            words = "run it with `evolution run`, or name a run on a cluster by its name"
            raise PermanentError("LogsMissing", f"{of} has no such log in {self.directory}: {words}")
        return chosen

    def driven(self) -> bool:
        """Whether `evolution run` works on the run now."""
        try:
            with (self.directory / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def print_file_logs(logs: FileLogs, wanted: Wanted) -> None:
    """Print the logs of a stage so far. Raises PermanentError `LogsMissing`."""
    chosen = logs.chosen(wanted)
    before = prefixes(chosen)
    for source in chosen:
        tell(f"{before[source.name]}{source.stage}, attempt {source.attempt}: {source.name}")
        for line in deque(lines_of(_pieces(Path(source.name))), wanted.tail):
            show(before[source.name], line)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def follow_file_logs(logs: FileLogs, wanted: Wanted) -> None:
    """Print logs as they grow, until nothing runs; without a stage, those of all stages that write from now on.

    Raises PermanentError `LogsMissing` if nothing runs and there is no log.
    """
    if not logs.driven():
        print_file_logs(logs, wanted)
        return
    found = logs.sources()
    current = {source.name for source in logs.chosen(wanted)} if found else set()
    # What other stages have written before is of no interest.
    read = {source.name: _end(source, wanted.tail if source.name in current else 0) for source in found}
    while True:
        driven = logs.driven()
        _print_new([source for source in logs.sources() if wanted.stage in (None, source.stage)], wanted, read)
        if not driven:
            return
        time.sleep(LOOK_SECONDS)


def _print_new(sources: Sequence[Source], wanted: Wanted, read: dict[str, int]) -> None:
    """Print whole lines that were added since the last look."""
    for source in choose_current(sources, wanted):
        start = read.get(source.name, 0)
        with Path(source.name).open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        read[source.name] = start + len(whole)
        for line in lines_of([whole]):
            show(f"[{source.stage} {source.index}] ", line)


def _end(source: Source, tail: int | None) -> int:
    """Where the last `tail` lines of a file begin; None is all lines."""
    with Path(source.name).open("rb") as file:
        last = deque(file, tail)
        return file.tell() - sum(map(len, last))
