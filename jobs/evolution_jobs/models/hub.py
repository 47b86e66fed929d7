"""The Hugging Face Hub: pins models and data sets to a commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Literal, NamedTuple

from ..contract.credentials import HUB_CREDENTIALS, credential
from ..contract.errors import PermanentError
from .hub_errors import explain

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
    `HubOffline`, `HubInvalid`, `HubUntrusted`, `ProxyDenied`, `CredentialsInvalid`) or TransientError `HubUnreachable`,
    naming `field`.
    """
    match = _URI.match(uri)
    if match is None:
        raise PermanentError("HubInvalid", f"{field}.uri: {uri} is not of the form hf://owner/name")
    name, wanted = match[1], revision or match[2]
    for variable in HUB_CREDENTIALS:
        credential(variable)
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
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except (OSError, HTTPError, HfHubHTTPError, HFValidationError, UnicodeEncodeError, JSONDecodeError) as error:
        raise explain(error, what, huggingface_hub.is_offline_mode()) from error
