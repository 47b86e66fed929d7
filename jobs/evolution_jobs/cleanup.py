"""Delete what a deleted run has left in the store, but for what other runs share.

    python -m evolution_jobs.cleanup --spec cleanup.json

What a run has follows from the names of its records below `runs/` (`contract.keys.recorded_prefix`), and so does what
others share with it. What no other run has recorded is deleted, manifest first, so that nobody finds half of a stage;
the run's own records go last, so that a cleanup that was killed can be run again. Where something lies among the records
whose name says nothing to this version, nothing is known to be the run's alone, and all is kept.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from .attempt.failures import failure_report, invalid_fields
from .attempt.report import write_report
from .contract.cleanup import CleanupSpec
from .contract.errors import PermanentError
from .contract.keys import MANIFEST, RUNS_PREFIX, recorded_prefix, run_prefix, stage_prefix
from .contract.manifest import Report
from .store.base import Store
from .store.open import open_store

log = logging.getLogger(__name__)

SHOWN_UNKNOWN = 3
"""Locations that nobody can tell the meaning of, as many as the report names."""


def clean_up(store: Store, spec: CleanupSpec) -> Report:
    """Delete the run's artifacts; how many stages and models went, and how many are kept.

    Raises StageError.
    """
    records = _read(store, spec)
    own = records.own | {stage_prefix(key) for key in spec.keys}
    if records.unknown:
        return _kept(store, own, records.unknown)
    gone = 0
    for prefix in sorted(own - records.shared):
        # Deleting takes a while, and another run may have begun meanwhile.
        if prefix not in _read(store, spec).shared:
            store.delete(f"{prefix}{MANIFEST}")
            store.delete(prefix)
            gone += 1
    store.delete(run_prefix(spec.run))
    kept = len(own) - gone
    message = f"{gone} results deleted from {store.uri}; {kept} are shared with other runs and stay"
    return Report(reason="CleanedUp", message=message, counts={"deleted": gone, "shared": kept})


@dataclass(frozen=True)
class _Records:
    """What the records say: prefixes that this run has, and others; and locations whose names say nothing."""

    own: frozenset[str]
    shared: frozenset[str]
    unknown: list[str]


def _read(store: Store, spec: CleanupSpec) -> _Records:
    own: set[str] = set()
    shared: set[str] = set()
    unknown: list[str] = []
    for location, _ in store.list(RUNS_PREFIX):
        recorded = recorded_prefix(location)
        # Consoles make objects that stand for folders.
        if recorded is None and not location.endswith("/"):
            unknown.append(location)
        elif recorded is not None:
            (own if location.startswith(run_prefix(spec.run)) else shared).add(recorded)
    return _Records(frozenset(own), frozenset(shared), unknown)


def _kept(store: Store, own: frozenset[str], unknown: list[str]) -> Report:
    more = f" and {len(unknown) - SHOWN_UNKNOWN} more" if len(unknown) > SHOWN_UNKNOWN else ""
    message = (
        f"nothing is deleted from {store.uri}, because these may be records by which another version of "
        f"evolution-operator shares results: {', '.join(sorted(unknown)[:SHOWN_UNKNOWN])}{more}. Delete them if no such "
        f"run exists; the {len(own)} results of this run then have to be deleted by hand"
    )
    return Report(reason="RecordsUnknown", message=message, counts={"deleted": 0, "shared": len(own)})


def read_spec(path: Path) -> CleanupSpec:
    """The spec in a file. Raises PermanentError `SpecInvalid`."""
    try:
        return CleanupSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PermanentError("SpecInvalid", f"cleanup spec {path}: {error.strerror}") from error
    except ValidationError as error:
        raise PermanentError("SpecInvalid", f"cleanup spec {path}: {invalid_fields(error)}") from error


def main() -> int:
    """Clean up after the run that the spec names; the exit code says whether trying again may help."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m evolution_jobs.cleanup", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    try:
        spec = read_spec(arguments.spec)
        report, code = clean_up(open_store(spec.storage), spec), 0
    except BaseException as error:  # noqa: BLE001 -- the process's edge: whatever it was, it is reported
        report, code = failure_report(None, error)
    write_report(report)
    return code


if __name__ == "__main__":
    sys.exit(main())
