"""The settings that people change first, as commented lines of a run file. Defaults and words are those of the models. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from ...api.spec import EvolutionRunSpec

WIDTH = 100
"""Most characters in a line of prose."""


@dataclass(frozen=True)
class Shown:
    """A setting that the file shows."""

    path: str
    """Below `spec`: `dpo.beta`."""
    example: Any = None
    """What to show if the setting is unset by default."""


METHOD = (
    Shown("iterations"),
    Shown("preferenceSource"),
    Shown("sft.epochs"),
    Shown("sft.learningRate"),
    Shown("sft.batchSize"),
    Shown("sft.maxLength"),
    Shown("sft.gradientCheckpointing"),
    Shown("generation.maxNewTokens"),
    Shown("generation.temperature"),
    Shown("generation.shards"),
    Shown("reflection.maxNewTokens"),
    Shown("reflection.shards"),
    Shown("dpo.beta"),
    Shown("dpo.learningRate"),
    Shown("dpo.sftWeight"),
    Shown("dpo.reference"),
    Shown("dpo.heldOut", 0.1),
    Shown("evaluation.samples", 200),
    Shown("evaluation.championMetric"),
    Shown("evaluation.safety"),
)
DATA = (
    Shown("data.contexts", [{"uri": "hf://owner/contexts", "format": "messages"}]),
    Shown("data.test", [{"uri": "hf://owner/test", "format": "messages"}]),
    Shown("data.replay", [{"uri": "hf://tatsu-lab/alpaca", "format": "alpaca", "samples": 500}]),
    Shown("data.contextSamples", 1000),
    Shown("data.onBadRow"),
)
CLUSTER = (
    Shown("retry.maxAttempts"),
    Shown("deletionPolicy"),
    Shown("queueName", "team-queue"),
)


def known(path: str) -> tuple[Any, str]:
    """The default of a setting and what it does, as the resource's model has them. Raises KeyError."""
    model: type[BaseModel] = EvolutionRunSpec
    *parents, last = path.split(".")
    for part in parents:
        field = next(field for field in model.model_fields.values() if field.alias == part)
        model = next(kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind))
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return fields[last].default, fields[last].description or ""


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def commented(settings: Sequence[Shown], indent: int) -> list[str]:
    """Lines that show settings below `spec`, grouped by their block, each with what it does. Removing `#` sets one."""
    lines: list[str] = []
    before = ""
    for each in settings:
        parent, _, name = each.path.rpartition(".")
        if parent and parent != before and parent != "data":
            lines += ["", f"{' ' * indent}{parent}:"]
        before = parent
        lines += one(each, name, indent + (2 if parent else 0))
    return lines


def one(shown: Shown, name: str, indent: int) -> list[str]:
    """The lines of one setting: what it does, and the line that sets it."""
    default, words = known(shown.path)
    unset = default in (None, [])
    value = shown.example if unset else default
    assert value is not None, f"{shown.path} has no default, so it needs an example"
    pad = " " * indent
    prose = textwrap.wrap(words, WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ", break_long_words=False)
    return [*prose, f"{pad}#{name}: {flow(value)}" + ("   # an example; it is unset by default" if unset else "")]


def flow(value: Any) -> str:
    """The value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()


def block(value: Any, indent: int) -> list[str]:
    """The value as YAML in lines."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)
    return [" " * indent + line for line in text.splitlines()]
