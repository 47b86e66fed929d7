"""One check and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was checked, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""

    def wire(self) -> dict[str, Any]:
        """As JSON-ready values, without an empty remedy."""
        return {name: value for name, value in asdict(self).items() if value != ""}


def ok(name: str, found: str) -> Check:
    """It is as it should be."""
    return Check(name, "ok", found)


def warning(name: str, found: str, remedy: str = "") -> Check:
    """A run may work, but not well, or not in every case."""
    return Check(name, "warning", found, remedy)


def failed(name: str, found: str, remedy: str = "") -> Check:
    """No run can work."""
    return Check(name, "failed", found, remedy)


def skipped(name: str, found: str, remedy: str = "") -> Check:
    """It could not be checked, or need not be."""
    return Check(name, "skipped", found, remedy)


def summary(checks: Iterable[Check]) -> str:
    """`5 ok, 1 warning, 0 failed, 2 skipped`."""
    states = [check.state for check in checks]
    known: tuple[State, ...] = ("ok", "warning", "failed", "skipped")
    return ", ".join(f"{states.count(state)} {state}" for state in known)


def size(amount: float) -> str:
    """Bytes for people: `3.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
