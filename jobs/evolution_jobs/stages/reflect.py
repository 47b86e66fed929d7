"""reflect: M(t-1) infers the seeker's profile and rewrites its own answer; the rewrite becomes `chosen`.

arXiv 2505.16610, section 3. Three of the paper's comparisons differ only in `source`: with `human`, the data set's answer
is `chosen`, with `teacher` that of another model behind an endpoint, and no model is loaded; with `none`, the model
rewrites its answer without a profile. With `reward`, a reward model or a judge takes the best and the worst of several
answers. With `mixed`, each context has one of these sources.

Most rows are finished before this stage starts: generate makes them ahead (`stages.ahead`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..contract.errors import PermanentError
from ..contract.rows import Context, Pair, Reject, Response
from ..contract.settings import PreferenceSourceName, ReflectionSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..metrics.bootstrap import figures
from ..metrics.pairs import pair_estimates
from ..preference.advice import ADVICE
from ..preference.filters import words
from ..preference.ranking import Ranker
from . import asking
from .comparing import FIELD as COMPARED
from .comparing import JudgeRanker, judge_notes, judge_rows
from .jsonl import read_rows, write_rows
from .models import SharedEngine, engines_of, load_engine, mixed
from .outcomes import outcome_id, outcomes
from .rewarding import INPUT, RankedAnswers, load_reward_model, reward_counts, reward_metrics
from .rewriting import Candidate
from .sources import HumanAnswers, PreferenceSource, Rewrites, source_of
from .teaching import FIELD as TEACHER
from .teaching import TeacherAnswers

LENGTH_GROWTH = 1.2
"""Words of all chosen answers / words of all rejected ones, above which a note is left."""


def run(workspace: Workspace) -> Result | None:
    """Outputs `pairs` and `rejects`, in the contexts' order. None if other shards are not done yet.

    Raises PermanentError `RowsMalformed`, `RowsMismatch` if contexts and responses differ, `NoPairs` if every row was
    dropped, and what loading a model and encoding a chat raise.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, ReflectionSettings)
    contexts = read_rows(workspace, "contexts", Context)
    responses = read_rows(workspace, "responses", Response)
    _require_same(contexts, responses)
    shard = workspace.spec.shard
    own = list(shard_of(contexts, shard.index, shard.count))
    ids = {id_: outcome_id(responses[id_]) for id_ in contexts}
    finished = workspace.rows.finished()
    if missing := [id_ for id_ in own if ids[id_] not in finished]:
        seed = workspace.spec.seed
        candidates = [
            Candidate(contexts[id_], responses[id_], source_of(id_, settings.shares, seed)) for id_ in missing
        ]
        _finish(workspace, settings, candidates, len(own))
        finished = workspace.rows.finished()
    if not finished.keys() >= set(ids.values()):
        return None
    return _result(workspace, settings, [finished[id_] for id_ in ids.values()], judge_rows(finished))


def _finish(workspace: Workspace, settings: ReflectionSettings, candidates: Sequence[Candidate], total: int) -> None:
    """Make every candidate a pair or a reject, durable a batch at a time."""
    progress = _Progress(workspace, total - len(candidates), total)
    for batch in outcomes(candidates, settings, _sources(workspace, settings, progress)):
        workspace.rows.append(batch)
        progress.finished(len(batch))


class _Progress:
    """Finished rows, and those with the answers that a ranker will score, which count half."""

    def __init__(self, workspace: Workspace, done: int, total: int) -> None:
        self._workspace = workspace
        self._done = done
        self._total = total
        self._waiting = 0

    def finished(self, rows: int) -> None:
        self._done += rows
        self._workspace.progress(self._done + self._waiting // 2, self._total, "rows")

    def sampled(self, rows: int) -> None:
        self._waiting += rows
        self.finished(0)

    def ranked(self, rows: int) -> None:
        self._waiting -= rows


def _sources(
    workspace: Workspace, settings: ReflectionSettings, progress: _Progress
) -> dict[PreferenceSourceName, PreferenceSource]:
    """Each source's code. None of them loads anything before it has to answer."""
    engine = SharedEngine(lambda: load_engine(workspace, settings))
    rewrites = Rewrites(settings, workspace.spec.seed, engine, workspace.check_stop)
    sources: dict[PreferenceSourceName, PreferenceSource] = {
        "human": HumanAnswers(),
        "self": rewrites,
        "none": rewrites,
    }
    if settings.teacher:
        sources["teacher"] = TeacherAnswers(settings.teacher, workspace)
    if settings.reward:  # the last one, because it frees the engine
        sources["reward"] = RankedAnswers(workspace, settings, engine, lambda: _ranker(workspace, settings), progress)
    return sources


def _ranker(workspace: Workspace, settings: ReflectionSettings) -> Ranker:
    assert settings.reward is not None
    if settings.reward.judge:
        return JudgeRanker(workspace, settings.reward.judge)
    return load_reward_model(workspace, settings)


def _result(
    workspace: Workspace,
    settings: ReflectionSettings,
    rows: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],
) -> Result:
    """`rows` are those of the contexts, `compared` the answers of a judge that ranked."""
    pairs = [Pair.stored(row["pair"]) for row in rows if "pair" in row]
    rejects = [Reject.stored(row["reject"]) for row in rows if "reject" in row]
    dropped = Counter(reject.reason for reject in rejects)
    ranked = reward_counts(rows)
    judged = judge_notes(ranked)
    if not pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common())
        advice = ADVICE[dropped.most_common(1)[0][0]] if dropped else "name more dialogues in data.contexts"
        said = "; ".join([f"none of {len(rows)} rows became a pair ({reasons})", *judged, advice])
        raise PermanentError("NoPairs", said)
    attempts = Counter(row["attempts"] for row in rows if row["attempts"])
    lengths = {side: sum(words(getattr(pair, side)) for pair in pairs) for side in ("chosen", "rejected")}
    outputs = {name: workspace.scratch / f"{name}.jsonl" for name in ("pairs", "rejects")}
    write_rows(outputs["pairs"], pairs)
    write_rows(outputs["rejects"], rejects)
    engines = engines_of(rows)
    values, intervals = figures(pair_estimates(pairs))
    return Result(
        outputs=outputs,
        counts={
            "read": len(rows),
            "pairs": len(pairs),
            **{f"dropped.{reason}": count for reason, count in sorted(dropped.items())},
            **{f"attempts.{tries}": count for tries, count in sorted(attempts.items())},
            **(_by_source(pairs) if settings.source == "mixed" else {}),
            **asking.counts(rows, TEACHER),
            **ranked,
            **asking.counts(compared, COMPARED),
            "truncated": sum(row["truncated"] for row in rows),
            **({"ahead": ahead} if (ahead := sum(row.get("ahead", False) for row in rows)) else {}),
            **({"thoughts": thoughts} if (thoughts := sum(row.get("thought", False) for row in rows)) else {}),
        },
        metrics={
            **{f"{side}_words": round(length / len(pairs), 2) for side, length in lengths.items()},
            **reward_metrics(pairs),
            **values,
        },
        intervals=intervals,
        details={
            **engines,
            **asking.details(rows, TEACHER, settings.teacher),
            **asking.details(compared, COMPARED, settings.reward.judge if settings.reward else None),
            **({"rewardModel": _model_read(workspace)} if settings.reward and not settings.reward.judge else {}),
        },
        notes=[*mixed(engines), *judged, *_grows(lengths["chosen"], lengths["rejected"])],
        tokens=sum(row["tokens"] for row in rows),
    )


def _model_read(workspace: Workspace) -> dict[str, str]:
    """The digest of the reward model, and where it lies if it was not copied."""
    reference = workspace.reference(INPUT)
    return {"digest": workspace.digest(INPUT), **({"reference": reference} if reference else {})}


def _grows(chosen: int, rejected: int) -> list[str]:
    """A note if the pairs teach the model to write longer answers (a failure signature)."""
    if chosen <= LENGTH_GROWTH * rejected:
        return []
    return [f"chosen has {chosen / rejected:.2f} times the words of rejected: the next model will write longer answers"]


def _by_source(pairs: Sequence[Pair]) -> dict[str, int]:
    made = Counter(pair.source for pair in pairs)
    return {f"pairs.{source}": count for source, count in sorted(made.items())}


def _require_same(contexts: Mapping[str, Context], responses: Mapping[str, Response]) -> None:
    for what, lacking in (
        ("contexts have no response", contexts.keys() - responses.keys()),
        ("responses have no context", responses.keys() - contexts.keys()),
    ):
        if lacking:
            raise PermanentError(
                "RowsMismatch",
                f"{len(lacking)} {what}, first {min(lacking)}; both must come from one run: run generate again",
            )
