"""How accurate the profiles are that Mt infers: compared with the labels that the test data has.

Mt gets the request that reflect makes, with one difference: where reflect has the model's own answer, there is a fixed one
that says nothing (`HOLDING`). So every Mt reads the same text, and no answer, not even the human one, helps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.profiles import Comparison
from ..contract.rows import Context, InferredProfile
from ..contract.settings import EvaluationSettings
from ..data.draw import draw
from ..engines.base import Request, Sampling, row_seed
from ..metrics.profiles import MOST_LABELS, NO_WORD, UNPARSED, Compared, Vocabulary, agreement, confusion
from ..preference.prompts import reflection_messages
from ..preference.reflection import ProfileError, ProfileForm
from .held_out import Finished, Outcome
from .jsonl import write_rows

HOLDING = "Thank you for telling me. Let me think about that for a moment."
"""The answer in the prompt: roles alternate, as chat templates demand, and reflect's words fit."""

MANY_UNPARSED = 0.1
"""Share of texts that are no profiles, above which a note is left."""


class Profiles:
    """The profiles of one model, for the contexts that have a label to compare with."""

    kinds = ("profile",)

    def __init__(self, contexts: Sequence[Context], settings: EvaluationSettings, seed: int) -> None:
        """Raises PermanentError (`LabelsMissing`) if no context has a label that is to be compared, and (`TooManyLabels`)."""
        assert settings.profile is not None
        self._profile = settings.profile
        self._settings = settings
        self._seed = seed
        self._form = ProfileForm(settings.profile_fields)
        labelled = [context for context in contexts if self._labels(context)]
        self.contexts = draw(labelled, self._profile.samples, seed, lambda context: context.id)
        for each in self._profile.comparisons:
            if not any(each.name in self._labels(context) for context in self.contexts):
                raise PermanentError(
                    "LabelsMissing",
                    f"none of {len(self.contexts)} labelled contexts has the label {each.label!r}; raise "
                    "evaluation.profile.samples or evaluation.samples, or take the comparison out of evaluation.profile",
                )
            self._check_few(each)

    def _check_few(self, comparison: Comparison) -> None:
        """Raise PermanentError if the label is free text: the figures would be a mean over nearly as many labels as rows."""
        known = self._vocabulary(comparison)
        of_rows = (self._labels(context).get(comparison.name) for context in self.contexts)
        labels = {known.of_data(label) for label in of_rows if label is not None}
        if len(labels) > MOST_LABELS:
            raise PermanentError(
                "TooManyLabels",
                f"evaluation.profile: the label {comparison.label!r} of comparison {comparison.name!r} has {len(labels)} values "
                f"in {len(self.contexts)} contexts, at most {MOST_LABELS}; name a label with few values, put their words "
                "under one label in values, or take the comparison out",
            )

    def _labels(self, context: Context) -> dict[str, str]:
        """The data's labels by name of the comparison."""
        labels = context.labels or {}
        return {each.name: labels[each.label] for each in self._profile.comparisons if each.label in labels}

    def request(self, context: Context) -> Request:
        """As reflect asks."""
        return Request(
            id=f"{context.id}/profile",
            messages=reflection_messages(context.turns, HOLDING, self._settings.profile_fields),
            sampling=replace(Sampling.of(self._settings), repetition_penalty=1.0),
            # Without the iteration, as for answers.
            seed=row_seed(self._seed, context.id, "compared-profile"),
            max_new_tokens=self._profile.max_new_tokens,
            max_prompt_tokens=self._settings.max_prompt_tokens,
            schema=self._form.schema,
            keep=3,
            extended=False,
        )

    def reading(self, context: Context, finished: Finished) -> None:
        """No likelihood is wanted."""

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """Figures of each comparison, with its confusion in the details, and profiles.jsonl."""
        vocabularies = {each.name: self._vocabulary(each) for each in self._profile.comparisons}
        rows = [self._inferred(context, finished, vocabularies) for context in self.contexts]
        compared = {
            name: [
                Compared(row.id, row.dialogue, known.of_data(row.labels[name]), row.meant[name])
                for row in rows
                if name in row.labels
            ]
            for name, known in vocabularies.items()
        }
        file = directory / "profiles.jsonl"
        write_rows(file, rows)
        unparsed = sum(row.profile is None for row in rows)
        return Outcome(
            figures=[figure for name, each in compared.items() for figure in agreement(name, each)],
            outputs={"profiles": file},
            counts={"profiles": len(rows), "profiles.unparsed": unparsed},
            notes=_notes(unparsed, len(rows)),
            details={"profiles": {name: confusion(each) for name, each in compared.items()}},
            tokens=sum(finished[f"{context.id}/profile"]["tokens"] for context in self.contexts),
        )

    def _vocabulary(self, comparison: Comparison) -> Vocabulary:
        labels = [self._labels(context).get(comparison.name) for context in self.contexts]
        return Vocabulary(comparison.values, [label for label in labels if label is not None])

    def _inferred(self, context: Context, finished: Finished, known: dict[str, Vocabulary]) -> InferredProfile:
        text = finished[f"{context.id}/profile"]["text"]
        try:
            profile = self._form.parse(text)
        except ProfileError:
            profile = None
        labels = self._labels(context)
        return InferredProfile(
            id=context.id,
            dialogue=context.dialogue,
            profile=profile,
            text=text if profile is None else None,
            labels=labels,
            meant={
                each.name: UNPARSED if profile is None else known[each.name].meant(profile[each.field]) or NO_WORD
                for each in self._profile.comparisons
                if each.name in labels
            },
        )


def _notes(unparsed: int, rows: int) -> list[str]:
    if unparsed <= MANY_UNPARSED * rows:
        return []
    return [
        f"{unparsed} of {rows} texts are no profiles and count as wrong: raise evaluation.profile.maxNewTokens, or take a "
        "larger model"
    ]
