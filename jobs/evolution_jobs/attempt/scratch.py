"""A stage's private directory, and the removal of directories that killed processes have left."""

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
"""Suffix of the lock file beside a directory. Its process holds the lock, and the kernel releases it if that dies."""

_mine: set[Path] = set()
"""Directories of this process."""


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory in TMPDIR, removed at the end.

    Raises PermanentError `ScratchUnwritable`, TransientError `DiskFull`.
    """
    directory, lock = _make()
    # The lock exists before the directory and is removed after it, so a directory without a lock is always abandoned.
    with lock:
        _mine.add(directory)
        try:
            yield directory
        finally:
            _remove(directory)
            _mine.discard(directory)


def discard() -> None:
    """Remove this process's directories, if it ends at once in the middle of its work."""
    for directory in list(_mine):
        # Another thread may still write there.
        for _ in range(3):
            _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    # If the directory could not be removed, the lock file still marks it as abandoned.
    if not directory.exists():
        directory.with_suffix(LOCK).unlink(missing_ok=True)


def _make() -> tuple[Path, IO[bytes]]:
    try:
        parent = Path(tempfile.gettempdir())
        remove_abandoned(parent)
        directory = parent / f"{PREFIX}{secrets.token_hex(8)}"
        lock = directory.with_suffix(LOCK).open("xb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(lock.name).exists():
            # Another process took it for abandoned before it was locked, and removed it.
            lock.close()
            return _make()
        directory.mkdir(mode=0o700)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_error(error, "TMPDIR") from error
        raise PermanentError(
            "ScratchUnwritable", f"cannot make a directory for temporary files ({error}): set TMPDIR to a writable one"
        ) from error
    return directory, lock


def remove_abandoned(parent: Path) -> None:
    """Remove scratch directories of killed processes: they can hold gigabytes."""
    for lock in parent.glob(f"{PREFIX}*{LOCK}"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock.with_suffix(""))
        except OSError:  # in use, another user's, or just removed by another process
            continue
