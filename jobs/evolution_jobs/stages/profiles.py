"""How accurate the profiles are that Mt infers: compared with the labels that the test data has.

Mt gets the request that reflect makes, with one difference: where reflect has the model's own answer, there is a fixed one
that says nothing (`HOLDING`). So every Mt reads the same text, and no answer, not even the human one, helps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import PermanentError
from ..contract.profiles import Comparison
from ..contract.rows import Context, InferredProfile
from ..contract.settings import EvaluationSettings
from ..data.draw import draw
from ..engines.base import Request, Sampling, row_seed
from ..metrics.profile_similarity import Described, nearness
from ..metrics.profiles import MOST_LABELS, NO_WORD, UNPARSED, Compared, Vocabulary, agreement, confusion
from ..preference.prompts import reflection_messages
from ..preference.reflection import ProfileError, ProfileForm
from .held_out import Finished, Outcome
from .jsonl import write_rows
from .sentences import Sentences

if TYPE_CHECKING:
    from ..engines.sentences import SentenceModel

HOLDING = "Thank you for telling me. Let me think about that for a moment."
"""The answer in the prompt: roles alternate, as chat templates demand, and reflect's words fit."""

MANY_UNPARSED = 0.1
"""Share of texts that are no profiles, above which a note is left."""


class Profiles:
    """The profiles of one model, for the contexts that have a label to compare with."""

    kinds = ("profile",)

    def __init__(
        self, contexts: Sequence[Context], settings: EvaluationSettings, seed: int, sentences: Sentences | None = None
    ) -> None:
        """Raises PermanentError (`LabelsMissing`) if no context has a label that is to be compared, and (`TooManyLabels`)."""
        assert settings.profile is not None
        self._settings = settings
        self._seed = seed
        self._sentences = sentences
        self._max_new_tokens = settings.profile.max_new_tokens
        self._form = ProfileForm(settings.profile_fields)
        required, optional = settings.profile.comparisons, settings.profile.optional_comparisons
        # What is optional adds no contexts, so that the other figures stay as they are.
        labelled = [context for context in contexts if any(each.label in _labels(context) for each in required)]
        self.contexts = draw(labelled, settings.profile.samples, seed, lambda context: context.id)
        for each in required:
            if not self._texts(each):
                raise PermanentError(
                    "LabelsMissing",
                    f"none of {len(self.contexts)} labelled contexts has the label {each.label!r}; raise "
                    "evaluation.profile.samples or evaluation.samples, or take the comparison out of evaluation.profile",
                )
        self._comparisons = [*required, *(each for each in optional if sentences and self._texts(each))]
        self._vocabularies = {each.name: self._vocabulary(each) for each in self._comparisons if not each.by_similarity}

    def _texts(self, comparison: Comparison) -> list[str]:
        """The label of each context that has it."""
        path = comparison.label
        return [_labels(context)[path] for context in self.contexts if path in _labels(context)]

    def _vocabulary(self, comparison: Comparison) -> Vocabulary:
        """Raises PermanentError if the label is free text: the figures would be a mean over nearly as many labels as rows."""
        texts = self._texts(comparison)
        known = Vocabulary(comparison.values, texts)
        labels = {known.of_data(text) for text in texts}
        if len(labels) > MOST_LABELS:
            raise PermanentError(
                "TooManyLabels",
                f"evaluation.profile: the label {comparison.label!r} of comparison {comparison.name!r} has {len(labels)} values "
                f"in {len(self.contexts)} contexts, at most {MOST_LABELS}; name a label with few values, put their words "
                "under one label in values, compare the texts with by: similarity, or take the comparison out",
            )
        return known

    def request(self, context: Context) -> Request:
        """As reflect asks."""
        return Request(
            id=f"{context.id}/profile",
            messages=reflection_messages(context.turns, HOLDING, self._settings.profile_fields),
            sampling=replace(Sampling.of(self._settings), repetition_penalty=1.0),
            # Without the iteration, as for answers.
            seed=row_seed(self._seed, context.id, "compared-profile"),
            max_new_tokens=self._max_new_tokens,
            max_prompt_tokens=self._settings.max_prompt_tokens,
            schema=self._form.schema,
            keep=3,
            extended=False,
        )

    def reading(self, context: Context, finished: Finished) -> None:
        """No likelihood is wanted."""

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """Figures of each comparison, the confusion of labels in the details, and profiles.jsonl."""
        rows = [self._inferred(context, finished) for context in self.contexts]
        compared = {
            name: [
                Compared(row.id, row.dialogue, known.of_data(row.labels[name]), row.meant[name])
                for row in rows
                if name in row.labels
            ]
            for name, known in self._vocabularies.items()
        }
        described = {each.name: self._described(each, rows) for each in self._comparisons if each.by_similarity}
        file = directory / "profiles.jsonl"
        write_rows(file, _with_cosines(rows, described))
        unparsed = sum(row.profile is None for row in rows)
        return Outcome(
            figures=[
                *(figure for name, each in compared.items() for figure in agreement(name, each)),
                *(figure for name, each in described.items() for figure in nearness(name, each, self._model.method)),
            ],
            outputs={"profiles": file},
            counts={"profiles": len(rows), "profiles.unparsed": unparsed},
            notes=_notes(unparsed, len(rows)),
            details={"profiles": {name: confusion(each) for name, each in compared.items()}} if compared else {},
            tokens=sum(finished[f"{context.id}/profile"]["tokens"] for context in self.contexts),
        )

    @property
    def _model(self) -> SentenceModel:
        assert self._sentences, "the spec has a rule: by similarity needs evaluation.sentenceModel"
        return self._sentences.model

    def _inferred(self, context: Context, finished: Finished) -> InferredProfile:
        text = finished[f"{context.id}/profile"]["text"]
        try:
            profile = self._form.parse(text)
        except ProfileError:
            profile = None
        found = _labels(context)
        labels = {each.name: found[each.label] for each in self._comparisons if each.label in found}
        return InferredProfile(
            id=context.id,
            dialogue=context.dialogue,
            profile=profile,
            text=text if profile is None else None,
            labels=labels,
            meant={
                each.name: UNPARSED
                if profile is None
                else self._vocabularies[each.name].meant(profile[each.field]) or NO_WORD
                for each in self._comparisons
                if each.name in labels and not each.by_similarity
            },
        )

    def _described(self, comparison: Comparison, rows: Sequence[InferredProfile]) -> Described:
        """The field of each row that has the label, beside it."""
        rows = [row for row in rows if comparison.name in row.labels]
        labels = [row.labels[comparison.name] for row in rows]
        # The contexts of a dialogue have one label.
        places = {label: place for place, label in enumerate(dict.fromkeys(labels))}
        described = self._model.vectors(list(places))[[places[label] for label in labels]]
        inferred = np.zeros_like(described)
        fields = {place: row.profile[comparison.field] for place, row in enumerate(rows) if row.profile}
        inferred[list(fields)] = self._model.vectors(list(fields.values()))
        return Described([row.id for row in rows], [row.dialogue for row in rows], labels, inferred, described)


def _labels(context: Context) -> dict[str, str]:
    """The data's labels by path."""
    return context.labels or {}


def _with_cosines(rows: Sequence[InferredProfile], described: Mapping[str, Described]) -> list[InferredProfile]:
    """The rows with their similarities, by name of the comparison."""
    found: dict[str, dict[str, float]] = {row.id: {} for row in rows}
    for name, each in described.items():
        for id_, cosine in zip(each.ids, each.cosines, strict=True):
            found[id_][name] = round(cosine, 4)
    return [row.model_copy(update={"similarity": found[row.id] or None}) for row in rows]


def _notes(unparsed: int, rows: int) -> list[str]:
    if unparsed <= MANY_UNPARSED * rows:
        return []
    return [
        f"{unparsed} of {rows} texts are no profiles and count as wrong, in a similarity as 0: raise "
        "evaluation.profile.maxNewTokens, or take a larger model"
    ]
