"""A stage's private directory, and the removal of those that killed processes have left."""

from __future__ import annotations

import errno
import fcntl
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..contract.errors import PermanentError
from ..store.base import disk_error

PREFIX = "evolution-stage-"
LOCK = ".lock"
"""Suffix of the file beside a directory that its process holds locked; the kernel lets go of it when that one dies."""


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory below TMPDIR, removed at the end.

    Raises PermanentError `ScratchUnwritable`, TransientError `DiskFull`.
    """
    directory, lock = _make()
    # Locked before the directory is made and removed after it, so at every moment an unlocked one is nobody's.
    with lock:
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _make() -> tuple[Path, IO[bytes]]:
    try:
        parent = Path(tempfile.gettempdir())
        remove_abandoned(parent)
        directory = parent / f"{PREFIX}{secrets.token_hex(8)}"
        lock = directory.with_suffix(LOCK).open("xb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory.mkdir(mode=0o700)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, "TMPDIR") from error
        raise PermanentError(
            "ScratchUnwritable", f"no directory for temporary files can be made ({error}): set TMPDIR to one"
        ) from error
    return directory, lock


def remove_abandoned(parent: Path) -> None:
    """Remove scratch directories whose process was killed: they can hold gigabytes."""
    for lock in parent.glob(f"{PREFIX}*{LOCK}"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
        except OSError:  # in use, another user's, or just removed by another process
            continue
