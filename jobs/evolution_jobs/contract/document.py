"""The base of every document: strict, immutable, camelCase on the wire, with cross-field rules as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError


class NotInKey:
    """Marks a field that does not decide the result. A change to it must not invalidate finished work."""


@dataclass(frozen=True)
class Rule:
    """A cross-field rule. It is checked offline (`holds`) and by the API server (`cel`)."""

    field: str
    """Wire name of the field to blame, relative to the document."""
    message: str
    """What is wrong and what to do."""
    cel: str
    """The same rule in Kubernetes' Common Expression Language."""
    holds: Callable[[Any], bool]
    """The rule on the Python model."""
    advice: Callable[[Any], str | None] = lambda document: None
    """What to do for this document in particular, which only the offline check says."""

    def told(self, document: object) -> str:
        """The message for a document that breaks the rule."""
        advised = self.advice(document)
        return f"{self.message}; {advised}" if advised else self.message


class _PythonSignature:
    """Parameters by their Python names, for completion and help. pydantic's own signature has the wire names."""

    def __get__(self, _: object, owner: type[BaseModel]) -> Signature:
        return Signature(
            [
                Parameter(
                    name,
                    Parameter.KEYWORD_ONLY,
                    default=Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
                    annotation=field.annotation,
                )
                for name, field in owner.model_fields.items()
            ]
        )


class Document(BaseModel):
    """A frozen model that refuses unknown fields (except in `stored`): camelCase on the wire, snake_case in Python."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        # inf and nan do not survive JSON.
        allow_inf_nan=False,
        # A default has its field's type (2 becomes 2.0), as it has once it was written and read.
        validate_default=True,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.__signature__ = _PythonSignature()  # type: ignore[assignment]

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        faults = [(rule.field, rule.told(self)) for rule in self.rules if not rule.holds(self)]
        if faults:
            raise PydanticCustomError(
                "rule",
                "{text}",
                {"text": "; ".join(f"{field}: {message}" for field, message in faults), "faults": faults},
            )
        return self

    @classmethod
    def stored(cls, value: bytes | str | Mapping[str, Any]) -> Self:
        """A document as this or another version has stored it, in JSON or as its values.

        Fields that this version does not know are ignored at every depth. Raises pydantic.ValidationError.
        """
        if isinstance(value, bytes | str):
            return cls.model_validate_json(value, extra="ignore")
        return cls.model_validate(value, extra="ignore")

    @classmethod
    def taken_from(cls, document: Document, **others: Any) -> Self:
        """Copies this class's fields from a larger document, and sets `others`. Nothing is validated again."""
        shared = cls.model_fields.keys() - others.keys()
        return super().model_construct(**{name: getattr(document, name) for name in shared}, **others)

    def wire(self) -> dict[str, Any]:
        """The document as JSON-ready values under its wire names, without fields that are unset (None)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
