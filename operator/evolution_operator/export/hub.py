"""What export asks the Hugging Face Hub: files of a tokenizer, licences, and to take the folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from evolution_jobs.contract.credentials import credential
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.models.hub import explained

from ..verify.findings import PROVENANCE
from .folder import TOKENIZER
from .licences import UNKNOWN

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""Name of a repository: `owner/name`."""


def tokenizer_files(name: str, revision: str) -> Path:
    """The directory of a hub model's tokenizer files, in the hub's cache. Raises as `models.hub` does."""
    import huggingface_hub

    with explained(f"base model hf://{name}@{revision}"):
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(TOKENIZER)))


def licence_on_hub(kind: Literal["model", "dataset"], name: str, revision: str | None) -> str:
    """The licence that a repository's own page states; `unknown` if it states none or the hub cannot be asked."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    if huggingface_hub.is_offline_mode():
        return UNKNOWN
    try:
        found = huggingface_hub.HfApi().repo_info(name, repo_type=kind, revision=revision).card_data
    except (OSError, HTTPError, HfHubHTTPError, HFValidationError):
        return UNKNOWN
    stated = found.get("license") if found else None
    named = found.get("license_name") if found else None
    if stated == "other" and isinstance(named, str):
        return named
    return stated if isinstance(stated, str) else UNKNOWN


def require_repository(repository: str) -> None:
    """Raise PermanentError if a folder cannot be pushed there: `ExportInput` for a wrong name, `CredentialsMissing`."""
    import huggingface_hub

    if not REPOSITORY.fullmatch(repository):
        raise PermanentError("ExportInput", f"--push {repository}: write OWNER/NAME")
    if not (credential("HF_TOKEN") or huggingface_hub.get_token()):
        raise PermanentError(
            "CredentialsMissing",
            f"--push {repository}: set HF_TOKEN to a token that may write there, or run hf auth login",
        )


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Upload the folder to `owner/name`, which is created, private unless `public`. Returns its address.

    What names the user's storage stays here: the manifests that serve the model, and the signed provenance.

    The token comes from `HF_TOKEN` or from `hf auth login`. Raises as `models.hub` does.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with explained(f"--push {repository}"):
        created = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Upload {folder.name} with evolution export",
            ignore_patterns=["serve/*", PROVENANCE],
        )
    return str(created)
