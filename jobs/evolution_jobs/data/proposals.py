"""What would read a record that its format does not: another format, or a mapping to paste into the run file. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import ValidationError

from ..contract.locations import DialogueMapping, Source
from .speakers import yaml_text

_FORMATS: tuple[Literal["sharegpt", "messages", "esconv", "extes"], ...] = ("sharegpt", "messages", "esconv", "extes")
_DEPTH = 3
"""Objects around a list of turns, or inside a turn, that are searched."""
_SPEAKER_KEYS = ("speaker", "role", "from", "author", "who", "sender", "name", "participant")
_TEXT_KEYS = ("text", "content", "value", "utterance", "message", "said", "body")
_SEEKERS = frozenset(
    [
        "seeker",
        "helpseeker",
        "usr",
        "user",
        "human",
        "client",
        "patient",
        "customer",
        "caller",
        "guest",
        "visitor",
        "student",
        "asker",
        "prompter",
    ]
)
_SUPPORTERS = frozenset(
    [
        "supporter",
        "sys",
        "system",
        "assistant",
        "ai",
        "bot",
        "chatbot",
        "gpt",
        "chatgpt",
        "model",
        "therapist",
        "counselor",
        "counsellor",
        "helper",
        "helpgiver",
        "agent",
        "listener",
        "doctor",
        "coach",
        "psychologist",
        "host",
        "operator",
    ]
)


def proposal(record: dict[str, Any], source: Source, reads: Callable[[Source], bool]) -> str | None:
    """Words that propose another format or a mapping for a record; None if there is none that `reads` it."""
    if {"instruction", "output"} <= record.keys():
        return "this record is an instruction: move the source to data.replay, with format: alpaca"
    try:
        return _other_format(record, source, reads) or _other_mapping(record, source, reads)
    except ValidationError:
        # A path or a speaker of the record is nothing that a run file can hold.
        return None


def layouts(record: dict[str, Any], uri: str) -> Iterator[tuple[Source, bool]]:
    """Sources at `uri` that may read a record, likeliest first: known formats, then mappings of its lists.

    With each, whether the names of its speakers tell who helps whom.
    """
    for name in _FORMATS[:: 1 if "conversations" in record else -1]:
        yield Source(uri=uri, format=name), True
    for turns, items in sorted(_lists(record), key=lambda found: -len(found[1])):
        if (found := _mapping(turns, items)) is not None:
            mapping, others, sure = found
            yield Source(uri=uri, format="mapping", mapping=mapping, ignore=sorted(others) or None), sure


def _other_format(record: dict[str, Any], source: Source, reads: Callable[[Source], bool]) -> str | None:
    # ShareGPT and messages read each other's keys: the list's name tells which is meant.
    for name in _FORMATS[:: 1 if "conversations" in record else -1]:
        if name != source.format and reads(Source(uri=source.uri, format=name, ignore=source.ignore)):
            return f"format: {name} would read this record"
    return None


def _other_mapping(record: dict[str, Any], source: Source, reads: Callable[[Source], bool]) -> str | None:
    for turns, items in sorted(_lists(record), key=lambda found: -len(found[1])):
        if (found := _mapping(turns, items)) is None:
            continue
        mapping, others, sure = found
        ignore = sorted({*others, *(source.ignore or ())} - {*mapping.seeker, *mapping.supporter})
        if source.mapping is not None:
            mapping = _extended(source.mapping, mapping)
        if others and reads(source.model_copy(update={"ignore": ignore})):
            return f"ignore: {_flow(ignore)} would read this record" if len(others) > 1 else None
        if reads(Source(uri=source.uri, format="mapping", mapping=mapping, ignore=ignore or None)):
            hint = "" if sure else " (who helps whom is a guess: check seeker and supporter)"
            left_out = f", ignore: {_flow(ignore)}" if ignore else ""
            return f"this would read it{hint}: format: mapping, mapping: {_flow(mapping.wire())}{left_out}"
    return None


def _extended(own: DialogueMapping, found: DialogueMapping) -> DialogueMapping:
    """The source's own mapping with the speakers found, if it finds the same turns: it must still read other records."""
    if (own.turns, own.speaker, own.text) != (found.turns, found.speaker, found.text):
        return found.model_copy(update={"records": own.records})
    seeker = [*own.seeker, *(name for name in found.seeker if name not in (*own.seeker, *own.supporter))]
    supporter = [*own.supporter, *(name for name in found.supporter if name not in (*own.supporter, *seeker))]
    return own.model_copy(update={"seeker": seeker, "supporter": supporter})


def _lists(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Lists of objects below a value, with their dotted paths."""
    if isinstance(value, list) and path and len(value) > 1 and all(isinstance(item, dict) for item in value):
        yield path, value
    elif isinstance(value, dict) and depth:
        for key, inner in value.items():
            if "." not in key and key:
                yield from _lists(inner, f"{path}.{key}" if path else key, depth - 1)


def _mapping(turns: str, items: list[dict[str, Any]]) -> tuple[DialogueMapping, list[str], bool] | None:
    """A mapping for a list of turns, the speakers that it leaves out, and whether their names tell who they are."""
    leaves = [dict(_leaves(item)) for item in items]
    everywhere = [key for key in leaves[0] if all(key in leaf for leaf in leaves)]
    said = [key for key in everywhere if all(isinstance(leaf[key], str) for leaf in leaves)]
    speaker = _best(_SPEAKER_KEYS, [key for key in everywhere if _names_speakers([leaf[key] for leaf in leaves])])
    said = [key for key in said if key != speaker]
    text = _best(_TEXT_KEYS, sorted(said, key=lambda key: -sum(len(leaf[key]) for leaf in leaves)))
    if speaker is None or text is None:
        return None
    names = list(dict.fromkeys(_name(leaf[speaker]) for leaf in leaves))
    seeker, supporter, sure = _cast(names)
    if not seeker or not supporter:
        return None
    strategy = next((key for leaf in leaves for key in leaf if "strategy" in key.lower()), None)
    mapping = DialogueMapping(
        turns=turns, speaker=speaker, text=text, seeker=seeker, supporter=supporter, strategy=strategy
    )
    return mapping, [name for name in names if name not in (*seeker, *supporter)], sure


def _leaves(item: dict[str, Any], path: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    for key, value in item.items():
        if isinstance(value, dict) and depth > 1:
            yield from _leaves(value, f"{path}{key}.", depth - 1)
        elif isinstance(value, str | int) and "." not in key and key:
            yield f"{path}{key}", value


def _names_speakers(values: list[Any]) -> bool:
    names = {_name(value) for value in values}
    return 2 <= len(names) <= 8 and (len(names) < len(values) or len(values) == 2) and max(map(len, names)) <= 32


def _best(preferred: tuple[str, ...], keys: list[str]) -> str | None:
    """The key whose last part is a usual name, in the order of the names; else the first."""
    for name in preferred:
        for key in keys:
            if key.rpartition(".")[2].lower() == name:
                return key
    return keys[0] if keys else None


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cast(names: list[str]) -> tuple[list[str], list[str], bool]:
    """Seekers and supporters by their names; where these say nothing, the first speaker seeks and the second supports."""
    plain = {name: re.sub(r"[^a-z]", "", name.lower()) for name in names}
    seeker = [name for name in names if plain[name] in _SEEKERS]
    supporter = [name for name in names if plain[name] in _SUPPORTERS]
    if len(supporter) > 1:
        # Beside a supporter of another name, a system turn is an instruction.
        supporter = [name for name in supporter if plain[name] != "system"]
    others = [name for name in names if name not in (*seeker, *supporter) and plain[name] != "system"]
    sure = bool(seeker or supporter)
    if not seeker and others:
        seeker = [others.pop(0)]
    if not supporter and others:
        supporter = [others.pop(0)]
    return seeker, supporter, sure


def _flow(value: Any) -> str:
    """The value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return yaml_text(str(value))
