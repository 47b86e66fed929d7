"""The seeker's profile that a model infers before it rewrites its answer (arXiv 2505.16610, section 3)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from ..contract.document import Document

Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
"""Limited in length, so that a small model cannot run on without an end."""


class Profile(Document):
    """The seeker's personality, state, situation and needs, each in a short phrase."""

    personality: Phrase
    emotional_state: Phrase
    situation: Phrase
    needs: Phrase


SCHEMA: dict[str, Any] = Profile.model_json_schema(by_alias=True)
"""JSON schema of a profile, for constrained sampling."""


class ProfileError(ValueError):
    """The text is not a profile; `str(error)` is a short reason."""


def parse_profile(text: str) -> Profile:
    """The profile in `text`, which must be one JSON object.

    Raises ProfileError if it is not JSON, lacks a field, or a field is empty or too long.
    """
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{place}: {first['msg']}" if place else first["msg"]) from error
