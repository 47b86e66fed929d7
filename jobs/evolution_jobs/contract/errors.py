"""Domain errors, and the exit codes of a stage's process that stand for them.

65 and 75 are EX_DATAERR and EX_TEMPFAIL of sysexits(3); 143 is 128 + SIGTERM, as a shell reports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

EXIT_PERMANENT = 65
EXIT_TRANSIENT = 75
EXIT_TERMINATED = 143
EXIT_KILLED = (137, -9)
"""SIGKILL, as a shell and the kubelet report it, and as Python does."""

RANK_LOST = "RankLost"
"""Reason of a process that has lost another one with which it trained: an effect, not the cause."""

MEMORY_LEVERS: dict[str, str] = {
    "prepare": "convert JSON documents to JSON Lines, which are streamed, or take fewer records (data.*.samples)",
    "sft": "lower sft.batchSize (and raise sft.gradientAccumulation to match) or sft.maxLength",
    "dpo": "lower dpo.batchSize (and raise dpo.gradientAccumulation to match) or dpo.maxLength",
    "generate": "lower generation.tokenBudget",
    "reflect": "lower reflection.tokenBudget",
    "evaluate": "lower evaluation.tokenBudget",
}
"""By kind of stage: the settings that make it need less memory. prewarm only downloads, and has none."""

FailureKind = Literal["permanent", "transient", "disruption", "out-of-memory"]


class StageError(Exception):
    """A stage cannot continue. `reason` is a constant CamelCase word, `str(error)` one line for the user."""

    exit_code = EXIT_TRANSIENT

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PermanentError(StageError):
    """Trying again cannot help: bad input, bad settings, a checksum that does not match its pin."""

    exit_code = EXIT_PERMANENT


class TransientError(StageError):
    """Trying again may help: a refused connection, a full disk, a throttled store."""

    exit_code = EXIT_TRANSIENT


class Terminated(StageError):
    """The process was asked to stop (SIGTERM, eviction, Ctrl-C) and has saved its progress."""

    exit_code = EXIT_TERMINATED

    def __init__(self, message: str = "asked to stop; progress so far is saved") -> None:
        super().__init__("Terminated", message)


def failure_kind(exit_code: int) -> FailureKind:
    """What the exit code of a stage's process says about a retry.

    Negative codes are signals, as Python's subprocess reports them. SIGKILL does not say who sent it: only the kubelet
    or the kernel knows that memory ran out.
    """
    if exit_code == EXIT_PERMANENT:
        return "permanent"
    if exit_code in (EXIT_TERMINATED, -15, 130, -2):
        return "disruption"
    return "transient"


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, the one that it came from, and so on; each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
