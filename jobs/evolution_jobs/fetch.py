"""Fetch files of a storage, each checked by its digest. The init container of a Pod that serves models runs it.

    python -m evolution_jobs.fetch files.json DIRECTORY

files.json has the storage and the files: their path below the directory, their location in the storage, their sha256.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from .attempt.failures import invalid_fields
from .contract.credentials import tidy_environment
from .contract.document import Document
from .contract.errors import PermanentError, StageError
from .contract.locations import Storage
from .contract.manifest import Digest
from .redaction import redact_output
from .store.base import Store, inside
from .store.open import open_store


class Wanted(Document):
    """A file to fetch."""

    path: str
    """Below the directory."""
    location: str
    """Below the storage's URI."""
    sha256: Digest


class FetchSpec(Document):
    """Files of one storage."""

    storage: Storage
    files: list[Wanted]


def fetch(store: Store, spec: FetchSpec, directory: Path) -> None:
    """Copy the files that are not there yet. Raises what the store raises."""
    for file in spec.files:
        target = inside(directory, file.path)
        # Files appear once they are whole, so those of a container that was restarted are kept.
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            store.get_file(file.location, target, file.sha256)


def main() -> int:
    """Fetch; returns the exit code."""
    parser = argparse.ArgumentParser(description="Fetch files of a storage, each checked by its digest.")
    parser.add_argument("spec", type=Path, help="files.json")
    parser.add_argument("directory", type=Path, help="where the files go")
    arguments = parser.parse_args()
    tidy_environment()
    redact_output()
    try:
        spec = _read(arguments.spec)
        fetch(open_store(spec.storage), spec, arguments.directory)
    except StageError as error:
        print(f"error: {error.reason}: {error}", file=sys.stderr)  # noqa: T201 -- for people who read the Pod's log
        return error.exit_code
    return 0


def _read(path: Path) -> FetchSpec:
    try:
        return FetchSpec.stored(path.read_bytes())
    except OSError as error:
        raise PermanentError("SpecInvalid", f"{path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise PermanentError("SpecInvalid", f"{path}: {invalid_fields(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
