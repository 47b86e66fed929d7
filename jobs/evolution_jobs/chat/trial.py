"""Tries the chats that a run will have, before any data is encoded or a GPU is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from ..contract.rows import Message
from .chats import Chats
from .template import PINNED_DATE
from .thoughts import TAGS

_SAID: list[Message] = [
    {"role": ("user", "assistant")[place % 2], "content": word} for place, word in enumerate("abcdefgh")
]
_SYSTEM: Message = {"role": "system", "content": "s"}


def try_chats(chats: Chats) -> list[str]:
    """Render what the stages will: a dialogue of four exchanges, its prompts, and an instruction without a system message.

    Returns what a user should know of this template, one sentence each. Raises PermanentError (`ChatTemplate`) if it
    refuses one of them.
    """
    chats.passage(_SAID[:1], "answer")
    for turns in range(1, len(_SAID), 2):
        chats.passage([_SYSTEM, *_SAID[:turns]], "answer")
    notes = []
    if chats.folds_system:
        notes.append(
            "the model's chat template takes no system message, or drops it once it is answered: the instruction comes "
            "first in the user's first message"
        )
    if chats.sequence([_SYSTEM, *_SAID]) is None:
        notes.append(
            "the model's chat template writes an answer in another way once later turns follow: sft trains on one "
            "sequence an answer, which has several times the tokens of one a dialogue"
        )
    if any(tag in chats.template.literals for tags in TAGS for tag in tags):
        notes.append("the model can think before it answers: it is asked not to, and a think block is left out")
    if chats.template.dated:
        notes.append(
            f"the model's chat template asks for today's date: it is {PINNED_DATE:%d %b %Y} in every stage, on every day"
        )
    return notes


def spelled(chats: Chats, texts: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """How many control tokens of the model the words of the data spell: as a count, and as a sentence; both empty if none."""
    if not (count := sum(map(chats.tokens.spelled, texts))):
        return {}, []
    words = f"words of the data spell control tokens of the model {count} times: they stay words, in training and in prompts"
    return {"spelledControlTokens": count}, [words]
