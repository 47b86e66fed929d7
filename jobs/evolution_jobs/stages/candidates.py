"""The answers that a ranker chooses from: several direct answers of M(t-1) and the refined one, sampled and made durable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.rows import Response
from ..contract.settings import RefinementSettings, RewardSettings
from ..engines.base import Request, row_seed
from ..preference.filters import clean
from .direct import direct_request
from .outcomes import Outcome, outcome_id
from .rewriting import Candidate, Rewriter

REFINED = "self"
"""Name of the refined answer among a candidate's answers."""


class AnswerSampler:
    """Makes the requests for a candidate's answers, one after the other, and takes their responses.

    The profile and the rewrite come first, because their prompts extend the draft. `follow` is an engine's `Follow`.
    """

    def __init__(self, settings: RefinementSettings, reward: RewardSettings, seed: int) -> None:
        self._settings = settings
        self._reward = reward
        self._seed = seed
        self._rewriter = Rewriter(settings, seed)
        self._candidates: dict[str, Candidate] = {}
        self._refining: set[str] = set()

    def start(self, candidate: Candidate) -> Request:
        """The first request for a candidate, whose draft is the first of its answers."""
        self._candidates[candidate.context.id] = candidate
        candidate.answers[_named(1)] = _cleaned(candidate.draft)
        if self._reward.refine:
            self._refining.add(candidate.context.id)
            return self._rewriter.start(candidate)
        return self._direct(candidate)

    def follow(self, response: Response) -> Request | None:
        """The candidate's next request; None once all its answers are there."""
        candidate = self._candidates[response.id]
        if response.id in self._refining:
            if request := self._rewriter.follow(response):
                return request
            self._refining.remove(response.id)
            _take_refined(candidate)
        else:
            candidate.count(response)
            candidate.answers[_named(_direct_answers(candidate) + 1)] = _cleaned(response)
        if _direct_answers(candidate) < self._reward.candidates:
            return self._direct(candidate)
        candidate.sampled = True
        return None

    def _direct(self, candidate: Candidate) -> Request:
        number = _direct_answers(candidate) + 1
        context = candidate.context
        seed = row_seed(self._seed, context.id, "candidate", number)
        return direct_request(context, self._settings, id=context.id, seed=seed, extended=False)


def sampled_id(draft: Response) -> str:
    """The id of the row with the answers that are ranked, of the context that this draft answers."""
    return f"{outcome_id(draft)}.sampled"


def sampled_row(candidate: Candidate) -> Outcome:
    """The durable row of a candidate whose answers are all there. They are ranked later, perhaps by another process."""
    return {
        "id": sampled_id(candidate.draft),
        "answers": {name: answer.wire() for name, answer in candidate.answers.items()},
        "profile": candidate.profile,
        "profileText": candidate.profile_text,
        "attempts": candidate.attempts,
        "tokens": candidate.tokens,
        "truncated": candidate.truncated,
        "thought": candidate.thought,
        "made": candidate.made,
    }


def restore(candidate: Candidate, row: Mapping[str, Any]) -> None:
    """Give a candidate the answers of its durable row, with what they cost."""
    candidate.answers = {name: Response.stored(answer) for name, answer in row["answers"].items()}
    candidate.profile = row["profile"]
    candidate.profile_text = row["profileText"]
    candidate.attempts, candidate.tokens = row["attempts"], row["tokens"]
    candidate.truncated, candidate.thought = row["truncated"], row["thought"]
    candidate.made = dict(row["made"])
    candidate.sampled = True


def _take_refined(candidate: Candidate) -> None:
    """The refined answer is one of several: without a profile there is none, which drops no row."""
    if candidate.chosen:
        candidate.answers[REFINED], candidate.chosen = candidate.chosen, None
    else:
        candidate.made["unrefined"], candidate.reject = True, None


def _direct_answers(candidate: Candidate) -> int:
    return len(candidate.answers) - (REFINED in candidate.answers)


def _named(number: int) -> str:
    return f"candidate-{number}"


def _cleaned(response: Response) -> Response:
    # As rewrites are, so that a speaker's label which only one side has does not decide the pair.
    return response.model_copy(update={"text": clean(response.text)})
