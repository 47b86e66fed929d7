"""Chats as token ids and labels: exactly what the chat template gives, with a loss on the assistant's turns only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from jinja2 import TemplateError

from ..contract.errors import PermanentError
from ..contract.rows import Context, Dialogue, Instruction, Message, Pair, Turn
from ..metrics.perplexity import Passage
from ..preference.prompts import answer_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token without loss (`ignore_index` of torch.nn.functional.cross_entropy)."""


@dataclass(frozen=True)
class Example:
    """One sequence of SFT."""

    input_ids: list[int]
    labels: list[int]
    """As long as `input_ids`: the token itself if it is learnt, else `IGNORED`."""
    turns: int
    """Assistant turns that are learnt."""

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return len(self.input_ids)

    length = tokens


@dataclass(frozen=True)
class Preference:
    """One pair of DPO; both answers end with the end-of-turn token."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def tokens(self) -> int:
        """Tokens, the prompt's counted once."""
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)

    @property
    def length(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


Encoding = TypeVar("Encoding", Example, Preference, Passage)
"""Token ids of one row."""


@dataclass
class Encoded(Generic[Encoding]):
    """The rows of one file as token ids, and how many rows were truncated or dropped."""

    rows: list[Encoding] = field(default_factory=list)
    truncated: int = 0
    """Rows that lost their oldest turns."""
    too_long: int = 0
    """Rows dropped because their last exchange alone is longer than the longest sequence."""
    silent: int = 0
    """Dialogues dropped because the supporter says nothing in them."""

    def add(self, fitted: tuple[Encoding, bool] | None) -> None:
        """Add an encoding and whether it was truncated; None is a row that is too long."""
        if fitted is None:
            self.too_long += 1
        else:
            self.rows.append(fitted[0])
            self.truncated += fitted[1]


class ChatEncoder:
    """Turns chats into token ids by the tokenizer's own template.

    Every method raises PermanentError (`ChatTemplate`) if the template refuses a chat, renders earlier turns differently
    once later ones follow (so one sequence cannot represent all turns of a dialogue), or ends the assistant's turn
    without a special token (so the model cannot learn to stop).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast:
            raise PermanentError("ChatTemplate", "the model has no tokenizer.json; add one (it maps tokens to text)")
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}

    def dialogues(self, dialogues: Iterable[Dialogue]) -> Encoded[Example]:
        """One sequence a dialogue, up to the supporter's last turn; the supporter's turns are learnt."""
        encoded: Encoded[Example] = Encoded()
        for dialogue in dialogues:
            last = max((place for place, turn in enumerate(dialogue.turns) if turn.role == "supporter"), default=None)
            if last is None:
                encoded.silent += 1
            else:
                encode = partial(self._example, name=f"dialogue {dialogue.id}")
                encoded.add(self._fitted(dialogue.turns[: last + 1], encode))
        return encoded

    def instructions(self, instructions: Iterable[Instruction]) -> Encoded[Example]:
        """One sequence an instruction sample; the response is learnt."""
        encoded: Encoded[Example] = Encoded()
        for sample in instructions:
            chat = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.response}]
            example = self._learnt(chat, f"instruction {sample.id}")
            if example.tokens > self._max_length:
                encoded.too_long += 1
            else:
                encoded.rows.append(example)
        return encoded

    def pairs(self, pairs: Iterable[Pair]) -> Encoded[Preference]:
        """Prompt, chosen and rejected of each pair; the longer of the two sequences decides what fits."""
        encoded: Encoded[Preference] = Encoded()
        for pair in pairs:
            encoded.add(self._fitted(pair.turns, partial(self._preference, pair=pair)))
        return encoded

    def answers(self, contexts: Iterable[Context]) -> dict[str, Passage]:
        """Prompt and human answer of each context, by the context's id; without those whose last exchange is too long."""
        fitted = {
            context.id: self._fitted(
                context.turns, partial(self._passage, answer=context.human, name=f"context {context.id}")
            )
            for context in contexts
        }
        return {id_: found[0] for id_, found in fitted.items() if found}

    def _fitted(
        self, turns: Sequence[Turn], encode: Callable[[Sequence[Turn]], Encoding]
    ) -> tuple[Encoding, bool] | None:
        """The encoding of the turns without the oldest exchanges, so that it fits, and whether any were left out.

        None if even the last exchange alone is too long.
        """
        for start, turn in enumerate(turns):
            if turn.role == "seeker" and (encoding := encode(turns[start:])).length <= self._max_length:
                return encoding, start > 0
        return None

    def _example(self, turns: Sequence[Turn], name: str) -> Example:
        return self._learnt(answer_messages(turns), name)

    def _learnt(self, chat: Sequence[Message], name: str) -> Example:
        spoken = [place for place, message in enumerate(chat) if message["role"] == "assistant"]
        ids, spans = self._sequence(chat, spoken, name)
        labels = [IGNORED] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        return Example(ids, labels, len(spoken))

    def _preference(self, turns: Sequence[Turn], pair: Pair) -> Preference:
        name = f"pair {pair.id}"
        chosen, rejected = (self._passage(turns, answer, name) for answer in (pair.chosen, pair.rejected))
        if chosen.prompt != rejected.prompt:
            raise _unsteady(name)
        return Preference(chosen.prompt, chosen.answer, rejected.answer)

    def _passage(self, turns: Sequence[Turn], answer: str, name: str) -> Passage:
        chat = answer_messages(turns)
        whole = [*chat, {"role": "assistant", "content": answer.strip()}]
        ids, [(start, end)] = self._sequence(whole, [len(chat)], name)
        return Passage(ids[:start], ids[start:end])

    def _sequence(
        self, chat: Sequence[Message], places: Iterable[int], name: str
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The chat's token ids, and the spans of the assistant's turns at `places`, end-of-turn token included."""
        text = self._text(chat)
        encoding = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
        starts = [start for start, _ in offsets]
        spans = []
        for place in places:
            prompt, until = self._text(chat[:place], answer=True), self._text(chat[: place + 1])
            if not (until.startswith(prompt) and text.startswith(until)):
                raise _unsteady(name)
            first, end = bisect_left(starts, len(prompt)), bisect_left(starts, len(until))
            # A token across the boundary would be learnt only in part, and generation would not have it in its prompt.
            if offsets[first - 1][1] > len(prompt):
                raise _unsteady(name)
            spans.append((first, self._end_of_turn(ids, first, end, name)))
        return ids, spans

    def _end_of_turn(self, ids: Sequence[int], first: int, end: int, name: str) -> int:
        for place in range(end, first, -1):
            if ids[place - 1] in self._special:
                return place
        raise PermanentError(
            "ChatTemplate",
            f"{name}: the model's chat template ends the assistant's turn without a special token, so the model cannot "
            "learn to stop; take a model whose template does",
        )

    def _text(self, chat: Sequence[Message], *, answer: bool = False) -> str:
        """The rendered chat; with `answer`, the assistant's next turn is opened."""
        try:
            return str(self._tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=answer))
        except TemplateError as error:
            raise PermanentError("ChatTemplate", f"the model's chat template refuses a chat: {error}") from error


def _unsteady(name: str) -> PermanentError:
    return PermanentError(
        "ChatTemplate",
        f"{name}: the model's chat template renders earlier turns differently once later ones follow, so a dialogue "
        "cannot be trained on as one sequence; take a model or a template that does not",
    )
