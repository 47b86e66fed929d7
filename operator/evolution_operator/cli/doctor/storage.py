"""What a trial of the storage means. Pure."""

from __future__ import annotations

from evolution_jobs.store.trial import StoreTrial

from .check import Check, failed, ok, size, skipped, warning

STEPS = {
    "list": ("storage", "reached and listed"),
    "write": ("storage: write", "an object was written"),
    "read": ("storage: read", "it was read back"),
    "create": ("storage: conditional write", "a second write of the same object is refused"),
    "delete": ("storage: delete", "what was written is deleted"),
}
"""By step of the trial: the check's name, and what it means that it worked."""
SKEW_WARNING, SKEW_FAILED = 60.0, 900.0
"""Seconds by which clocks may differ. S3 refuses signatures after a quarter of an hour."""
LEAST_FREE = 1 << 30


def check_storage(trial: StoreTrial, place: str = "") -> list[Check]:
    """The checks of a storage. `place` says from where it was tried, for the names."""
    checks = []
    for step, (name, words) in STEPS.items():
        full = f"{name}{place}"
        if step in trial.worked:
            checks.append(ok(full, f"{words}: {trial.uri}" if step == "list" else words))
        elif step in trial.faults:
            checks.append(failed(full, trial.faults[step]))
        else:
            checks.append(skipped(full, "not tried, because of what failed before"))
    if trial.left:
        checks.append(
            warning(f"storage: left{place}", f"could not be deleted: {', '.join(trial.left)}", "delete it by hand")
        )
    checks.append(check_clock(trial.ahead, f"storage: clock{place}"))
    if trial.free is not None:
        found = f"{size(trial.free)} free in {trial.uri}"
        few = trial.free < LEAST_FREE
        checks.append((warning if few else ok)(f"storage: space{place}", found))
    return checks


def check_clock(ahead: float | None, name: str) -> Check:
    """How far this machine's clock is from that of the storage."""
    if ahead is None:
        return skipped(name, "the time of the storage is not known")
    if abs(ahead) < SKEW_WARNING:
        return ok(name, "it agrees with that of the storage")
    found = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of the storage"
    state = failed if abs(ahead) >= SKEW_FAILED else warning
    return state(
        name, f"{found}; S3 refuses signatures from {SKEW_FAILED:.0f} s on", "set the clock of this machine (NTP)"
    )
