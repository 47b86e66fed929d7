"""evaluate: Mt answers held-out contexts directly, as at inference, and scores the human answers.

Every Mt answers the same contexts with the same seeds, so that only the model differs. Rows are divided among shards. A
shard that finds all rows finished computes the figures.

Outputs: `answers` (answers.jsonl, one `Answer` a line), `metrics` (metrics.json, `metrics.score.Scores` and the
parts' details), of M0 `probes` (probes.jsonl, one `Probe` a line), with `safety` an output of that name (safety.jsonl, one
`SafetyReply` a line), and with `profile` `profiles` (profiles.jsonl, one `InferredProfile` a line).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from ..contract.rows import Answer, Context, Probe
from ..contract.settings import EvaluationSettings
from ..contract.workspace import Result, Workspace
from ..data.draw import draw
from ..engines.base import Request, row_seed
from ..engines.bertscore import require_library
from ..metrics.answered import Answered
from ..metrics.meteor import require_wordnet
from ..metrics.score import Scores, score, with_figures
from ..safety.contexts import crisis_contexts
from .direct import direct_request
from .drift import Drift, Probes
from .embeddings import Embeddings
from .held_out import Finished, Outcome, Part, Reading, all_finished, finish_rows
from .jsonl import read_rows, write_rows
from .models import engines_of, mixed
from .profiles import Profiles
from .safety import Safety
from .sentences import Sentences

CONTEXT_TAIL = 3
"""Number of the context's last turns in answers.jsonl."""


def run(workspace: Workspace) -> Result | None:
    """The figures of one model. None if other shards have not finished their rows yet.

    Raises PermanentError (`RowsMalformed`), (`TestSet`) if there is nothing to evaluate on, (`LabelsMissing`) if no
    profile can be compared, (`TooManyLabels`), (`DependencyMissing`) if an optional figure lacks its data or library, and
    what `finish_rows` raises.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, EvaluationSettings)
    _require_optional(settings)
    contexts = read_rows(workspace, "test", Context)
    if not contexts:
        raise PermanentError("TestSet", "input test: there are no contexts to answer; name more dialogues in data.test")
    seed = workspace.spec.seed
    drawn = draw(contexts.values(), settings.samples, seed, lambda context: context.id)
    answers = Answers(drawn, settings, seed)
    others = _other_parts(workspace, settings, drawn)
    finish_rows(workspace, settings, [answers, *others])
    finished = workspace.rows.finished()
    if not all_finished([answers, *others], finished):
        return None
    outcomes = [part.outcome(finished, workspace.scratch) for part in others]
    scores, own = answers.scores(finished), answers.outcome(finished, workspace.scratch)
    return _result(
        workspace.scratch,
        with_figures(scores, [figure for each in outcomes for figure in each.figures]),
        [own, *outcomes],
        {"read": len(contexts)},
        engines_of(finished.values()),
    )


def _require_optional(settings: EvaluationSettings) -> None:
    """Raise PermanentError `DependencyMissing` if a figure that was asked for cannot be computed here."""
    asked = settings.optional_figures or ()
    if "meteor" in asked:
        require_wordnet()
    if "bertscore" in asked:
        require_library()


def _other_parts(workspace: Workspace, settings: EvaluationSettings, drawn: Sequence[Context]) -> list[Part]:
    """What is found out beside the answers' figures."""
    seed, parts = workspace.spec.seed, list[Part]()
    sentences = Sentences.of(workspace)
    if workspace.has_input("probes"):
        parts.append(Drift(drawn, read_rows(workspace, "probes", Probe)))
    elif settings.drift_contexts and not workspace.spec.iteration:
        parts.append(Probes(draw(drawn, settings.drift_contexts, seed, lambda context: context.id), settings, seed))
    if settings.safety:
        parts.append(Safety(crisis_contexts(), settings, seed, drawn))
    if settings.profile:
        parts.append(Profiles(drawn, settings, seed, sentences))
    if sentences:
        parts.append(Embeddings(drawn, sentences, "bertscore" in (settings.optional_figures or ())))
    return parts


class Answers:
    """The answers that the figures compare with the human ones, and the likelihood of the human ones."""

    kinds = ("answer", "likelihood")

    def __init__(self, contexts: Sequence[Context], settings: EvaluationSettings, seed: int) -> None:
        self.contexts = contexts
        self._settings = settings
        self._seed = seed

    def request(self, context: Context) -> Request:
        """As at inference."""
        # Without the iteration, so that the seed is the same for every Mt.
        seed = row_seed(self._seed, context.id, "evaluate")
        return direct_request(context, self._settings, id=f"{context.id}/answer", seed=seed)

    def reading(self, context: Context, finished: Finished) -> Reading:
        """The human answer."""
        return Reading(f"{context.id}/likelihood", context)

    def scores(self, finished: Finished) -> Scores:
        """Every figure of the answers."""
        answers = self._answers(finished)
        also = self._settings.optional_figures or ()
        return score(Answered.of(answers), [answer.set for answer in answers], also)

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """answers.jsonl, with its counts."""
        answers, file = self._answers(finished), directory / "answers.jsonl"
        write_rows(file, answers)
        thoughts = sum(finished[f"{context.id}/answer"].get("thought", False) for context in self.contexts)
        return Outcome(
            outputs={"answers": file},
            counts={
                **({"thoughts": thoughts} if thoughts else {}),
                "kept": len(answers),
                "truncated": sum(answer.truncated_turns > 0 for answer in answers),
                "perplexity.tooLong": sum(answer.nll is None for answer in answers),
            },
            details={"sets": sets} if (sets := _sets(self.contexts)) else {},
            tokens=sum(answer.tokens for answer in answers),
        )

    def _answers(self, finished: Finished) -> list[Answer]:
        return [_answer(context, finished) for context in self.contexts]


def _sets(contexts: Sequence[Context]) -> list[dict[str, Any]]:
    """The named test sets, each with its rows, and whether the run never trains on its data set."""
    rows = Counter(context.set for context in contexts if context.set)
    unseen = {context.set for context in contexts if context.never_trained_on}
    return [{"name": name, "rows": count, "neverTrainedOn": name in unseen} for name, count in rows.items()]


def _answer(context: Context, finished: Finished) -> Answer:
    answered, likelihood = finished[f"{context.id}/answer"], finished[f"{context.id}/likelihood"]
    return Answer(
        id=context.id,
        dialogue=context.dialogue,
        set=context.set,
        context=context.turns[-CONTEXT_TAIL:],
        human=context.human,
        answer=answered["text"],
        tokens=answered["tokens"],
        finish=answered["finish"],
        truncated_turns=answered["truncated_turns"],
        nll=likelihood["nll"],
        nll_tokens=likelihood["tokens"],
        strategy=context.strategy,
    )


def _result(
    directory: Path,
    scores: Scores,
    outcomes: Sequence[Outcome],
    read: Mapping[str, int],
    engines: Mapping[str, Mapping[str, int]],
) -> Result:
    file = directory / "metrics.json"
    details = {name: value for each in outcomes for name, value in each.details.items()}
    file.write_text(json.dumps({**scores, **details}, ensure_ascii=False, indent=2) + "\n", "utf-8")
    headlines = {figure["name"] for figure in scores["figures"] if figure.get("headline")}
    own, *others = outcomes
    counts = dict(read)
    for each in outcomes:
        counts |= each.counts
    return Result(
        outputs={
            **own.outputs,
            "metrics": file,
            **{name: path for each in others for name, path in each.outputs.items()},
        },
        counts=counts,
        # Four decimal places save room in the termination message, and no figure is more precise. metrics.json has all.
        metrics={name: round(value, 4) for name, value in scores["metrics"].items() if name in headlines},
        intervals={
            name: [round(low, 4), round(high, 4)]
            for name, (low, high) in scores["intervals"].items()
            if name in headlines
        },
        details={**{name: scores[name] for name in ("human", "methods")}, **details, **engines},
        notes=[
            *mixed(engines),
            *(each["sentence"] for each in scores["signatures"] if each["present"]),
            *(note for each in others for note in each.notes),
        ],
        tokens=sum(each.tokens for each in outcomes),
    )
