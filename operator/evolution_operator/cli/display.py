"""Progress of a run: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..api.status import RunStatus, StageStatus
from ..planner.actions import Plan

LINE_SECONDS = 15.0
"""Seconds between two progress lines of a stage if there is no terminal."""


class Display:
    """Shows events as lines and progress as bars; without a terminal, progress as a line from time to time.

    Only the caller's thread draws. The cursor moves relative to the last drawing, so a second thread could erase a line
    above the bars or leave an old bar there.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_interactive and console.file.isatty()
        self._bars = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[amount]:<34}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not self._live,
        )
        self._whole: TaskID | None = None
        self._stages: dict[str, TaskID] = {}
        self._spoke: dict[str, float] = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def print_line(self, line: str) -> None:
        """Print one line above the bars. The terminal wraps it, so copying it gives the whole line."""
        # soft_wrap would let the bars run over the terminal's edge. print ignores no_wrap of a bare Text, not of a
        # group.
        self._console.print(Group(Text(line, no_wrap=True, overflow="ignore")), crop=False)

    def watch(self, plan: Plan) -> None:
        """Show a plan: its events, then the progress of each stage."""
        status = plan.status
        for event in plan.events:
            mark = "!" if event.type == "Warning" else " "
            # The closing page shows the full message.
            message = (event.brief or event.message) if status.phase == "Failed" else event.message
            self.print_line(f"{time.strftime('%H:%M:%S')} {mark} {event.reason:<15} {message}")
        finished = sum(stage.state == "Succeeded" for stage in status.stages)
        if self._whole is None:
            self._whole = self._bars.add_task("run", total=len(status.stages), amount="")
        self._bars.update(self._whole, completed=finished, total=len(status.stages), amount=f"{status.progress} stages")
        for stage in status.stages:
            self._stage(stage)
        self._bars.refresh()

    def _stage(self, stage: StageStatus) -> None:
        task = self._stages.get(stage.id)
        if stage.state != "Running":
            if task is not None:
                self._bars.remove_task(self._stages.pop(stage.id))
            return
        if task is None:
            task = self._stages[stage.id] = self._bars.add_task(stage.id, total=None, amount="starting")
            self._spoke[stage.id] = time.monotonic()
        progress = stage.progress
        if progress is None:
            self._bars.update(task, amount=stage.reason or "starting")
            return
        self._bars.update(task, completed=progress.done, total=progress.total, amount=amount(stage))
        if not self._live and time.monotonic() - self._spoke[stage.id] >= LINE_SECONDS:
            self._spoke[stage.id] = time.monotonic()
            self.print_line(f"{time.strftime('%H:%M:%S')}   {stage.id}: {amount(stage)}")


def amount(stage: StageStatus) -> str:
    """`12/36 rows, shards 0/2, 40 s left`."""
    progress = stage.progress
    if progress is None:
        return ""
    parts = [f"{progress.done}/{progress.total} {progress.unit}"]
    if stage.shards:
        parts.append(f"shards {stage.shards}")
    if progress.eta_seconds is not None and progress.done < progress.total:
        parts.append(f"{progress.eta_seconds} s left")
    return ", ".join(parts)


def one_line(status: RunStatus) -> str:
    """Phase, stage and progress on one line."""
    return " ".join(part for part in (status.phase, status.progress or "", status.stage or "") if part)
