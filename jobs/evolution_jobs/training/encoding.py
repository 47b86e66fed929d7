"""Dialogues and pairs as token ids and labels, with a loss on the supporter's turns only."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from ..chat.chats import Answered, Chats, Passage
from ..chat.fitting import CHARACTERS, first_that_fits
from ..contract.rows import Context, Dialogue, Instruction, Message, Pair, Turn
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
    dialogues: int = 0
    """Dialogues among the rows."""
    split: int = 0
    """Dialogues that became one sequence an answer, because one sequence cannot stand for all their answers."""
    whole_tokens: int = 0
    """Tokens of the dialogues, each counted once."""
    unlearnt: int = 0
    """Supporter turns that are only history."""
    truncated: int = 0
    """Rows that lost their oldest turns."""
    too_long: int = 0
    """Rows dropped because their last exchange alone is longer than the longest sequence."""
    silent: int = 0
    """Dialogues dropped because the supporter says nothing in them."""


class ChatEncoder:
    """Turns dialogues, pairs and contexts into token ids, as the model's chats have them.

    Every method raises PermanentError (`ChatTemplate`) if the template refuses a chat.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | Chats,
        max_length: int,
        check_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """`check_stop` is called for each row and may raise."""
        self._chats = tokenizer if isinstance(tokenizer, Chats) else Chats.of(tokenizer)
        self._max_length = max_length
        self._check_stop = check_stop

    def dialogues(self, dialogues: Iterable[Dialogue]) -> Encoded[Example]:
        """The supporter's turns are learnt, up to the last one: one sequence a dialogue, or else one an answer."""
        encoded: Encoded[Example] = Encoded()
        for dialogue in dialogues:
            self._check_stop()
            last = max((place for place, turn in enumerate(dialogue.turns) if _is_learnt(turn)), default=None)
            if last is None:
                encoded.silent += 1
                continue
            turns = dialogue.turns[: last + 1]
            if (start := self._first_that_fits(turns, self._length)) is None:
                encoded.too_long += 1
                continue
            examples = self._examples(turns[start:])
            encoded.rows += examples
            encoded.dialogues += 1
            encoded.split += len(examples) > 1
            encoded.whole_tokens += self._length(turns[start:]) if len(examples) > 1 else examples[0].tokens
            encoded.unlearnt += sum(turn.learnt is False for turn in turns[start:])
            encoded.truncated += start > 0
        return encoded

    def instructions(self, instructions: Iterable[Instruction]) -> Encoded[Example]:
        """One sequence an instruction sample; the response is learnt."""
        encoded: Encoded[Example] = Encoded()
        for sample in instructions:
            self._check_stop()
            chat = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.response}]
            answered = self._chats.sequence(chat)
            example = _learnt(answered, {0}) if answered else self._answer(chat[:1], sample.response)
            if example.tokens > self._max_length:
                encoded.too_long += 1
            else:
                encoded.rows.append(example)
        return encoded

    def pairs(self, pairs: Iterable[Pair]) -> Encoded[Preference]:
        """Prompt, chosen and rejected of each pair; the longer of the two sequences decides what fits."""
        encoded: Encoded[Preference] = Encoded()
        for pair in pairs:
            self._check_stop()
            start = self._first_that_fits(pair.turns, partial(self._longest, answers=(pair.chosen, pair.rejected)))
            if start is None:
                encoded.too_long += 1
            else:
                encoded.rows.append(self._preference(pair.turns[start:], pair))
                encoded.truncated += start > 0
        return encoded

    def answers(self, contexts: Iterable[Context]) -> dict[str, Passage]:
        """Prompt and human answer of each context, by the context's id; without those whose last exchange is too long."""
        found = {}
        for context in contexts:
            self._check_stop()
            start = self._first_that_fits(context.turns, partial(self._longest, answers=(context.human,)))
            if start is not None:
                found[context.id] = self._passage(context.turns[start:], context.human)
        return found

    def _first_that_fits(self, turns: Sequence[Turn], length: Callable[[Sequence[Turn]], int]) -> int | None:
        """Where the turns begin once the oldest exchanges are left out, so that the rest fits; None if the last alone
        is too long.
        """
        starts = [place for place, turn in enumerate(turns) if turn.role == "seeker"]
        short = sum(len(turn.text) for turn in turns) <= CHARACTERS * self._max_length
        first = first_that_fits(len(starts), lambda at: length(turns[starts[at] :]) <= self._max_length, short)
        return starts[first] if first < len(starts) else None

    def _length(self, turns: Sequence[Turn]) -> int:
        return self._chats.length(answer_messages(turns))

    def _longest(self, turns: Sequence[Turn], answers: Iterable[str]) -> int:
        return max(self._passage(turns, answer).length for answer in answers)

    def _examples(self, turns: Sequence[Turn]) -> list[Example]:
        chat = answer_messages(turns)
        places = [place for place, turn in enumerate(turns) if turn.role == "supporter"]
        if answered := self._chats.sequence(chat):
            return [_learnt(answered, {n for n, place in enumerate(places) if _is_learnt(turns[place])})]
        return [
            self._answer(answer_messages(turns[:place]), turns[place].text)
            for place in places
            if _is_learnt(turns[place])
        ]

    def _answer(self, chat: Sequence[Message], answer: str) -> Example:
        prompt, ids = self._chats.passage(chat, answer)
        return Example([*prompt, *ids], [IGNORED] * len(prompt) + ids, 1)

    def _preference(self, turns: Sequence[Turn], pair: Pair) -> Preference:
        chosen, rejected = (self._passage(turns, answer) for answer in (pair.chosen, pair.rejected))
        return Preference(chosen.prompt, chosen.answer, rejected.answer)

    def _passage(self, turns: Sequence[Turn], answer: str) -> Passage:
        return self._chats.passage(answer_messages(turns), answer.strip())


def _learnt(answered: Answered, which: Container[int]) -> Example:
    """A sequence in which these of its answers are learnt."""
    labels = [IGNORED] * len(answered.ids)
    spans = [span for number, span in enumerate(answered.spans) if number in which]
    for start, end in spans:
        labels[start:end] = answered.ids[start:end]
    return Example(answered.ids, labels, len(spans))


def _is_learnt(turn: Turn) -> bool:
    return turn.role == "supporter" and turn.learnt is not False
