"""The model cache: a volume that keeps base models between Pods (`modelCache`).

Copied models lie below `files`, each file under its sha256. Models of the hub lie below `hub`, in the hub's own layout.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.keys import MODELS_PREFIX
from ..contract.manifest import File
from ..contract.variables import HUB_CACHE_VARIABLE, MODEL_CACHE_VARIABLE
from ..store.base import Store, disk_error, file_sha256

log = logging.getLogger(__name__)

ABANDONED = 3600.0
"""Seconds after which a part of a file that nobody has written to is taken for the rest of a process that was killed."""
_PART = re.compile(r"\.?[0-9a-f]{64}\..+")
"""A file that is fetched, and that of the store while it is not whole."""


class ModelCache:
    """Files by their sha256, each whole or not there. Pods may write at the same time."""

    def __init__(self, root: Path) -> None:
        self._files, self._hub = root / "files", root / "hub"

    @classmethod
    def mounted(cls) -> ModelCache | None:
        """The cache of this Pod; None without one. Raises PermanentError `ModelCacheUnwritable`."""
        if not (root := os.environ.get(MODEL_CACHE_VARIABLE)):
            return None
        cache = cls(Path(root))
        directories = (cache._files, cache._hub)
        try:
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True)
            writable = all(os.access(directory, os.W_OK) for directory in directories)
        except PermissionError:
            writable = False
        except OSError as error:
            raise disk_error(error, root) from error
        if not writable:
            user = f"user {os.getuid()} or group {os.getgid()}"
            raise PermanentError("ModelCacheUnwritable", f"modelCache: let {user} write to the volume (here {root})")
        cache._clear_abandoned()
        return cache

    def keeps(self, file: File) -> bool:
        """Whether a file belongs to a copied base model. Others are small, or used once."""
        return file.location.startswith(MODELS_PREFIX)

    def provide(self, store: Store, file: File) -> Path:
        """The file in the cache, verified; fetched if it is not there or has changed.

        Raises what `Store.get_file` raises.
        """
        kept = self._files / file.sha256
        changed = kept.exists() and file_sha256(kept) != file.sha256
        if kept.exists() and not changed:
            return kept
        if changed:
            log.warning("model cache: %s has changed on the volume and is fetched again", kept.name)
        fetched = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}")
        try:
            store.get_file(file.location, fetched, file.sha256)
            # Another Pod may have been faster, and a stage may have its file mapped, which NFS takes away once replaced.
            if changed or not kept.exists():
                fetched.rename(kept)
        finally:
            fetched.unlink(missing_ok=True)
        return kept

    def _clear_abandoned(self) -> None:
        for part in self._parts():
            with suppress(OSError):  # another Pod has removed it, or may
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
                    log.warning("model cache: removed %s, which a killed process has left", part.name)

    def _parts(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from (path for path in self._files.iterdir() if _PART.fullmatch(path.name))
            # The hub's library never takes up a part that another process has begun.
            yield from self._hub.glob("*/blobs/*.incomplete")


def usable_cache(kind: str) -> tuple[ModelCache | None, bool]:
    """The cache of this Pod, and whether a stage goes without one because it cannot write there.

    To fill the cache is prewarm's purpose. Any other stage can fetch the model into its own scratch. Must come before the
    first import of `huggingface_hub`, which then reads where its cache is. Raises PermanentError `ModelCacheUnwritable`
    for prewarm.
    """
    try:
        return ModelCache.mounted(), False
    except PermanentError as error:
        if kind == "prewarm":
            raise
        log.warning("%s; this stage fetches the model for itself", error)
        os.environ.pop(HUB_CACHE_VARIABLE, None)
        return None, True
