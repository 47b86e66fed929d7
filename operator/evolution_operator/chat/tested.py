"""The run's test contexts: a model answers one as evaluate asked it, which shows that the chat is with the same model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.contract.jsonl import RowFault, rows_by_id
from evolution_jobs.contract.rows import Context
from evolution_jobs.contract.settings import SamplingSettings
from evolution_jobs.engines.base import row_seed
from evolution_jobs.printable import printable

from ..results.answers import answers_of_file
from ..results.choice import evaluation_settings
from ..results.weights import Weights
from .replies import KEPT, Reply
from .talk import Talk


class Tested:
    """Test contexts and evaluate's answers to them, read when they are first asked for."""

    def __init__(self, weights: Weights, models: Sequence[str], sampling: SamplingSettings, seed: int) -> None:
        """`sampling` and `seed` are for a run without a finished evaluation."""
        self._weights, self._models = weights, models
        found = evaluation_settings(weights.results, models[0])
        self._sampling, self._seed = (found.sampling, found.seed) if found else (sampling, seed)

    @cached_property
    def contexts(self) -> list[Context]:
        """The contexts in the order of answers.jsonl; all test contexts if nothing is evaluated.

        Raises PermanentError `ArtifactMissing` if prepare has not finished, and what the store raises.
        """
        contexts = self._test_set()
        order = next(iter(self._answers.values()), contexts)
        return [contexts[id_] for id_ in order if id_ in contexts]

    def context(self, number: int) -> Context:
        """Context `number`, from 1. Raises PermanentError `ChatInput` if there is none."""
        if not 1 <= number <= len(self.contexts):
            raise PermanentError(
                "ChatInput", f"there is no context {number}: the test set has 1 to {len(self.contexts)}"
            )
        return self.contexts[number - 1]

    def ask(self, talk: Talk, context: Context) -> list[Reply]:
        """The models' answers, with the settings and the seed of evaluate."""
        return talk.begin(context, self._sampling, row_seed(self._seed, context.id, "evaluate"))

    def compared(self, context: Context, replies: Sequence[Reply]) -> Iterator[str]:
        """For each model that is evaluated: whether its answers file says the same, or what it says."""
        for reply in replies:
            if (answer := self._answers.get(reply.model, {}).get(context.id)) is None:
                continue
            name = _answers_of(reply.model)
            same = answer == reply.text
            yield f"{reply.model}: as in {name}" if same else f"{reply.model}: {name} has {printable(answer, KEPT)!r}"

    @cached_property
    def _answers(self) -> dict[str, dict[str, str]]:
        """By model that is evaluated: answers by the context's id."""
        found = {}
        for model in self._models:
            try:
                rows = answers_of_file(self._weights.file(_answers_of(model)))
            except StageError:
                continue
            found[model] = {row.id: row.answer for row in rows}
        return found

    def _test_set(self) -> dict[str, Context]:
        with self._weights.file("test").open("rb") as lines:
            try:
                return rows_by_id(lines, Context, "context")
            except RowFault as fault:
                raise PermanentError("ChatInput", f"/context: test, line {fault.line}: {fault}") from fault


def _answers_of(model: str) -> str:
    return f"answers-{model.removeprefix('M')}"
