"""Turns from records of published layouts. Pure; a record that does not fit its layout raises a BadRow with the field.

ESConv (Liu et al., ACL 2021) has two layouts. ExTES keys each turn by its speaker. All other layouts need a mapping.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..contract.locations import DialogueMapping, Source
from ..contract.manifest import canonical_digest
from ..contract.rows import Instruction, Role, Turn


class BadRow(ValueError):
    """A record cannot be read as a row; the message says why."""


def read_dialogue(value: Any, source: Source) -> tuple[list[Turn], int]:
    """The turns of one record, not yet preprocessed, and how many system turns were left out.

    System turns have the role `system`, or `developer` as newer chats call it.

    Raises BadRow if the record is not in the source's format, has no turns, or has none of the seeker's.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the record is {_kind(value)}, not an object")
    turns, system = _read(_unwrap(value), source)
    if not any(turn.text.strip() for turn in turns):
        raise BadRow("the dialogue is empty")
    if not any(turn.role == "seeker" for turn in turns):
        raise BadRow("the dialogue has no seeker turn")
    return turns, system


def read_instruction(value: Any) -> Instruction:
    """A general instruction sample in the Alpaca layout (`instruction`, `input`, `output`).

    Raises BadRow if instruction or output is missing or empty.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the record is {_kind(value)}, not an object")
    # Tables have null if there is no input.
    fields = {key: "" if value.get(key) is None else value[key] for key in ("instruction", "input", "output")}
    instruction, context, response = (_text(text, key) for key, text in fields.items())
    for key, text in (("instruction", instruction), ("output", response)):
        if not text.strip():
            raise BadRow(f"{key} is missing or empty")
    prompt = f"{instruction.strip()}\n\n{context.strip()}" if context.strip() else instruction.strip()
    name = canonical_digest([prompt, response.strip()])[:16]
    return Instruction(id=name, prompt=prompt, response=response.strip())


def _read(record: dict[str, Any], source: Source) -> tuple[list[Turn], int]:
    match source.format:
        case "esconv":
            return _mapped(record, _esconv_layout(record), "layout esconv: "), 0
        case "extes":
            return list(_keyed_turns(record)), 0
        case "messages":
            return _chat(record)
        case "mapping" if source.mapping is not None:
            return _mapped(record, source.mapping, "mapping."), 0
        case _:
            raise BadRow(f"format {source.format} has no dialogues")


def turns_key(source: Source) -> str:
    """The key of a record that holds its turns, or of an instruction: a table of the format must have it as a column."""
    if source.mapping is not None:
        return source.mapping.turns.partition(".")[0]
    return {"esconv": "dialog", "extes": "content", "alpaca": "instruction"}.get(source.format, "messages")


def _unwrap(record: dict[str, Any]) -> dict[str, Any]:
    # thu-coai/esconv on the hub is a plain text data set: each row's only column is one line of JSON.
    text = record.get("text")
    if len(record) == 1 and isinstance(text, str):
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            return record
        return inner if isinstance(inner, dict) else record
    return record


def _esconv_layout(record: dict[str, Any]) -> DialogueMapping:
    turns = record.get("dialog")
    first = turns[0] if isinstance(turns, list) and turns else None
    upstream = isinstance(first, dict) and "content" in first
    return DialogueMapping(
        turns="dialog",
        speaker="speaker",
        text="content" if upstream else "text",
        seeker=["seeker", "usr"],
        supporter=["supporter", "sys"],
        strategy="annotation.strategy" if upstream else "strategy",
    )


CHAT = DialogueMapping(turns="messages", speaker="role", text="content", seeker=["user"], supporter=["assistant"])
"""The chat layout of instruction-tuned models."""


def _chat(record: dict[str, Any]) -> tuple[list[Turn], int]:
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise BadRow("messages is missing or no list")
    spoken = [turn for turn in messages if not (isinstance(turn, dict) and turn.get("role") in ("system", "developer"))]
    plain = [turn | {"content": _joined(turn["content"])} if _has_parts(turn) else turn for turn in spoken]
    return _mapped({"messages": plain}, CHAT, "layout messages: "), len(messages) - len(spoken)


def _has_parts(turn: Any) -> bool:
    """Whether a message's content is a list of text parts, as in chats that may also have images."""
    parts = turn.get("content") if isinstance(turn, dict) else None
    return isinstance(parts, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )


def _joined(parts: list[dict[str, Any]]) -> str:
    return " ".join(part["text"] for part in parts)


def _keyed_turns(record: dict[str, Any]) -> Iterator[Turn]:
    roles: dict[str, Role] = {"User": "seeker", "AI": "supporter"}
    content = record.get("content")
    if not isinstance(content, list):
        raise BadRow("content is missing or no list")
    for number, turn in enumerate(content, start=1):
        # Columns of an Arrow table have null for the other speaker.
        spoken = [key for key in turn if key in roles and turn[key] is not None] if isinstance(turn, dict) else []
        if not spoken:
            keys = sorted(turn) if isinstance(turn, dict) else _kind(turn)
            raise BadRow(f"content, turn {number}: neither User nor AI speaks, found {str(keys)[:200]}")
        for key in spoken:
            strategy = turn.get("AI Strategy") if key == "AI" else None
            yield _turn(roles[key], turn[key], strategy, f"content, turn {number}: {key}")


def _mapped(record: dict[str, Any], mapping: DialogueMapping, named: str) -> list[Turn]:
    """Turns by a mapping. `named` is the prefix of the mapping's fields in messages."""
    items = _at(record, mapping.turns, f"{named}turns")
    if not isinstance(items, list):
        raise BadRow(f"{named}turns {mapping.turns!r} leads to {_kind(items)}, not to a list")
    turns = []
    for number, item in enumerate(items, start=1):
        where = f"turn {number}: {named}"
        role = _role(_at(item, mapping.speaker, f"{where}speaker"), mapping, where)
        strategy = _optional(item, mapping.strategy) if mapping.strategy and role == "supporter" else None
        text = _at(item, mapping.text, f"{where}text")
        turns.append(_turn(role, text, strategy, f"{where}text {mapping.text!r}"))
    return turns


def _role(value: Any, mapping: DialogueMapping, where: str) -> Role:
    speaker = value if isinstance(value, str) else json.dumps(value)
    if speaker in mapping.seeker:
        return "seeker"
    if speaker in mapping.supporter:
        return "supporter"
    known = ", ".join([*mapping.seeker, *mapping.supporter])
    raise BadRow(f"{where}speaker {mapping.speaker!r} holds {speaker[:80]!r}, which is none of {known}")


def _turn(role: Role, text: Any, strategy: Any, where: str) -> Turn:
    named = _text(strategy, f"{where}, strategy") if isinstance(strategy, str) else None
    return Turn(role=role, text=_text(text, where), strategy=named)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BadRow(f"{where} is {_kind(value)}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{where} has half of a surrogate pair (\\ud800 to \\udfff), which is not a character") from None
    return value


def _at(value: Any, path: str, where: str) -> Any:
    """The value at a dotted path."""
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BadRow(f"{where} {path!r} is not there")
        value = value[key]
    return value


def _optional(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
