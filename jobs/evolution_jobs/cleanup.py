"""Delete what a deleted run has left in the store, except what other runs share.

    python -m evolution_jobs.cleanup --spec cleanup.json

The locations of all records below `runs/` say what each run uses (`contract.keys.recorded_prefix`). Cleanup deletes
what only this run has recorded: the manifest of a stage first, so that nobody finds half a stage, and the run's own
records last, so that a killed cleanup can run again. If it does not understand some location below `runs/`, it cannot
know what is shared, and keeps everything.

Pointers to artifacts by name (`runs/<namespace>/<name>/M2`) decide nothing. Those that this run wrote go with it. Those of
a later run of the same name stay, and so does the report beside them.
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
from .contract.credentials import tidy_environment
from .contract.errors import PermanentError
from .contract.keys import MANIFEST, RUNS_PREFIX, recorded_prefix, run_prefix, stage_prefix
from .contract.manifest import Report
from .contract.names import REPORT, Pointer, pointed_artifact, pointers_prefix
from .redaction import redact_output
from .store.base import Store
from .store.open import open_store

log = logging.getLogger(__name__)

SHOWN_UNKNOWN = 3
"""Unknown locations that the report names."""


def clean_up(store: Store, spec: CleanupSpec) -> Report:
    """Delete the run's artifacts. The report counts the stages and models that are deleted and kept.

    Raises StageError.
    """
    records = _read(store, spec)
    own = records.own | {stage_prefix(key) for key in spec.keys}
    pointers, unreadable = _own_pointers(store, spec, records)
    if records.unknown or unreadable:
        return _kept(store, own, records.unknown + unreadable)
    for location in pointers:
        store.delete(location)
    gone = 0
    for prefix in sorted(own - records.shared):
        # Deleting takes a while, and another run may have started to use this in the meantime.
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
    """What lies below `runs/`."""

    own: frozenset[str]
    """Prefixes that this run uses."""
    shared: frozenset[str]
    """Prefixes that other runs use."""
    pointers: list[str]
    """Locations of pointers, and of the report, under this run's name."""
    namesake: bool
    """Whether another run of this name has records."""
    unknown: list[str]
    """Locations that this version does not know."""


def _read(store: Store, spec: CleanupSpec) -> _Records:
    own: set[str] = set()
    shared: set[str] = set()
    pointers: list[str] = []
    unknown: list[str] = []
    namesake = False
    mine, name = run_prefix(spec.run), pointers_prefix(spec.run.namespace, spec.run.name)
    for location, _ in store.list(RUNS_PREFIX):
        recorded = recorded_prefix(location)
        if recorded is not None:
            (own if location.startswith(mine) else shared).add(recorded)
            namesake = namesake or (location.startswith(name) and not location.startswith(mine))
        elif pointed_artifact(location) is not None:
            if location.startswith(name):
                pointers.append(location)
        # S3 consoles create objects that stand for folders.
        elif not location.endswith("/"):
            unknown.append(location)
    return _Records(frozenset(own), frozenset(shared), pointers, namesake, unknown)


def _own_pointers(store: Store, spec: CleanupSpec, records: _Records) -> tuple[list[str], list[str]]:
    """Locations under this run's name: those that go with it, and those that are no pointers."""
    own: list[str] = []
    unreadable: list[str] = []
    for location in records.pointers:
        if location.endswith(f"/{REPORT}"):
            own += [] if records.namesake else [location]
        elif (data := store.read(location)) is not None:
            try:
                own += [location] if Pointer.stored(data).run == spec.run else []
            except ValidationError:
                unreadable.append(location)
    return own, unreadable


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
    """Clean up after the run that the spec names. The exit code says whether a retry may help."""
    tidy_environment()
    redact_output()
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
