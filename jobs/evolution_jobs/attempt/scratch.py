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

_mine: set[Path] = set()
"""Directories of this process."""


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory below TMPDIR, removed at the end.

    Raises PermanentError `ScratchUnwritable`, TransientError `DiskFull`.
    """
    directory, lock = _make()
    # Locked before the directory is made and removed after it, so at every moment an unlocked one is nobody's.
    with lock:
        _mine.add(directory)
        try:
            yield directory
        finally:
            _remove(directory)
            _mine.discard(directory)


def discard() -> None:
    """Remove this process's directories: for a process that ends at once, in the middle of its work."""
    for directory in list(_mine):
        # Another thread may write there still.
        for _ in range(3):
            _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    # What could not be removed stays known as abandoned.
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
            # Another process took it for abandoned before it was locked.
            lock.close()
            return _make()
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
                _remove(lock.with_suffix(""))
        except OSError:  # in use, another user's, or just removed by another process
            continue
