"""The seeker's profile that a model infers before it rewrites its answer (arXiv 2505.16610, section 3)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from ..contract.document import Document

Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
"""Bounded, so that a small model that rambles comes to an end."""


class Profile(Document):
    """What the seeker is like and needs, a short phrase each."""

    personality: Phrase
    emotional_state: Phrase
    situation: Phrase
    needs: Phrase


SCHEMA: dict[str, Any] = Profile.model_json_schema(by_alias=True)
"""JSON schema of a profile, for engines that constrain what they sample."""


class ProfileError(ValueError):
    """Text is no profile; `str(error)` says why in a few words."""


def parse_profile(text: str) -> Profile:
    """The profile that `text` holds as one JSON object.

    Raises ProfileError where it is not JSON, lacks a field, or a field is empty or too long.
    """
    try:
        return Profile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{place}: {first['msg']}" if place else first["msg"]) from error
