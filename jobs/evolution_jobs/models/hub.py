"""The Hugging Face Hub: pins models and data sets to a commit, and explains errors to the user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from ..contract.errors import PermanentError, StageError, TransientError

_URI = re.compile(r"^hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class Pinned(NamedTuple):
    """A repository of the hub at one commit."""

    name: str
    commit: str

    @property
    def uri(self) -> str:
        """A reference that always means the same content."""
        return f"hf://{self.name}@{self.commit}"


def pin(uri: str, revision: str | None, kind: Literal["model", "dataset"], token: str | None, field: str) -> Pinned:
    """The commit of `hf://owner/name[@revision]`; `revision` takes precedence over the URI's.

    Offline (`HF_HUB_OFFLINE`), it is the commit in the cache. Raises PermanentError (`HubMissing`, `HubDenied`,
    `HubOffline`, `HubInvalid`) or TransientError `HubUnreachable`, naming `field`.
    """
    match = _URI.match(uri)
    if match is None:
        raise PermanentError("HubInvalid", f"{field}.uri: {uri} is not of the form hf://owner/name")
    name, wanted = match[1], revision or match[2]
    if wanted and _COMMIT.match(wanted):
        return Pinned(name, wanted)
    import huggingface_hub

    with explained(f"{field}.uri: {uri}"):
        if huggingface_hub.is_offline_mode():
            path = huggingface_hub.snapshot_download(name, repo_type=kind, revision=wanted, local_files_only=True)
            return Pinned(name, Path(path).name)
        info = huggingface_hub.HfApi(token=token).repo_info(name, repo_type=kind, revision=wanted)
        return Pinned(name, str(info.sha))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of the hub into one line for the user."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except (OSError, HTTPError, HfHubHTTPError, HFValidationError) as error:
        raise _explain(error, what) from error


def _explain(error: Exception, what: str) -> StageError:
    from huggingface_hub import errors

    words = " ".join(str(error).split())[:300]
    if isinstance(error, errors.GatedRepoError):
        return PermanentError(
            "HubDenied", f"{what} is gated: accept its terms on the hub and give its token (HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return PermanentError("HubMissing", f"{what} has no such revision: correct it")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "does not exist, or is private and the token (HF_TOKEN) may not read it"
        return PermanentError("HubMissing", f"{what} {hint}")
    if isinstance(error, errors.HFValidationError):
        return PermanentError("HubInvalid", f"{what}: {words}")
    if os.environ.get("HF_HUB_OFFLINE") and not isinstance(error, errors.HfHubHTTPError):
        hint = "fetch it once while online, or unset HF_HUB_OFFLINE"
        return PermanentError("HubOffline", f"{what} is not in this machine's cache and HF_HUB_OFFLINE is set: {hint}")
    # LocalEntryNotFoundError ("not in the cache") means that the hub could not be reached.
    if isinstance(error, FileNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return PermanentError("HubMissing", f"{what}: {words}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return PermanentError("HubDenied", f"{what}: the hub refuses the token (HF_TOKEN): HTTP {status}")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return PermanentError("HubInvalid", f"{what}: the hub refuses the request: {words}")
    return TransientError("HubUnreachable", f"{what}: cannot reach the hub: {words}")
