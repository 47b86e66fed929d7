"""What `evolution run` shows on a terminal, and what it prints without one."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from evolution_operator.api.status import RunStatus, StageProgress, StageStatus
from evolution_operator.cli.display import Display, amount
from evolution_operator.planner.actions import Event, Plan
from rich.console import Console

from tests.support.terminal import FinalScreen, run_on_terminal

PREAMBLE = """
import fcntl, os, struct, sys, termios, threading, time
from evolution_operator.api.status import RunStatus, StageProgress, StageStatus
from evolution_operator.cli.display import Display
from evolution_operator.planner.actions import Event, Plan
from rich.console import Console

class Busy(Console):
    '''A machine that is busy: between drawing and writing, all other threads have their turn.'''
    def __exit__(self, *error):
        if threading.current_thread() is threading.main_thread():
            time.sleep(BUSY)
        super().__exit__(*error)

def plan(*stages, events=()):
    stages = [
        StageStatus(id=id_, name="generate", state=state, progress=StageProgress(done=done, total=9, unit="rows"))
        for id_, state, done in stages
    ]
    finished = sum(stage.state == "Succeeded" for stage in stages)
    events = tuple(Event("Normal", *event) for event in events)
    return Plan((), RunStatus(phase="Running", progress=f"{finished}/{len(stages)}", stages=stages), events, None)

def stages(current, done, state="Running"):
    return [
        (f"stage-{n}", "Succeeded" if n < current else state if n == current else "Waiting", done) for n in range(COUNT)
    ]

def resize(columns):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    os.write(1, f"\\x1b[8;30;{columns}t".encode())
"""
RUN = """
with Display(Busy()) as display:
    display.print_line("artifacts in file:///" + "a-long-path/" * 20)
    for n in range(COUNT):
        display.watch(plan(*stages(n, 0), events=[("StageStarted", f"stage-{n}")]))
        RESIZE
        for done in range(1, 4):
            display.watch(plan(*stages(n, done)))
        sys.stderr.write(f"log line {n}\\n")
        display.watch(plan(*stages(n + 1, 0, "Waiting"), events=[("StageSucceeded", f"stage-{n} " + "long words " * 15)]))
    LAST
print("the end")
"""


def run_display(
    count: int = 4, busy: float = 0.0, resize: str = "pass", last: str = "pass", columns: int = 110
) -> FinalScreen:
    script = PREAMBLE.replace("BUSY", str(busy)) + RUN.replace("RESIZE", resize).replace("LAST", last)
    return run_on_terminal(script.replace("COUNT", str(count)), columns)


def check_lines(screen: FinalScreen, count: int) -> None:
    """Every line was printed once, in order, and no progress row is left."""
    text = "\n".join(screen.lines)
    assert screen.code == 0, text
    expected = []
    for n in range(count):
        expected += [f"StageStarted stage-{n}", f"log line {n}", f"StageSucceeded stage-{n}"]
    found = re.findall(r"StageStarted +stage-\d+|log line \d+|StageSucceeded +stage-\d+", text)
    assert [re.sub(" +", " ", each) for each in found] == expected
    assert not re.search(r"━|rows|\d stages", text), text
    assert screen.lines[-1] == "the end"
    assert not screen.cursor_hidden


@pytest.mark.parametrize("columns", [110, 80, 50])
def test_no_line_is_lost_and_no_progress_row_stays(columns: int) -> None:
    check_lines(run_display(12, columns=columns), 12)


def test_a_busy_machine_loses_no_line() -> None:
    """`StageSucceeded generate-1` was lost and a row `run 2/7 stages` stayed: two threads drew at the same time."""
    check_lines(run_display(2, busy=0.15), 2)


def test_a_resized_terminal_keeps_no_progress_row() -> None:
    check_lines(run_display(6, resize="resize((70, 110, 160)[n % 3])"), 6)


def test_there_are_rows_for_the_run_and_the_stage_that_runs() -> None:
    screen = run_display(
        3, last="display.watch(plan(*stages(1, 5), events=[('StageStarted', 'stage-1')])); os._exit(0)"
    )
    assert [line.split()[0] for line in screen.lines[-2:]] == ["run", "stage-1"]
    assert "1/3 stages" in screen.lines[-2]
    assert "5/9 rows" in screen.lines[-1]
    assert sum("━" in line for line in screen.lines) == 2


def test_a_long_line_is_not_broken_by_the_display_so_that_it_can_be_copied() -> None:
    screen = run_display(1)
    path = "artifacts in file:///" + "a-long-path/" * 20
    assert screen.lines[:3] == [path[:110], path[110:220], path[220:]]
    (first,) = (n for n, line in enumerate(screen.lines) if "StageSucceeded" in line)
    assert len(screen.lines[first]) == 110


def shown(status: RunStatus, *events: Event) -> str:
    file = io.StringIO()
    with Display(Console(file=file, width=10_000)) as display:
        display.watch(Plan((), status, events, None))
    return file.getvalue()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_line_is_broken_without_a_terminal(stream: str) -> None:
    message = "word " * 60 + "end"
    script = (
        "from evolution_operator.cli.console import open_console\n"
        "from rich.table import Table\n"
        f"console = open_console(stderr={stream == 'stderr'})\n"
        f"table = Table('stage', 'message'); table.add_row('sft', {message!r})\n"
        f"console.print({message!r}); console.print(table)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert getattr(result, stream).count(message) == 2


def test_a_terminal_keeps_its_width() -> None:
    script = "from evolution_operator.cli.console import open_console; print(open_console().width)"
    assert run_on_terminal(script, columns=93).lines == ["93"]


FAILED = StageStatus(id="sft", name="sft", state="Failed", reason="DataEmpty", message="nothing is left of data.seed")
EVENTS = (
    Event("Warning", "StageFailed", "sft: DataEmpty: nothing is left of data.seed", brief="sft: DataEmpty"),
    Event("Warning", "Failed", "stage sft: DataEmpty: nothing is left of data.seed", brief="1/7 stages finished"),
)


def test_the_failure_that_ended_the_run_is_brief_because_the_closing_page_shows_it_in_full() -> None:
    text = shown(RunStatus(phase="Failed", progress="1/7", stages=[FAILED]), *EVENTS)
    assert "sft: DataEmpty" in text
    assert "nothing is left" not in text


def test_a_failure_that_does_not_end_the_run_is_shown_in_full_at_once() -> None:
    text = shown(RunStatus(phase="Running", progress="1/7", stages=[FAILED]), EVENTS[0])
    assert "nothing is left of data.seed" in text


def test_an_amount_has_no_time_if_none_is_known() -> None:
    stage = StageStatus(id="reflect-1", name="reflect", shards="0/2")
    progress = StageProgress(done=1, total=14, unit="rows")
    assert amount(stage.model_copy(update={"progress": progress})) == "1/14 rows, shards 0/2"
    later = progress.model_copy(update={"eta_seconds": 40})
    assert amount(stage.model_copy(update={"progress": later})) == "1/14 rows, shards 0/2, 40 s left"
