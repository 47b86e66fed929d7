"""The preference source `reward`: of several answers to a context, the best is chosen and the worst rejected.

A reward model scores them, or a judge compares them (`stages.comparing`). There are two phases, because M(t-1) and a reward
model may not fit into memory together: M(t-1) samples all answers, which become durable rows; then it is freed, and the
reward model scores them. A process that is killed between the two, or
that finds too little memory for the second, is followed by one that only scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..contract.rows import Pair, Reject, Response
from ..contract.settings import ReflectionSettings, RewardSettings
from ..contract.workspace import Rows, Workspace
from ..preference.ranking import Ranker, Scored, ToRank, eligible, none_to_rank, rank, too_close
from .candidates import REFINED, AnswerSampler, restore, sampled_id, sampled_row
from .chunks import chunk_size, chunks
from .models import SharedEngine
from .rewriting import Candidate
from .sources import divided

if TYPE_CHECKING:
    from ..engines.reward_model import RewardModel

INPUT = "reward-model"
"""Name of the stage's input with the reward model."""


class Progress(Protocol):
    """Counts answers that are sampled and not yet ranked as half a row."""

    def sampled(self, rows: int) -> None:
        """Some candidates have all their answers."""
        ...

    def ranked(self, rows: int) -> None:
        """Some of these have been ranked."""
        ...


class RankedAnswers:
    """M(t-1) answers each context several times, and a ranker scores the answers."""

    def __init__(
        self,
        workspace: Workspace,
        settings: ReflectionSettings,
        engine: SharedEngine,
        ranker: Callable[[], Ranker],
        progress: Progress,
    ) -> None:
        """`ranker` is called once, when all answers are sampled and the engine is freed."""
        assert settings.reward is not None
        self._rows: Rows = workspace.rows
        self._check_stop = workspace.check_stop
        self._seed = workspace.spec.seed
        self._settings = settings
        self._reward: RewardSettings = settings.reward
        self._engine = engine
        self._ranker = ranker
        # A judge stops by itself, once its open requests, which are paid for, have been answered.
        self._check_ranker: Callable[[], None] = (lambda: None) if settings.reward.judge else workspace.check_stop
        self._progress = progress

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """A list each time that some answers are ranked. Raises what the engine and the ranker raise."""
        waiting, ended = divided(candidates)
        self._sample(waiting)
        self._engine.free()
        asked = {}
        for each in waiting:
            if len(answers := eligible(each.answers)) > 1:
                asked[each.context.id] = ToRank(each.context.id, each.context.turns, answers)
            else:
                each.reject = none_to_rank(each.context.id, each.answers)
                ended.append(each)
        if ended:
            self._progress.ranked(sum(each.sampled for each in ended))
            yield ended
            self._check_stop()
        if asked:
            by_id = {each.context.id: each for each in waiting}
            for scores in self._ranker().scores(list(asked.values())):
                for scored in scores:
                    self._decide(by_id[scored.id], asked[scored.id], scored)
                self._progress.ranked(len(scores))
                yield [by_id[scored.id] for scored in scores]
                self._check_ranker()

    def _sample(self, candidates: Sequence[Candidate]) -> None:
        """Give the candidates their answers, and make them durable, some rows at a time."""
        known = self._rows.finished()
        by_id: dict[str, Candidate] = {}
        for each in candidates:
            if row := known.get(sampled_id(each.draft)):
                restore(each, row)
            else:
                by_id[each.context.id] = each
        self._progress.sampled(len(candidates) - len(by_id))
        if not by_id:
            return
        engine, sampler = self._engine(), AnswerSampler(self._settings, self._reward, self._seed)
        for part in engine.batches(map(sampler.start, by_id.values())):
            responses = engine.generate(part, sampler.follow)
            sampled = (by_id[each.id] for each in responses if by_id[each.id].sampled)
            for chunk in chunks(sampled, chunk_size(len(part))):
                for candidate in chunk:
                    candidate.made["engine"] = engine.name
                self._rows.append(map(sampled_row, chunk))
                self._progress.sampled(len(chunk))
                self._check_stop()

    def _decide(self, candidate: Candidate, asked: ToRank, scored: Scored) -> None:
        """Set the candidate's chosen and rejected answer, or the reason why it has none."""
        candidate.made["scored"] = len(scored.scores)
        candidate.made["scoredTruncated"] = scored.truncated
        if scored.judged:
            candidate.made["judged"] = dict(scored.judged)
        if scored.fault:
            candidate.reject = Reject(id=asked.id, reason="unscored", detail=scored.fault)
            return
        ranking = candidate.ranking = rank(scored.scores)
        candidate.chosen, candidate.worst = (
            Response(id=asked.id, text=asked.answers[name], finish="stop", tokens=candidate.answers[name].tokens)
            for name in (ranking.chosen, ranking.rejected)
        )
        candidate.reject = too_close(asked.id, ranking, self._reward.margin)


def load_reward_model(workspace: Workspace, settings: ReflectionSettings) -> RewardModel:
    """The ranker of a run's reward model. Raises as `RewardModel.load` does."""
    from ..engines.reward_model import RewardModel

    assert settings.reward is not None
    workspace.imported()
    reference = workspace.reference(INPUT) or workspace.input(INPUT)
    loaded = RewardModel.load(reference, settings.precision, settings.reward)
    workspace.loaded()
    return loaded


def reward_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """For a manifest's counts: how many answers were scored, and how many contexts lost turns before; empty without any."""
    rows = list(rows)
    ranked = [row for row in rows if "scored" in row]
    if not ranked:
        return {}
    judged = [row["judged"] for row in ranked if "judged" in row]
    return {
        "reward.scored": sum(row["scored"] for row in ranked),
        "reward.truncated": sum(row["scoredTruncated"] for row in ranked),
        "reward.unrefined": sum(row.get("unrefined", False) for row in rows),
        **{f"reward.{name}": sum(each[name] for each in judged) for name in (judged[0] if judged else ())},
    }


def reward_metrics(pairs: Iterable[Pair]) -> dict[str, float]:
    """For a manifest's metrics: the mean difference of the scores of chosen and rejected (in the reward model's unit), and the
    share of pairs whose chosen answer is the refined one. Empty without ranked pairs.
    """
    rankings = [pair.ranking for pair in pairs if pair.ranking]
    if not rankings:
        return {}
    refined = sum(each.chosen == REFINED for each in rankings)
    return {
        "reward_margin": round(sum(each.margin for each in rankings) / len(rankings), 6),
        "refined_chosen": round(refined / len(rankings), 4),
    }
