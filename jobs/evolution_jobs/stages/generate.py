"""generate: M(t-1) answers each context directly; the answer becomes `rejected` (arXiv 2505.16610, section 3).

With `spec.ahead`, it also makes the rows of the reflect stage that reads its answers (`stages.ahead`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..contract.errors import PermanentError, Terminated
from ..contract.rows import Context, Response
from ..contract.settings import GenerationSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..engines.base import Request, row_seed
from ..preference.filters import words
from .ahead import RewritesAhead
from .chunks import chunk_size
from .direct import direct_request
from .jsonl import read_rows, write_rows
from .models import engines_of, load_engine, mixed

if TYPE_CHECKING:
    from ..engines.base import Engine

log = logging.getLogger(__name__)


def run(workspace: Workspace) -> Result | None:
    """Output `responses`: one `Response` a context, in the contexts' order. None if other shards are not done yet.

    Raises PermanentError (`RowsMalformed`, `NoContexts`) and what loading a model and encoding a chat raise.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, GenerationSettings)
    contexts = read_rows(workspace, "contexts", Context)
    if not contexts:
        raise PermanentError("NoContexts", "there are no contexts to answer; name more dialogues in data.contexts")
    shard = workspace.spec.shard
    own = list(shard_of(contexts, shard.index, shard.count))
    finished = workspace.rows.finished()
    ahead = RewritesAhead.of(workspace, contexts)
    if any(id_ not in finished for id_ in own):
        _answer(workspace, settings, {id_: contexts[id_] for id_ in own}, ahead)
        finished = workspace.rows.finished()
    if not contexts.keys() <= finished.keys():
        return None
    rows = [finished[id_] for id_ in contexts]
    responses = [Response.stored(row) for row in rows]
    output = workspace.scratch / "responses.jsonl"
    write_rows(output, responses)
    engines = engines_of(rows)
    return Result(
        outputs={"responses": output},
        counts={
            "read": len(contexts),
            "responses": len(responses),
            "truncated": sum(response.truncated_turns > 0 for response in responses),
            "cut": sum(response.finish == "length" for response in responses),
            **({"thoughts": thoughts} if (thoughts := sum(row.get("thought", False) for row in rows)) else {}),
            **({"ahead": ahead.count(responses)} if ahead else {}),
        },
        metrics={"words": round(sum(words(response.text) for response in responses) / len(responses), 2)},
        details=engines,
        notes=mixed(engines),
        tokens=sum(response.tokens for response in responses),
    )


def _answer(
    workspace: Workspace, settings: GenerationSettings, own: Mapping[str, Context], ahead: RewritesAhead | None
) -> None:
    """Answer the contexts that have no answer, and rewrite these answers ahead."""
    if ahead:  # a batch must fit both stages
        settings = settings.model_copy(update={"token_budget": min(settings.token_budget, ahead.settings.token_budget)})
    engine = load_engine(workspace, settings, others=[ahead.settings] if ahead else [])
    if ahead:
        ahead.engine = engine.name
    try:
        _sample(workspace, settings, engine, own, ahead)
    except PermanentError as error:
        if ahead is None:
            raise
        workspace.rows.append({**dict(answer), "engine": engine.name} for answer in ahead.leave())
        # If the fault is generate's own, it comes again. Else reflect meets it again, and reports it as its own.
        _sample(workspace, settings, engine, own, None)
        log.warning("the rows of %s are left to that stage: %s: %s", ahead.stage, error.reason, error)


def _sample(
    workspace: Workspace,
    settings: GenerationSettings,
    engine: Engine,
    own: Mapping[str, Context],
    ahead: RewritesAhead | None,
) -> None:
    """Sample the answers that are not durable yet, and make them durable, some rows at a time.

    With `ahead`, an answer becomes durable after its rewrite. So once all answers are there, all rows ahead are, too. A
    row then counts half for its answer and half for its rewrite in the progress.
    """
    finished = workspace.rows.finished()
    requests = [_request(context, settings, workspace.spec.seed) for id_, context in own.items() if id_ not in finished]
    answered: set[str] = set()
    ended, durable = 0, len(own) - len(requests)
    fresh: list[Response] = []

    def save() -> None:
        nonlocal fresh
        if ahead:
            ahead.keep()
        workspace.rows.append({**dict(answer), "engine": engine.name} for answer in fresh)
        fresh = []

    def keep(least: int) -> None:
        workspace.progress(durable + (len(answered) + ended) // 2, len(own), "rows")
        if len(fresh) >= least or workspace.stopping:
            save()
            workspace.check_stop()

    keep(1)
    try:
        for part in engine.batches(requests):
            for response in engine.generate(part, ahead.follow if ahead else None):
                answered.add(response.id)
                done = ahead.ended() if ahead else [response]
                fresh += done
                ended += len(done)
                keep(chunk_size(len(part)))
            keep(1)
    except (Terminated, PermanentError):  # an engine may stop, or find a fault, within a part
        save()
        raise


def _request(context: Context, settings: GenerationSettings, seed: int) -> Request:
    return direct_request(context, settings, id=context.id, seed=row_seed(seed, context.id, "answer"))
