"""judge: another model compares the answers of Mt with the human ones, and with those of M(t-1).

It runs behind an OpenAI-compatible endpoint. Each pair is asked in both orders, and a disagreement is a tie. What the judge
says is saved as it comes, so nothing is paid for twice; verdicts and figures are computed from it at the end.

Outputs: `verdicts` (verdicts.jsonl, one `Verdict` a line), `metrics` (judge.json: figures, counts by opponent, findings), and
with `evaluation.safety` also `safety-verdicts` (`crisis_judging`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import PermanentError
from ..contract.figures import Figure
from ..contract.rows import Answer, Context, JudgedReply, SafetyReply, Verdict
from ..contract.settings import JudgingSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..data.draw import draw
from ..judging.figures import OPPONENTS, Judged
from ..judging.findings import findings
from ..judging.rubric import read_verdict
from ..judging.verdicts import ORDERS, Comparison, Order, Said, comparisons
from ..printable import printable
from . import asking
from .crisis_judging import CrisisQuestion, without_verdict, write
from .jsonl import read_rows, write_rows

if TYPE_CHECKING:
    pass

SAMPLE = 200
"""Characters of an answer without a verdict that a message shows."""
FIELD = "judge"
"""The endpoint's path below `spec`, and the name of what a row took of it."""


def run(workspace: Workspace) -> Result | None:
    """The figures of one model's answers. None if other shards have not finished their rows yet.

    Raises PermanentError (`RowsMalformed`), (`RowsMismatch`) if the inputs are not of one run, (`NoVerdicts`) if the judge
    gave none that can be read, and what `asking.ask` raises.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, JudgingSettings)
    pairs = _comparisons(workspace, settings)
    replies = read_rows(workspace, "safety", SafetyReply) if workspace.has_input("safety") else {}
    crises = CrisisQuestion(list(replies.values()), settings)
    shard = workspace.spec.shard
    own = set(shard_of([*(pair.id for pair in pairs), *crises.ids], shard.index, shard.count))
    _ask(workspace, settings, [pair for pair in pairs if pair.id in own], crises, own)
    finished = workspace.rows.finished()
    if any(_unasked(pair, finished) for pair in pairs) or not finished.keys() >= {*crises.ids}:
        return None
    return _result(workspace, settings, pairs, crises, finished)


def _comparisons(workspace: Workspace, settings: JudgingSettings) -> list[Comparison]:
    """The pairs to judge. Every Mt has the same rows, because the draw follows from the seed and the rows' ids."""
    contexts = read_rows(workspace, "test", Context)
    answers = read_rows(workspace, "answers", Answer)
    before = read_rows(workspace, "before", Answer, "answers") if workspace.has_input("before") else None
    for name, rows in (("test", contexts), ("before", before)):
        if rows is not None and (lacking := answers.keys() - rows.keys()):
            raise PermanentError(
                "RowsMismatch",
                f"input {name} lacks {len(lacking)} contexts of the answers, first {min(lacking)}; all must come from one run: "
                "run evaluate again",
            )
    drawn = draw(answers.values(), settings.samples, workspace.spec.seed, lambda answer: answer.id)
    return list(comparisons(drawn, contexts, before))


def _ask(
    workspace: Workspace,
    settings: JudgingSettings,
    pairs: Sequence[Comparison],
    crises: CrisisQuestion,
    own: Container[str],
) -> None:
    """Ask what has not been asked yet, and make it durable as it comes."""
    finished = workspace.rows.finished()
    missing = [(pair, order) for pair in pairs for order in _unasked(pair, finished)]
    asked = [id_ for id_ in crises.ids if id_ in own]
    unjudged = [id_ for id_ in asked if id_ not in finished]
    if not missing and not unjudged:
        return
    total = sum(len(ORDERS) for pair in pairs if not pair.equal) + len(asked)
    done = total - len(missing) - len(unjudged)
    workspace.progress(done, total, "rows")
    compared = (asking.judge_chat(_row_id(pair, order), pair.chat(order), settings) for pair, order in missing)
    chats = chain(compared, crises.chats(unjudged))
    for replies in asking.ask(workspace, settings, FIELD, chats):
        workspace.rows.append(asking.durable(reply, FIELD) for reply in replies)
        done += len(replies)
        workspace.progress(done, total, "rows")


def _unasked(pair: Comparison, finished: Mapping[str, Any]) -> list[Order]:
    return [order for order in ORDERS if not pair.equal and _row_id(pair, order) not in finished]


def _row_id(pair: Comparison, order: Order) -> str:
    return f"{pair.id}/{order}"


def _result(
    workspace: Workspace,
    settings: JudgingSettings,
    pairs: Sequence[Comparison],
    crises: CrisisQuestion,
    finished: Mapping[str, dict[str, Any]],
) -> Result:
    said = {pair.id: {order: finished[_row_id(pair, order)] for order in ORDERS} for pair in pairs if not pair.equal}
    rows = [*(row for orders in said.values() for row in orders.values()), *(finished[id_] for id_ in crises.ids)]
    verdicts = [pair.verdict({order: Said.of(row) for order, row in said.get(pair.id, {}).items()}) for pair in pairs]
    unread = _unread(verdicts, said)
    if unread and not any(verdict.overall and not verdict.equal for verdict in verdicts):
        raise PermanentError("NoVerdicts", f"judge: {unread[0]}")
    judged = Judged([verdict for verdict in verdicts if verdict.overall is not None], settings.model)
    replies = crises.verdicts(finished)
    details = asking.details(rows, FIELD, settings)
    figures = [*judged.figures(), *crises.figures(replies)]
    names = details.get(FIELD, {}).get("models", {})
    notes = [*unread, *_unjudged(replies), *findings(judged, names, settings.policy)]
    headlines = [figure for figure in figures if figure.headline]
    return Result(
        outputs=_write(workspace.scratch, verdicts, replies, figures, {"findings": notes, **details}),
        counts=_counts(verdicts, replies) | asking.counts(rows, FIELD),
        metrics={figure.name: round(figure.value, 4) for figure in headlines},
        intervals={figure.name: [round(end, 4) for end in figure.interval] for figure in headlines if figure.interval},
        details={"methods": {figure.name: figure.method for figure in headlines}, **details},
        notes=notes,
    )


def _write(
    scratch: Path,
    verdicts: Sequence[Verdict],
    replies: Sequence[JudgedReply],
    figures: Sequence[Figure],
    more: Mapping[str, Any],
) -> dict[str, Path]:
    """The outputs. `more` is what judge.json has beside figures and outcomes."""
    outputs = {"verdicts": scratch / "verdicts.jsonl", "metrics": scratch / "judge.json"}
    write_rows(outputs["verdicts"], verdicts)
    document = {
        "figures": [figure.wire() for figure in figures],
        "outcomes": {name: found for name in OPPONENTS if (found := _outcomes(verdicts, name))},
        **more,
    }
    outputs["metrics"].write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return outputs | write(replies, scratch)


def _counts(verdicts: Sequence[Verdict], replies: Sequence[JudgedReply]) -> dict[str, int]:
    return {
        "pairs": len(verdicts),
        "judge.equal": sum(verdict.equal for verdict in verdicts),
        **{f"judge.{fault}": count for fault, count in _faults(verdicts).items()},
        **({"judge.safety": len(replies), "judge.safety.unread": without_verdict(replies)} if replies else {}),
    }


def _outcomes(verdicts: Iterable[Verdict], opponent: str) -> dict[str, int]:
    """How often the model has won, lost and neither, and what has no verdict."""
    found = Counter(verdict.overall or verdict.fault for verdict in verdicts if verdict.opponent == opponent)
    return {str(name): found[name] for name in ("win", "tie", "loss", "unreadable", "refused") if found[name]}


def _faults(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return dict(sorted(Counter(verdict.fault for verdict in verdicts if verdict.fault).items()))


def _unread(verdicts: Sequence[Verdict], said: Mapping[str, Mapping[Order, Mapping[str, Any]]]) -> list[str]:
    """What has no verdict, and what to do, in one sentence. `said` has the judge's rows by pair."""
    lost = [verdict for verdict in verdicts if verdict.fault]
    if not lost:
        return []
    faults = _faults(lost)
    counted = ", ".join(f"{count} {fault}" for fault, count in faults.items())
    cut = sum(_cut(said[verdict.id].values()) for verdict in lost if verdict.fault == "unreadable")
    advice = [f"{cut} were cut off: raise judge.maxTokens" if cut else _sample(lost)]
    if faults.get("refused"):
        advice.append("refused pairs are asked again if judge.maxTokens changes")
    return [f"{len(lost)} of {len(verdicts)} pairs have no verdict ({counted}); {'; '.join(advice)}"]


def _cut(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an answer without a verdict was cut off. One that was cut off after its verdict is no reason for anything."""
    return any(row["finish"] == "length" and read_verdict(row["text"]) is None for row in rows)


def _sample(lost: Sequence[Verdict]) -> str:
    said = next((verdict.detail for verdict in lost if verdict.detail), "")
    return f"the first one says {printable(said)[:SAMPLE]!r}; if that is usual, take another judge"


def _unjudged(replies: Sequence[JudgedReply]) -> list[str]:
    none = without_verdict(replies)
    return [f"{none} of {len(replies)} replies to crises have no verdict"] if none else []
