"""Turns from chats of instruction-tuned models: `messages` of `role` and `content`, and ShareGPT's `conversations`. Pure.

Both occur in mixtures, so each format also reads the other's keys.
"""

from __future__ import annotations

from typing import Any

from ..contract.locations import Source
from ..contract.rows import Turn
from .fields import BadRow, as_text, as_turns
from .json_text import kind
from .marks import marked_turns, unlearnt
from .speakers import Reading, Speakers

SEEKER = ("user", "human", "prompter")
SUPPORTER = ("assistant", "gpt", "chatgpt", "bot", "chatbot", "ai", "model", "bing", "bard", "claude")
_LISTS = {
    "messages": ("messages", "conversations", "conversation"),
    "sharegpt": ("conversations", "conversation", "messages", "items"),
}
_KEYS = {"messages": (("role", "content"), ("from", "value")), "sharegpt": (("from", "value"), ("role", "content"))}
_CALLS = ("tool_calls", "function_call")


def read_chat(record: dict[str, Any], source: Source) -> Reading:
    """The turns of a chat. System turns are left out; other speakers are, too, if the source ignores them.

    Raises BadRow for any other speaker, and for a mark that says neither learnt nor history only.
    """
    layout = f"layout {source.format}: "
    lists, keys = _LISTS[source.format], _KEYS[source.format]
    name = next((name for name in lists if record.get(name) is not None), None)
    if name is None:
        raise BadRow(f"{lists[0]} is missing or no list")
    speakers = Speakers(SEEKER, SUPPORTER, source.ignore, system=True)
    messages = as_turns(record[name], f"{layout}{name}")
    marked = marked_turns(record, len(messages))
    turns = []
    for number, message in enumerate(messages, start=1):
        who, says = next((pair for pair in keys if pair[0] in message), keys[0])
        where = f"turn {number}: {layout}"
        if who not in message:
            raise BadRow(f"{where}speaker {who!r} is not there")
        role = speakers.role(message[who], f"{where}speaker {who!r}")
        if role is None or (_calls_tool(message, says) and _ignores_calls(speakers, source, number)):
            continue
        text = _text(message, says, where)
        history = role == "supporter" and (unlearnt(message, f"turn {number}", strict=True) or marked[number - 1])
        turns.append(Turn(role=role, text=text, learnt=False if history else None))
    if isinstance(prompt := record.get("system"), str) and prompt.strip():
        speakers.left_out["system"] += 1
    return Reading(turns, speakers.left_out)


def _calls_tool(message: dict[str, Any], says: str) -> bool:
    """Whether a message calls a tool and says nothing."""
    return not message.get(says) and any(message.get(name) for name in _CALLS)


def _ignores_calls(speakers: Speakers, source: Source, number: int) -> bool:
    for name in ("tool", *_CALLS):
        if name in (source.ignore or ()):
            return speakers.role(name, "") is None
    raise BadRow(f"turn {number} calls a tool and says nothing; ignore: [tool] leaves such turns out")


def _text(message: dict[str, Any], key: str, where: str) -> str:
    """A message's text, which may be a list of text parts, as in chats that may also have images."""
    if key not in message:
        raise BadRow(f"{where}text {key!r} is not there")
    value = message[key]
    if not isinstance(value, list):
        return as_text(value, f"{where}text {key!r}")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            other = part.get("type") if isinstance(part, dict) else kind(part)
            raise BadRow(
                f"{where}text {key!r} is a list, not text: it may have text parts only, found {str(other)[:40]}"
            )
    return as_text(" ".join(part["text"] for part in value), f"{where}text {key!r}")
