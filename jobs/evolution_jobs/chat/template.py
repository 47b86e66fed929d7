"""A model's chat template: how it writes a chat of given roles, with a mark in the place of each message's words.

The words are filled in afterwards. So a template renders once for each sequence of roles, and the words of a dialogue
never reach its logic (a template may look for `</think>` in a message, for example).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..contract.errors import PermanentError
from ..redaction import words_of

PINNED_DATE = datetime(2024, 7, 26)
"""Today, as templates see it. With the real date, prompts and so results would change at midnight, under equal keys.
Llama 3.1's template has this date where it knows no other."""

NO_THINKING = {"enable_thinking": False, "thinking": False}
"""Variables by which templates of thinking models are asked for an answer without a think block."""

MARK = re.compile("\ue000(\\d+)\ue001")
"""Stands for the words of a message; the number is its position. No template has these characters (private use area)."""

CACHED = 256
"""Renderings that are kept, one for each number of messages. Those of long chats are long."""

Roles = tuple[str, ...]


def mark(place: int) -> str:
    """The mark of the message at this position."""
    return f"\ue000{place}\ue001"


_FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template can raise: Jinja's own errors, and those of Python from expressions in it."""


class Frame(NamedTuple):
    """What a template writes around an answer, marks included."""

    prompt: str
    """Everything before the answer: where generation begins."""
    gap: str
    """White space between prompt and words, which the model writes itself."""
    closing: str
    """What follows the words if the answer is the last message."""


class ChatTemplate:
    """A compiled chat template.

    Methods raise PermanentError (`ChatTemplate`), which quotes the template's own words, if it refuses these roles.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens` are the template's variables `bos_token`, `eos_token` and so on.

        Raises PermanentError (`ChatTemplate`) if the template is not valid Jinja.
        """
        self._variables = {**special_tokens, **NO_THINKING, "tools": None, "documents": None}
        self.dated = False
        """Whether it has asked for today's date."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": self._today}
        try:
            self._template = environment.from_string(source)
            self.literals = _literals(environment.parse(source))
            """All text that the template itself can write."""
        except TemplateError as error:
            raise PermanentError("ChatTemplate", f"the model's chat template is not valid: {_words(error)}") from error
        self.marked = lru_cache(maxsize=CACHED)(self._marked)
        """The chat of these roles with marks; `opened` also writes the beginning of the assistant's next turn."""
        self.frame = lru_cache(maxsize=CACHED)(self._frame)
        """The frame of the answer that follows messages of these roles."""

    def _marked(self, roles: Roles, opened: bool) -> str:
        messages = [{"role": role, "content": mark(place)} for place, role in enumerate(roles)]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=opened, **self._variables)
        except _FAULTS as error:
            raise PermanentError(
                "ChatTemplate", f"the model's chat template refuses {_named(roles)}: {_words(error)}"
            ) from error
        written = {int(place) for place in MARK.findall(text)}
        if dropped := [role for place, role in enumerate(roles) if place not in written]:
            raise PermanentError(
                "ChatTemplate", f"the model's chat template leaves the words of the {dropped[0]} out of {_named(roles)}"
            )
        return text

    def _frame(self, roles: Roles) -> Frame:
        opened = self.marked(roles, True)
        before, _, closing = self.marked((*roles, "assistant"), False).partition(mark(len(roles)))
        gap = before.removeprefix(opened)
        if before.startswith(opened) and not gap.strip():
            return Frame(opened, gap, closing)
        # More than white space, such as an empty think block, is no part of an answer: it belongs to the prompt, in
        # training and in generation.
        return Frame(before, "", closing)

    def _today(self, layout: str) -> str:
        self.dated = True
        return PINNED_DATE.strftime(layout)


class _Generation(Extension):
    """`{% generation %}` marks answers for trainers that ask the template which tokens are learnt. Here it only writes."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _literals(tree: nodes.Template) -> str:
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)


def _named(roles: Roles) -> str:
    return f"a chat of {', '.join(roles[:6])}{', ...' if len(roles) > 6 else ''}"


def _words(error: Exception) -> str:
    return MARK.sub("...", words_of(error))
