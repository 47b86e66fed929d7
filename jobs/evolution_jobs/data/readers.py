"""Turns from records of published layouts. Pure; a record that does not fit its layout raises a BadRow with the field.

ESConv (Liu et al., ACL 2021) has two layouts. ExTES keys each turn by its speaker. Chats are in `data.chats`. All other
layouts need a mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ..chat.thoughts import without_blocks
from ..contract.locations import DialogueMapping, Source
from ..contract.manifest import canonical_digest
from ..contract.rows import Instruction, Role, Turn
from .chats import read_chat
from .fields import BadRow, as_text, as_turns, at, optional
from .json_text import JsonReader, NotJson, kind
from .marks import unlearnt
from .proposals import layouts, proposal
from .speakers import Reading, Speakers

__all__ = ["BadRow", "Reading", "guess_source", "read_dialogue", "read_instruction", "read_labels", "turns_key"]


_JSON = JsonReader()


def read_dialogue(value: Any, source: Source) -> Reading:
    """The turns of one record, not yet preprocessed, and how many turns of other speakers were left out.

    Raises BadRow if the record is not in the source's format, has no turns, or has none of the seeker's. If another
    format or a mapping would read the record, the message proposes it.
    """
    try:
        return _checked(value, source)
    except BadRow as error:
        record = _unwrapped(value)
        proposed = proposal(record, source, lambda other: _reads(record, other))
        raise BadRow(f"{error}; {proposed}" if proposed else str(error)) from None


def guess_source(records: Sequence[Any], uri: str) -> tuple[Source, bool] | None:
    """The source at `uri` that reads all of these records, and whether the names of its speakers tell who helps whom.

    None if no known format and no mapping reads them.
    """
    plain = [_unwrapped(value) for value in records]
    if not plain or not plain[0]:
        return None
    if all({"instruction", "output"} <= record.keys() for record in plain):
        return Source(uri=uri, format="alpaca"), True
    try:
        candidates = layouts(plain[0], uri)
        return next(
            ((source, sure) for source, sure in candidates if all(_reads(record, source) for record in plain)), None
        )
    except ValidationError:
        # A path or a speaker of the record is nothing that a run file can hold.
        return None


def _unwrapped(value: Any) -> dict[str, Any]:
    try:
        return _unwrap(value) if isinstance(value, dict) else {}
    except BadRow:
        return {}


def _checked(value: Any, source: Source) -> Reading:
    if not isinstance(value, dict):
        raise BadRow(f"the record is {kind(value)}, not an object")
    reading = _read(_unwrap(value), source)
    if not any(turn.text.strip() for turn in reading.turns):
        raise BadRow("the dialogue is empty")
    if not any(turn.role == "seeker" for turn in reading.turns):
        raise BadRow("the dialogue has no seeker turn")
    return reading


def _reads(record: dict[str, Any], source: Source) -> bool:
    try:
        return {turn.role for turn in _checked(record, source).turns} == {"seeker", "supporter"}
    except BadRow:
        return False


def read_instruction(value: Any) -> Instruction:
    """A general instruction sample in the Alpaca layout (`instruction`, `input`, `output`).

    A think block before the output is left out. Raises BadRow if instruction or output is missing or empty.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the record is {kind(value)}, not an object")
    # Tables have null if there is no input.
    fields = {key: "" if value.get(key) is None else value[key] for key in ("instruction", "input", "output")}
    instruction, context, response = (as_text(text, key) for key, text in fields.items())
    for key, text in (("instruction", instruction), ("output", response)):
        if not text.strip():
            raise BadRow(f"{key} is missing or empty")
    if not (answer := without_blocks(response.strip())):
        raise BadRow("output has a think block and no answer after it")
    prompt = f"{instruction.strip()}\n\n{context.strip()}" if context.strip() else instruction.strip()
    name = canonical_digest([prompt, answer])[:16]
    return Instruction(id=name, prompt=prompt, response=answer)


def read_labels(value: Any, paths: Sequence[str]) -> dict[str, str]:
    """Labels of a record that `read_dialogue` can read, by path: text or whole numbers. What is absent or blank is left out.

    Raises BadRow if a label is text that UTF-8 cannot hold.
    """
    record = _unwrapped(value)
    found = {path: optional(record, path) for path in paths}
    texts = {
        path: as_text(label if isinstance(label, str) else str(label), path).strip()
        for path, label in found.items()
        if isinstance(label, str | int) and not isinstance(label, bool)
    }
    return {path: text for path, text in texts.items() if text}


def _read(record: dict[str, Any], source: Source) -> Reading:
    match source.format:
        case "esconv":
            return _mapped(record, _esconv_layout(record), source.ignore, exact=False)
        case "extes":
            return _keyed(record, source)
        case "messages" | "sharegpt":
            return read_chat(record, source)
        case "mapping" if source.mapping is not None:
            return _mapped(record, source.mapping, source.ignore, exact=True)
        case _:
            raise BadRow(f"format {source.format} has no dialogues")


def turns_key(source: Source) -> str:
    """The key of a record that holds its turns, or of an instruction: a table of the format must have it as a column."""
    if source.mapping is not None:
        return source.mapping.turns.partition(".")[0]
    keys = {"esconv": "dialog", "extes": "content", "sharegpt": "conversations", "alpaca": "instruction"}
    return keys.get(source.format, "messages")


def _unwrap(record: dict[str, Any]) -> dict[str, Any]:
    # thu-coai/esconv on the hub is a plain text data set: each row's only column is one line of JSON.
    text = record.get("text")
    if len(record) == 1 and isinstance(text, str):
        try:
            inner = _JSON.read(text)
        except NotJson:
            return record
        if fault := _JSON.fault(inner):
            raise BadRow(f"text: not JSON: {fault}")
        return inner if isinstance(inner, dict) else record
    return record


def _esconv_layout(record: dict[str, Any]) -> DialogueMapping:
    turns = record.get("dialog")
    first = next((turn for turn in turns if isinstance(turn, dict)), {}) if isinstance(turns, list) else {}
    upstream = "content" in first
    return DialogueMapping(
        turns="dialog",
        speaker="speaker",
        text="content" if upstream else "text",
        seeker=["seeker", "usr"],
        supporter=["supporter", "sys"],
        strategy="annotation.strategy" if upstream else "strategy",
    )


_EXTES: dict[str, Role] = {"user": "seeker", "ai": "supporter"}


def _keyed(record: dict[str, Any], source: Source) -> Reading:
    """ExTES: a turn's key is its speaker. Capitals and blanks around keys do not count."""
    if not isinstance(record.get("content"), list):
        raise BadRow("content is missing or no list")
    speakers = Speakers((), (), source.ignore)
    ignored = {name.strip().casefold() for name in source.ignore or ()}
    turns = []
    for number, turn in enumerate(as_turns(record["content"], "content"), start=1):
        keys = {key: key.strip().casefold() for key in turn}
        named = [key for key, plain in keys.items() if plain in _EXTES]
        # Columns of an Arrow table have null for the other speaker.
        spoken = [key for key in named if turn[key] is not None]
        if not named and ignored.intersection(keys.values()):
            speakers.role(next(key for key, plain in keys.items() if plain in ignored), "")
        elif not named:
            found = str(sorted(turn))[:200]
            raise BadRow(f"content, turn {number}: neither User nor AI speaks, found {found}")
        if named and not spoken:
            turns.append(Turn(role=_EXTES[keys[named[0]]], text=""))
        how = next((turn[key] for key, plain in keys.items() if plain == "ai strategy"), None)
        for key in spoken:
            role, where = _EXTES[keys[key]], f"content, turn {number}: {key.strip()}"
            turns.append(_turn(role, turn[key], how if role == "supporter" else None, where))
    return Reading(turns, speakers.left_out)


def _mapped(record: dict[str, Any], mapping: DialogueMapping, ignore: list[str] | None, exact: bool) -> Reading:
    """Turns by a mapping: the source's own, or that of a known layout, which knows its speakers in any capitals."""
    named = "mapping." if exact else "layout esconv: "
    speakers = Speakers(mapping.seeker, mapping.supporter, ignore, exact=exact)
    turns = []
    items = as_turns(at(record, mapping.turns, f"{named}turns"), f"{named}turns {mapping.turns!r}")
    for number, item in enumerate(items, start=1):
        where = f"turn {number}: {named}"
        role = speakers.role(at(item, mapping.speaker, f"{where}speaker"), f"{where}speaker {mapping.speaker!r}")
        if role is None:
            continue
        strategy = optional(item, mapping.strategy) if mapping.strategy and role == "supporter" else None
        turn = _turn(role, at(item, mapping.text, f"{where}text"), strategy, f"{where}text {mapping.text!r}")
        history = role == "supporter" and unlearnt(item, f"turn {number}", strict=False)
        turns.append(turn.model_copy(update={"learnt": False}) if history else turn)
    return Reading(turns, speakers.left_out)


def _turn(role: Role, text: Any, strategy: Any, where: str) -> Turn:
    named = as_text(strategy, f"{where}, strategy") if isinstance(strategy, str) else None
    return Turn(role=role, text=as_text(text, where), strategy=named)
