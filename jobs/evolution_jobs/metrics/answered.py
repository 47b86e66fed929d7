"""A model's answers beside the human ones: what every figure is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..contract.manifest import canonical_digest
from ..contract.rows import Answer
from .bootstrap import Estimate, Floats
from .overlap import bleu_sacre, bleu_statistics
from .words import reference_words


@dataclass(frozen=True)
class Answered:
    """Answers of one model, row by row. All lists have one length."""

    answers: Sequence[str]
    humans: Sequence[str]
    dialogues: Sequence[str] | None = None
    """Each row's dialogue, for intervals; None takes each row as one of its own."""
    ids: Sequence[str] | None = None
    """Each row's context; None numbers the rows."""
    tokens: Sequence[int] | None = None
    """Tokens of each answer, its end-of-turn token included; None if they are not known."""
    cut: Sequence[bool] | None = None
    """Whether each answer was cut off at the longest length."""
    likelihoods: Sequence[tuple[float, int] | None] | None = None
    """Negative log-likelihood of each human answer in nats, and its tokens; None where it did not fit."""
    strategies: Sequence[str | None] | None = None
    """The strategy that the data notes for each human answer; None where it notes none."""

    @classmethod
    def of(cls, rows: Sequence[Answer]) -> Answered:
        """From the rows of answers.jsonl."""
        return cls(
            answers=[row.answer for row in rows],
            humans=[row.human for row in rows],
            dialogues=[row.dialogue for row in rows],
            ids=[row.id for row in rows],
            tokens=[row.tokens for row in rows],
            cut=[row.finish == "length" for row in rows],
            likelihoods=[None if row.nll is None else (row.nll, row.nll_tokens) for row in rows],
            strategies=[row.strategy for row in rows],
        )

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def words(self) -> list[list[str]]:
        """`reference_words` of each answer."""
        return [reference_words(text) for text in self.answers]

    @cached_property
    def human_words(self) -> list[list[str]]:
        """`reference_words` of each human answer."""
        return self.by_humans.words

    @cached_property
    def row_set(self) -> str:
        """Digest of the rows' ids and human answers, in any order: figures compare only if it is equal."""
        ids = self.ids or [str(row) for row in range(len(self))]
        return canonical_digest(sorted(zip(ids, self.humans, strict=True)))

    @cached_property
    def by_humans(self) -> Answered:
        """The same rows as if a model had given the human answers."""
        return Answered(answers=self.humans, humans=self.humans, dialogues=self.dialogues, ids=self.ids)

    @cached_property
    def bleu(self) -> Floats:
        """`bleu_statistics` of each row, for BLEU of every order: (rows, 10)."""
        return np.array([bleu_statistics(*pair) for pair in zip(self.words, self.human_words, strict=True)], float)

    @cached_property
    def sacre(self) -> tuple[float, str]:
        """`bleu_sacre`: BLEU of sacrebleu and its signature."""
        return bleu_sacre(self.answers, self.humans)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """What `Measure.estimate` has computed over these rows, by figure."""
        return {}

    def only(self, rows: Sequence[int]) -> Answered:
        """Some of the rows, by position."""

        def some(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[row] for row in rows]

        return replace(
            self,
            answers=some(self.answers),
            humans=some(self.humans),
            dialogues=some(self.dialogues),
            ids=some(self.ids),
            tokens=some(self.tokens),
            cut=some(self.cut),
            likelihoods=some(self.likelihoods),
            strategies=some(self.strategies),
        )
