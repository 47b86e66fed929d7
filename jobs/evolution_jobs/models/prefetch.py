"""Fetches a pinned model of the hub into the hub's cache on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .files import HubFiles
from .hub import explained, pin


class Fetched(NamedTuple):
    """A file that is in the cache now."""

    name: str
    size: int
    """Bytes."""
    total: int
    """Files of the model in all."""


def prefetch(reference: str) -> Iterator[Fetched]:
    """Fetch the files that stages read of `hf://owner/model@commit`, one after the other. Those in the cache are not fetched
    again. Raises as `pin` does.
    """
    import huggingface_hub

    pinned = pin(reference, None, "model", None, "baseModel")
    if huggingface_hub.is_offline_mode():
        with explained(f"baseModel.uri: {reference}"):
            root = huggingface_hub.snapshot_download(pinned.name, revision=pinned.commit, local_files_only=True)
        present = [path for path in Path(root).iterdir() if path.is_file()]
        yield from (Fetched(path.name, path.stat().st_size, len(present)) for path in present)
        return
    names = HubFiles(reference, pinned).read
    for name in names:
        with explained(f"baseModel.uri: {reference}: {name}"):
            path = huggingface_hub.hf_hub_download(pinned.name, name, revision=pinned.commit)
        yield Fetched(name, Path(path).stat().st_size, len(names))
