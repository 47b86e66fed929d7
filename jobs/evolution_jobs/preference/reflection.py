"""The seeker's profile that a model infers before it rewrites its answer (arXiv 2505.16610, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, create_model

from ..contract.profiles import PAPER_FIELDS, ProfileField

Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
"""Limited in length, so that a small model cannot run on without an end."""

Profile = dict[str, str]
"""Field name to what was inferred, in the order of the fields."""


class ProfileError(ValueError):
    """The text is not a profile; `str(error)` is a short reason."""


class ProfileForm:
    """The fields of a profile: as a JSON schema, and as the check of a text."""

    def __init__(self, fields: Sequence[ProfileField] | None = None) -> None:
        """`fields` are those that the run declares; None takes the paper's."""
        # The names are aliases: as attributes, some of them would be methods of a pydantic model.
        definitions: dict[str, Any] = {
            f"field{place}": (_kind(each), Field(alias=each.name)) for place, each in enumerate(fields or PAPER_FIELDS)
        }
        self._model = create_model("Profile", __config__=ConfigDict(extra="forbid"), **definitions)
        self.schema: dict[str, Any] = self._model.model_json_schema()
        """For constrained sampling."""

    def parse(self, text: str) -> Profile:
        """The profile in `text`, which must be one JSON object.

        Raises ProfileError if it is not JSON, lacks a field, or a field is empty, too long or none of its values.
        """
        try:
            profile: Profile = self._model.model_validate_json(text).model_dump(by_alias=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ProfileError(f"{place}: {first['msg']}" if place else first["msg"]) from error
        return profile


def _kind(field: ProfileField) -> Any:
    if field.values is None:
        return Phrase
    # A Literal's values are known to pydantic when the class is made, which is here at run time.
    return Literal.__getitem__(tuple(field.values))
