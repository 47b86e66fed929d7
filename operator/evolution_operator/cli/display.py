"""What a user watches while a run goes on: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..api.status import RunStatus, StageStatus
from ..planner.actions import Plan

LINE_SECONDS = 15.0
"""How often a running stage's progress is printed where there is no terminal."""


class Display:
    """Shows events as lines and progress as bars; without a terminal, progress as a line now and then.

    One thread draws, the caller's: the cursor is moved by what was drawn last, so a second thread that draws between
    another's drawing and its writing would wipe out a line above the bars or leave an old bar there.
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

    def tell(self, line: str) -> None:
        """One line, above the bars; the terminal breaks it, so that it is copied whole."""
        # Not soft_wrap, which would let the bars run over the terminal's edge, too.
        # The group keeps what print drops of a bare Text: that it is not to be broken.
        self._console.print(Group(Text(line, no_wrap=True, overflow="ignore")), crop=False)

    def watch(self, plan: Plan) -> None:
        """Show a plan: its events, then where each stage is."""
        status = plan.status
        for event in plan.events:
            mark = "!" if event.type == "Warning" else " "
            # What ended the run is told in full on the closing page.
            message = (event.brief or event.message) if status.phase == "Failed" else event.message
            self.tell(f"{time.strftime('%H:%M:%S')} {mark} {event.reason:<15} {message}")
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
            self.tell(f"{time.strftime('%H:%M:%S')}   {stage.id}: {amount(stage)}")


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
