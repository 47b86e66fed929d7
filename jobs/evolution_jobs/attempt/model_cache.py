"""The model cache: a volume that keeps copied base models between Pods (`modelCache`). A model of the hub lies there, too,
in the hub's own cache.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.keys import MODELS_PREFIX
from ..contract.manifest import File
from ..contract.variables import MODEL_CACHE_VARIABLE
from ..store.base import Store, disk_error, file_sha256

log = logging.getLogger(__name__)

ABANDONED = 3600.0
"""Seconds after which a file that nobody has written to is taken for the rest of a process that was killed."""


class ModelCache:
    """Files by their sha256, each whole or not there. Pods may write at the same time."""

    def __init__(self, root: Path) -> None:
        self._files = root / "files"

    @classmethod
    def mounted(cls) -> ModelCache | None:
        """The cache of this Pod; None without one. Raises PermanentError `ModelCacheUnwritable`."""
        if not (root := os.environ.get(MODEL_CACHE_VARIABLE)):
            return None
        cache = cls(Path(root))
        try:
            cache._files.mkdir(parents=True, exist_ok=True)
            cache._clear_abandoned()
            writable = os.access(cache._files, os.W_OK)
        except PermissionError:
            writable = False
        except OSError as error:
            raise disk_error(error, root) from error
        if not writable:
            user = f"user {os.getuid()} or group {os.getgid()}"
            raise PermanentError("ModelCacheUnwritable", f"modelCache: let {user} write to the volume (here {root})")
        return cache

    def keeps(self, file: File) -> bool:
        """Whether a file belongs to a copied base model. Others are small, or used once."""
        return file.location.startswith(MODELS_PREFIX)

    def provide(self, store: Store, file: File) -> Path:
        """The file in the cache, verified; fetched if it is not there or has changed.

        Raises what `Store.get_file` raises.
        """
        kept = self._files / file.sha256
        if kept.exists():
            if file_sha256(kept) == file.sha256:
                return kept
            log.warning("model cache: %s has changed on the volume and is fetched again", kept.name)
        store.get_file(file.location, kept, file.sha256)
        return kept

    def _clear_abandoned(self) -> None:
        for part in self._files.glob(".*"):
            with suppress(FileNotFoundError):  # its writer, or another Pod
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
                    log.warning("model cache: removed %s, which a killed process has left", part.name)
