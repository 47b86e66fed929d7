"""Figures of sentence embeddings: the answers, the human answers and what the seeker said last, as a sentence model sees them.
On request also BERTScore, which the same model computes token by token.

The model is `evaluation.sentenceModel`. Nothing is asked of Mt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..contract.rows import Context
from ..engines import bertscore
from ..engines.base import Request
from ..metrics.answered import Answered
from ..metrics.embeddings import Vectors, bertscore_figure, figures
from ..metrics.score import by_set
from .held_out import Finished, Outcome, Reading
from .sentences import Sentences


class Embeddings:
    """Relevance, similarity and diversity of the answers to some contexts, and on request BERTScore."""

    kinds = ()
    """It uses the rows of the answers."""
    contexts: Sequence[Context] = ()

    def __init__(self, answered: Sequence[Context], sentences: Sentences, with_bertscore: bool = False) -> None:
        """`answered` are the contexts whose answers are looked at."""
        self._answered = answered
        self._sentences = sentences
        self._with_bertscore = with_bertscore

    def request(self, context: Context) -> Request | None:
        """Nothing is asked."""

    def reading(self, context: Context, finished: Finished) -> Reading | None:
        """No likelihood is wanted."""

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """The figures of all rows and of each test set. Raises what loading the model raises."""
        model = self._sentences.model
        rows = Answered(
            answers=[finished[f"{context.id}/answer"]["text"] for context in self._answered],
            humans=[context.human for context in self._answered],
            dialogues=[context.dialogue for context in self._answered],
            ids=[context.id for context in self._answered],
        )
        asked = [context.turns[-1].text for context in self._answered]
        vectors = Vectors(*(model.vectors(texts) for texts in (rows.answers, rows.humans, asked)))
        sets: list[tuple[str | None, list[int]]] = [
            (None, list(range(len(rows)))),
            *by_set([context.set for context in self._answered]).items(),
        ]
        found = [
            figure
            for name, members in sets
            for figure in figures(rows.only(members), vectors.only(members), model.method, name)
        ]
        if self._with_bertscore:
            f1, method = bertscore.f1(rows.answers, rows.humans, model), bertscore.method(model)
            found += [bertscore_figure(rows.only(each), f1[each], method, name) for name, each in sets]
        return Outcome(figures=found)
