"""reflect: M(t-1) infers the seeker's profile and rewrites its own answer; the rewrite becomes `chosen`.

arXiv 2505.16610, section 3. Two of the paper's comparisons differ only in `source`: with `human`, the data set's answer
is `chosen` and no model is loaded; with `none`, the model rewrites its answer without a profile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..contract.errors import PermanentError
from ..contract.rows import Context, Pair, Reject, Response
from ..contract.settings import ReflectionSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..preference.filters import judge, usable, words
from .jsonl import read_rows, write_rows
from .models import load_engine
from .rewriting import Candidate, Rewriter

ADVICE = {
    "profile_unparsed": "raise reflection.maxAttempts or reflection.maxProfileTokens, or take a larger model",
    "empty": "look at the responses: one side says nothing",
    "equal": "raise reflection.temperature, or take a larger model",
    "too_long": "raise reflection.maxLengthRatio",
    "truncated": "raise maxNewTokens of generation and reflection",
}


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
    finished = workspace.rows.finished()
    if candidates := [Candidate(contexts[id_], responses[id_]) for id_ in own if id_ not in finished]:
        _finish(workspace, settings, candidates, len(own))
        finished = workspace.rows.finished()
    if not contexts.keys() <= finished.keys():
        return None
    return _result(workspace, [finished[id_] for id_ in contexts])


def _finish(workspace: Workspace, settings: ReflectionSettings, candidates: Sequence[Candidate], total: int) -> None:
    """Make every candidate a pair or a reject, durable a batch at a time."""
    done = total - len(candidates)

    def keep(ended: Iterable[Candidate]) -> None:
        nonlocal done
        outcomes = [_outcome(each, settings) for each in ended]
        workspace.rows.append(outcomes)
        done += len(outcomes)
        workspace.progress(done, total, "rows")
        workspace.check_stop()

    if settings.source == "human":
        for each in candidates:
            each.chosen = Response(id=each.context.id, text=each.context.human, finish="stop", tokens=0)
        return keep(candidates)
    for each in candidates:
        fault = usable(each.rejected, "rejected")
        each.reject = fault if isinstance(fault, Reject) else None
    keep(each for each in candidates if each.reject)
    if waiting := {each.context.id: each for each in candidates if not each.reject}:
        engine = load_engine(workspace, settings)
        rewriter = Rewriter(engine, settings, workspace.spec.seed)
        for batch in engine.batches(map(rewriter.first_request, waiting.values())):
            together = [waiting[request.id] for request in batch]
            rewriter.rewrite(together)
            keep(together)
    return None


def _outcome(candidate: Candidate, settings: ReflectionSettings) -> dict[str, Any]:
    """The row that is made durable: the candidate's pair or reject, and what it cost."""
    context, profile = candidate.context, candidate.profile.wire() if candidate.profile else None
    cost = {"attempts": candidate.attempts, "tokens": candidate.tokens, "truncated": candidate.truncated}
    if candidate.thought:
        cost["thought"] = True
    verdict = _verdict(candidate, settings)
    if isinstance(verdict, Reject):
        known = {
            "turns": [turn.wire() for turn in context.turns],
            "human": context.human,
            "rejected": candidate.rejected.text,
            "chosen": candidate.chosen.text if candidate.chosen else None,
            "profile": profile or candidate.profile_text,
            "attempts": candidate.attempts,
            "source": settings.source,
        }
        known = {name: value for name, value in known.items() if value is not None}
        return {"id": context.id, **cost, "reject": verdict.model_copy(update={"row": known}).wire()}
    chosen, rejected = verdict
    pair = Pair(
        id=context.id,
        turns=context.turns,
        chosen=chosen,
        rejected=rejected,
        source=settings.source,
        profile=profile,
        attempts=max(candidate.attempts, 1),
    )
    return {"id": context.id, **cost, "pair": pair.wire()}


def _verdict(candidate: Candidate, settings: ReflectionSettings) -> tuple[str, str] | Reject:
    if candidate.reject:
        return candidate.reject
    assert candidate.chosen is not None
    return judge(candidate.chosen, candidate.rejected, settings.max_length_ratio)


def _result(workspace: Workspace, outcomes: Sequence[Mapping[str, Any]]) -> Result:
    pairs = [Pair.stored(row["pair"]) for row in outcomes if "pair" in row]
    rejects = [Reject.stored(row["reject"]) for row in outcomes if "reject" in row]
    dropped = Counter(reject.reason for reject in rejects)
    if not pairs:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common())
        advice = ADVICE[dropped.most_common(1)[0][0]] if dropped else "name more dialogues in data.contexts"
        raise PermanentError("NoPairs", f"none of {len(outcomes)} rows became a pair ({reasons}); {advice}")
    attempts = Counter(row["attempts"] for row in outcomes if row["attempts"])
    lengths = {side: sum(words(getattr(pair, side)) for pair in pairs) for side in ("chosen", "rejected")}
    outputs = {name: workspace.scratch / f"{name}.jsonl" for name in ("pairs", "rejects")}
    write_rows(outputs["pairs"], pairs)
    write_rows(outputs["rejects"], rejects)
    return Result(
        outputs=outputs,
        counts={
            "read": len(outcomes),
            "pairs": len(pairs),
            **{f"dropped.{reason}": count for reason, count in sorted(dropped.items())},
            **{f"attempts.{tries}": count for tries, count in sorted(attempts.items())},
            "truncated": sum(row["truncated"] for row in outcomes),
            **({"thoughts": thoughts} if (thoughts := sum(row.get("thought", False) for row in outcomes)) else {}),
        },
        metrics={f"{side}_words": round(length / len(pairs), 2) for side, length in lengths.items()},
        tokens=sum(row["tokens"] for row in outcomes),
    )


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
