"""From what a judge says of two answers in both orders to one verdict: if the orders disagree, it is a tie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..contract.rows import Answer, Context, Message, Opponent, Outcome, Side, Turn, Verdict
from ..unspaced import count_words
from .rubric import OVERALL, messages, read_verdict

Order = Literal["as_a", "as_b"]
ORDERS: tuple[Order, ...] = ("as_a", "as_b")
"""Whether the judged answer is read first or second."""

DETAIL_LENGTH = 300
"""Characters of what a judge said instead of a verdict that verdicts.jsonl has."""


@dataclass(frozen=True)
class Said:
    """What a judge said of one order."""

    text: str
    refusal: str | None = None
    """Why its endpoint refused the chat."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Said:
        """As the durable row of the answer has it."""
        return cls(row["text"], row.get("refusal"))


@dataclass(frozen=True)
class Comparison:
    """An answer of the judged model, and what it is compared with."""

    answer: Answer
    turns: Sequence[Turn]
    """The whole conversation before it."""
    opponent: Opponent
    other: str

    @property
    def id(self) -> str:
        """Names it among all comparisons of a stage."""
        return f"{self.answer.id}/{self.opponent}"

    @property
    def equal(self) -> bool:
        """Whether both answers are the same, apart from white space. No judge need be asked."""
        return self.answer.answer.split() == self.other.split()

    def chat(self, order: Order) -> list[Message]:
        """What the judge is asked in one order."""
        pair = (self.answer.answer, self.other)
        return messages(self.turns, *(pair if order == "as_a" else pair[::-1]))

    def verdict(self, said: Mapping[Order, Said]) -> Verdict:
        """What the judge's answers in both orders come to. `said` is not read if both answers are equal."""
        known = Verdict(
            id=self.id,
            context=self.answer.id,
            dialogue=self.answer.dialogue,
            set=self.answer.set,
            opponent=self.opponent,
            answer=self.answer.answer,
            other=self.other,
            words=count_words(self.answer.answer),
            other_words=count_words(self.other),
        )
        if self.equal:
            return known.model_copy(update={"overall": "tie", "equal": True})
        if refused := next((each.refusal for each in said.values() if each.refusal), None):
            return known.model_copy(update={"fault": "refused", "detail": refused})
        as_a, as_b = (read_verdict(said[order].text) for order in ORDERS)
        if as_a is None or as_b is None:
            wrong = said["as_a" if as_a is None else "as_b"].text
            return known.model_copy(
                update={
                    "as_a": as_a or {},
                    "as_b": as_b or {},
                    "fault": "unreadable",
                    "detail": wrong[-DETAIL_LENGTH:],
                }
            )
        settled = {name: settle(as_a[name], as_b[name]) for name in as_a if name in as_b}
        overall = settled.pop(OVERALL)
        return known.model_copy(update={"as_a": as_a, "as_b": as_b, "criteria": settled, "overall": overall})


def comparisons(
    answers: Sequence[Answer], contexts: Mapping[str, Context], before: Mapping[str, Answer] | None
) -> Iterator[Comparison]:
    """Each answer against the human one, and against that of the model before if there is one."""
    for answer in answers:
        turns = contexts[answer.id].turns
        yield Comparison(answer, turns, "human", answer.human)
        if before is not None:
            yield Comparison(answer, turns, "previous", before[answer.id].answer)


def settle(as_a: Side, as_b: Side) -> Outcome:
    """The outcome for an answer that was read as A, then as B."""
    first, second = _outcome(as_a, "A"), _outcome(as_b, "B")
    return first if first == second else "tie"


def flipped(verdict: Verdict) -> bool:
    """Whether the two orders name different winners: the same position, whatever stands there."""
    return verdict.as_a[OVERALL] == verdict.as_b[OVERALL] != "tie"


def _outcome(side: Side, mine: Side) -> Outcome:
    if side == "tie":
        return "tie"
    return "win" if side == mine else "loss"
