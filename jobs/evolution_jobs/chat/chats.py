"""Chats of one model as token ids. SFT, generation, DPO and evaluation all use this, so they agree token for token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ..contract.errors import PermanentError
from ..contract.rows import Message
from .template import MARK, ChatTemplate, Roles, mark
from .tokens import TextTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


TRIED = 16
"""In longer chats, at least this many answers are compared with how they are written as the last message."""


class Passage(NamedTuple):
    """A prompt and its answer, both as token ids; neither is empty."""

    prompt: list[int]
    answer: list[int]

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.answer

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Answered:
    """A chat with answers as token ids."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """Where each answer stands, its end-of-turn token included."""


class Chats:
    """A model's chats.

    Text is cut into tokens at the beginning of each answer, so an answer's tokens never depend on whether it was
    sampled or read. If the template takes no system message, its words come first in the user's first message.

    Methods raise PermanentError (`ChatTemplate`) if the template refuses a chat.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, str], tokenizer: Tokenizer) -> None:
        """Raises PermanentError (`ChatTemplate`) if the template is not valid, refuses even a question and its answer,
        or ends an answer without a control token (so the model cannot learn to stop).
        """
        self.template = ChatTemplate(template, special_tokens)
        # A template may compose a token of pieces, which only shows in what it writes.
        written = self.template.marked(("user", "assistant"), True)
        self.tokens = TextTokens(tokenizer, f"{self.template.literals}\0{written}")
        self._gap = self.template.frame(("user",)).gap
        self._ending(("user",))
        self.folds_system = self._refuses_system()
        """Whether the system message becomes the beginning of the user's first one."""
        self._last_id = lru_cache(maxsize=64)(lambda text: self.tokens.encode([text])[0][-1])
        """The id of a text's last token."""
        self.one_sequence = lru_cache(maxsize=1024)(self._one_sequence)
        """Whether every answer in a chat of these roles stands there as it does where it is the last message."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Chats:
        """The chats of a loaded tokenizer. Raises as the constructor does, and if the tokenizer has no tokenizer.json."""
        if not tokenizer.is_fast:
            raise PermanentError("ChatTemplate", "the model has no tokenizer.json; add one (it maps tokens to text)")
        names = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
        return cls(chosen_template(tokenizer.chat_template), names, tokenizer.backend_tokenizer)

    @property
    def end_of_turn(self) -> int:
        """The control token that ends an answer."""
        return self._last_id(self._ending(("user",)))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to the point where the assistant's next answer begins."""
        messages = self._arranged(messages)
        return self._filled(self.template.frame(_roles(messages)).prompt, messages)[0]

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the whole chat, answers included, as the template writes it."""
        messages = self._arranged(messages)
        return self._filled(self.template.marked(_roles(messages), False), messages)[0]

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of the whole chat, answers included."""
        return len(self.ids(messages))

    def passage(self, messages: Sequence[Message], answer: str) -> Passage:
        """Token ids of the prompt and of the answer to it, its end-of-turn token included."""
        messages = self._arranged(messages)
        roles = _roles(messages)
        ids, starts = self._filled(self._answered(roles), [*messages, {"role": "assistant", "content": answer}])
        return Passage(ids[: starts[-1]], ids[starts[-1] :])

    def sequence(self, messages: Sequence[Message]) -> Answered | None:
        """The whole chat as one sequence, or None if it cannot stand for all answers in it."""
        messages = self._arranged(messages)
        roles = _roles(messages)
        if not self.one_sequence(roles):
            return None
        ids, starts = self._filled(self._whole(roles), messages)
        answers = [place for place, role in enumerate(roles) if role == "assistant"]
        ends = [self._last_id(self._ending(roles[:place])) for place in answers]
        return Answered(ids, [(start, ids.index(end, start) + 1) for start, end in zip(starts, ends, strict=True)])

    def _arranged(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not self.folds_system or messages[0]["role"] != "system":
            return messages
        system, *rest = messages
        if not rest or rest[0]["role"] != "user":
            return [{"role": "user", "content": system["content"]}, *rest]
        return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]

    def _filled(self, marked: str, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """The ids of a text with its marks filled in, and where each of its answers begins."""
        pieces, answers = [""], []
        for part, text in enumerate(MARK.split(marked)):
            if part % 2 == 0:
                pieces[-1] += text
                continue
            message = messages[int(text)]
            if message["role"] == "assistant":
                gap = self._gap if self._gap and pieces[-1].endswith(self._gap) else ""
                pieces[-1] = pieces[-1].removesuffix(gap)
                answers.append(len(pieces))
                pieces.append(gap)
            first, *others = self.tokens.as_words(message["content"])
            pieces[-1] += first
            pieces += others
        encoded = self.tokens.encode(pieces)
        starts = list(accumulate(map(len, encoded), initial=0))
        return [id_ for ids in encoded for id_ in ids], [starts[place] for place in answers]

    def _one_sequence(self, roles: Roles) -> bool:
        whole = self._whole(roles)
        answers = [place for place, role in enumerate(roles) if role == "assistant"]
        # A template repeats itself. Trying thousands of answers, each in a chat as long, would take minutes.
        step = max(1, len(answers) // TRIED)
        tried = {*answers[::step], *answers[-TRIED:]}
        return all(whole.startswith(self._answered(roles[:place])) for place in tried)

    def _answered(self, roles: Roles) -> str:
        """The chat of these roles and the answer to it, up to its end-of-turn token."""
        frame = self.template.frame(roles)
        return f"{frame.prompt}{frame.gap}{mark(len(roles))}{self._ending(roles)}"

    def _whole(self, roles: Roles) -> str:
        """The chat with the end of its last answer, which some templates leave open."""
        whole = self.template.marked(roles, False)
        open_ended = roles[-1] == "assistant" and not self.tokens.first_control(self.template.frame(roles[:-1]).closing)
        return whole + self._ending(roles[:-1]) if open_ended else whole

    def _ending(self, roles: Roles) -> str:
        """What follows the words of the answer to these messages, up to its end-of-turn token."""
        if ending := self.tokens.first_control(self.template.frame(roles).closing):
            return ending
        # Some templates end an answer only once the next message follows, and stop at the token that opens it.
        followed = self.template.marked((*roles, "assistant", "user"), False)
        if ending := self.tokens.first_control(followed.partition(mark(len(roles)))[2]):
            return ending
        raise PermanentError(
            "ChatTemplate",
            "the model's chat template ends the assistant's turn without a special token, so the model cannot learn to "
            "stop; take a model whose template does",
        )

    def _refuses_system(self) -> bool:
        try:
            self.template.frame(("system", "user"))
        except PermanentError:
            return True
        return False


def chosen_template(template: str | Mapping[str, str] | None) -> str:
    """The template for plain chats: the only one, or of several the one named `default`, as transformers chooses.

    Raises PermanentError (`ChatTemplate`) if there is none.
    """
    if isinstance(template, str):
        return template
    named = template or {}
    if "default" not in named:
        found = f"only those named {', '.join(sorted(named))}" if named else "none"
        raise PermanentError(
            "ChatTemplate", f"the model has no default chat template ({found}): add chat_template.jinja to it"
        )
    return named["default"]


def _roles(messages: Sequence[Message]) -> Roles:
    return tuple(message["role"] for message in messages)
