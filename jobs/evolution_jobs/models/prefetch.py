"""Fetches a pinned model of the hub into the hub's cache on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .files import FIELD, hub_files
from .hub import explained, pin


class Fetched(NamedTuple):
    """A file that is in the cache now."""

    size: int
    """Bytes."""
    total: int
    """Files of the model in all."""


def prefetch(reference: str) -> Iterator[Fetched]:
    """Fetch the files that stages read of `hf://owner/model@commit`, one after the other. Those in the cache are not fetched
    again. Raises as `pin` does.
    """
    import huggingface_hub

    pinned = pin(reference, None, "model", None, FIELD)
    files = hub_files(reference, pinned)
    for name in files.read:
        with explained(f"{FIELD}.uri: {reference}: {name}"):
            huggingface_hub.hf_hub_download(pinned.name, name, revision=pinned.commit)
        yield Fetched(files.sizes[name], len(files.read))
