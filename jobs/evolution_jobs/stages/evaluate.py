"""evaluate: Mt answers held-out contexts directly, as at inference, and scores the human answers.

Every Mt answers the same contexts with the same seeds, so that only the model differs. Rows are divided among shards. A
shard that finds all rows finished computes the figures.

Outputs: `answers` (answers.jsonl, one `Answer` a line) and `metrics` (metrics.json, `metrics.score.Scores`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import PermanentError
from ..contract.rows import Answer, Context
from ..contract.settings import EvaluationSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..data.draw import draw
from ..engines.base import Request, Sampling, row_seed
from ..metrics.answered import Answered
from ..metrics.score import score
from ..preference.prompts import answer_messages
from ..training.encoding import ChatEncoder
from .chunks import chunk_size, chunks
from .jsonl import read_rows, write_rows
from .models import engines_of, load_engine, mixed

if TYPE_CHECKING:
    from ..engines.base import Engine

CONTEXT_TAIL = 3
"""Number of the context's last turns in answers.jsonl."""
CHUNK = 128
"""Contexts whose likelihoods are made durable together. The contexts of one dialogue share a forward pass."""

DIVERGED = 100.0
"""Nats a token; a working model stays far below. A uniform guess has 12 for a vocabulary of 150,000."""


def run(workspace: Workspace) -> Result | None:
    """The figures of one model. None if other shards have not finished their rows yet.

    Raises PermanentError (`RowsMalformed`), (`TestSet`) if there is nothing to evaluate on, (`ModelDiverged`) if the
    model's likelihoods are not finite or far too large, and what loading a model and encoding a chat raise.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, EvaluationSettings)
    contexts = read_rows(workspace, "test", Context)
    if not contexts:
        raise PermanentError("TestSet", "input test: there are no contexts to answer; name more dialogues in data.test")
    drawn = draw(contexts.values(), settings.samples, workspace.spec.seed, lambda context: context.id)
    shard = workspace.spec.shard
    own = set(shard_of((context.id for context in drawn), shard.index, shard.count))
    _finish_rows(workspace, settings, [context for context in drawn if context.id in own])
    finished = workspace.rows.finished()
    if _unfinished(drawn, finished, "answer") or _unfinished(drawn, finished, "likelihood"):
        return None
    answers = [_answer(context, finished) for context in drawn]
    thoughts = sum(finished[f"{context.id}/answer"].get("thought", False) for context in drawn)
    counts = {"read": len(contexts), **({"thoughts": thoughts} if thoughts else {})}
    return _result(workspace.scratch, answers, counts, engines_of(finished.values()))


def _finish_rows(workspace: Workspace, settings: EvaluationSettings, contexts: Sequence[Context]) -> None:
    """Compute this shard's unfinished rows: a likelihood and an answer for each context."""
    finished = workspace.rows.finished()
    unscored = _unfinished(contexts, finished, "likelihood")
    unanswered = _unfinished(contexts, finished, "answer")
    if not unscored and not unanswered:
        return
    engine = load_engine(workspace, settings, scores=bool(unscored))
    requests = [_request(context, settings, workspace.spec.seed) for context in unanswered]

    done = len(contexts) - len(unanswered)
    workspace.progress(done, len(contexts), "rows")
    for start in range(0, len(unscored), CHUNK):
        workspace.rows.append(_likelihoods(engine, settings, unscored[start : start + CHUNK]))
        workspace.check_stop()
    for part in engine.batches(requests):
        answers = ({**dict(each), "id": f"{each.id}/answer", "engine": engine.name} for each in engine.generate(part))
        for rows in chunks(answers, chunk_size(len(part))):
            workspace.rows.append(rows)
            done += len(rows)
            workspace.progress(done, len(contexts), "rows")
            workspace.check_stop()


def _request(context: Context, settings: EvaluationSettings, seed: int) -> Request:
    return Request(
        id=context.id,
        messages=answer_messages(context.turns),
        sampling=Sampling.of(settings),
        # Without the iteration, so that the seed is the same for every Mt.
        seed=row_seed(seed, context.id, "evaluate"),
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
    )


def _likelihoods(engine: Engine, settings: EvaluationSettings, contexts: Sequence[Context]) -> Iterable[dict[str, Any]]:
    """A row for each context: negative log-likelihood and tokens of its human answer, encoded as for training."""
    asked = settings.max_prompt_tokens + settings.max_new_tokens
    # The model's positions bound this as they bound prompts: a table of positions has no entry beyond them.
    encoder = ChatEncoder(engine.chats, min(asked, engine.positions or asked))
    passages = encoder.answers(contexts)
    ids = list(passages)
    rows: dict[str, dict[str, Any]] = {
        context.id: {"id": f"{context.id}/likelihood", "nll": None, "tokens": 0, "engine": engine.name}
        for context in contexts
    }
    for position, nll in engine.answer_losses(list(passages.values())):
        id_ = ids[position]
        tokens = len(passages[id_].answer)
        if not nll < DIVERGED * tokens:  # NaN, too
            raise PermanentError(
                "ModelDiverged",
                f"context {id_}: the negative log-likelihood of the human answer is {nll:g}, so the model has "
                "diverged; train it again with a lower learning rate",
            )
        rows[id_] |= {"nll": nll, "tokens": tokens}
    return rows.values()


def _result(
    directory: Path, answers: Sequence[Answer], counts: Mapping[str, int], engines: Mapping[str, Mapping[str, int]]
) -> Result:
    scores = score(Answered.of(answers), [answer.set for answer in answers])
    answers_file, metrics_file = directory / "answers.jsonl", directory / "metrics.json"
    write_rows(answers_file, answers)
    metrics_file.write_text(json.dumps(scores, ensure_ascii=False, indent=2) + "\n", "utf-8")
    headlines = {figure["name"] for figure in scores["figures"] if figure.get("headline")}
    return Result(
        outputs={"answers": answers_file, "metrics": metrics_file},
        counts={
            **counts,
            "kept": len(answers),
            "truncated": sum(answer.truncated_turns > 0 for answer in answers),
            "perplexity.tooLong": sum(answer.nll is None for answer in answers),
        },
        # Four decimal places save room in the termination message, and no figure is more precise. metrics.json has all.
        metrics={name: round(value, 4) for name, value in scores["metrics"].items() if name in headlines},
        details={**{name: scores[name] for name in ("intervals", "human", "methods")}, **engines},
        notes=[*mixed(engines), *(each["sentence"] for each in scores["signatures"] if each["present"])],
        tokens=sum(answer.tokens for answer in answers),
    )


def _answer(context: Context, finished: Mapping[str, dict[str, Any]]) -> Answer:
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
    )


def _unfinished(contexts: Iterable[Context], finished: Mapping[str, Any], row: str) -> list[Context]:
    return [context for context in contexts if f"{context.id}/{row}" not in finished]
