"""Profiles in the spec: the fields that a model infers about the user, which the run may declare."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from .document import Document, Rule

FieldName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=63)]
"""A key of the profile's JSON."""

Value = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S([^\r\n\t]*\S)?$")]


class ProfileField(Document):
    """One field of a profile."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "values",
            "names a value twice; remove one",
            "!has(self.values) || self.values.all(one, self.values.exists_one(other, other == one))",
            lambda field: field.values is None or len(set(field.values)) == len(field.values),
        ),
    )

    name: FieldName
    """Its key in the profile's JSON."""
    description: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\r\n]+$")] | None = None
    """What the model is to infer, as the prompt says it."""
    values: Annotated[list[Value], Field(min_length=1, max_length=64)] | None = None
    """The values that it may have; unset takes a phrase of at most 200 characters."""


ProfileFields = Annotated[list[ProfileField], Field(min_length=1, max_length=16)]

DISTINCT_FIELDS = Rule(
    "fields",
    "has two fields of one name; rename one",
    "!has(self.fields) || self.fields.all(one, self.fields.exists_one(other, other.name == one.name))",
    lambda settings: settings.fields is None or len({each.name for each in settings.fields}) == len(settings.fields),
)
"""A rule of the settings that have `fields`."""
