"""Delete what a deleted run has left in the store, but for what other runs share.

    python -m evolution_jobs.cleanup --spec cleanup.json

Which stages are a run's own follows from the records `runs/<namespace>/<name>/run.json`: a stage that no other record
names is deleted, manifest first, so that nobody finds half of one; the run's own record goes last, so that a cleanup
that was killed can be run again. Where any record cannot be read nothing is deleted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from pydantic import ValidationError

from .attempt.failures import failure_report, invalid_fields
from .contract.cleanup import CleanupSpec
from .contract.errors import PermanentError
from .contract.keys import manifest_path, run_record_path, stage_prefix
from .contract.manifest import Report, RunRecord
from .runner import report_end
from .store.base import Store
from .store.open import open_store

log = logging.getLogger(__name__)

RUNS = "runs/"
RECORD = "/run.json"


def clean_up(store: Store, spec: CleanupSpec) -> Report:
    """Delete the run's artifacts; how many stages went, and how many are kept because others share them.

    Raises StageError.
    """
    own_location = run_record_path(spec.run)
    own = _record(store, own_location)
    if own is not None and own.run != spec.run:
        # A newer run of that name has taken the record over, and it decides what that one needs.
        own = None
    named = {*spec.keys, *(stage.key for stage in own.stages.values())} if own else set(spec.keys)
    shared: set[str] = set()
    for location, _ in store.list(RUNS):
        if location.endswith(RECORD) and not (own and location == own_location):
            record = _record(store, location)
            shared |= {stage.key for stage in record.stages.values()} if record else set()
    gone = sorted(named - shared)
    for key in gone:
        store.delete(manifest_path(key))
        store.delete(stage_prefix(key))
    if own is not None:
        store.delete(own_location.removesuffix("run.json"))
    kept = len(named & shared)
    message = f"{len(gone)} stages deleted from {store.uri}; {kept} are shared with other runs and stay"
    return Report(reason="CleanedUp", message=message, counts={"deleted": len(gone), "shared": kept})


def _record(store: Store, location: str) -> RunRecord | None:
    stored = store.read(location)
    if stored is None:
        return None
    try:
        return RunRecord.model_validate_json(stored.data)
    except ValidationError as error:
        raise PermanentError(
            "RecordInvalid",
            f"{store.uri}/{location} cannot be read, so nobody knows which stages it shares: repair or delete it",
        ) from error


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
    report_end(report)
    return code


if __name__ == "__main__":
    sys.exit(main())
