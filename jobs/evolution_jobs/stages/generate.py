"""generate: M(t-1) answers each context directly; the answer becomes `rejected` (arXiv 2505.16610, section 3).

With `spec.ahead`, it also makes the rows of the reflect stage that reads its answers (`stages.ahead`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..contract.errors import PermanentError
from ..contract.rows import Context, Response
from ..contract.settings import GenerationSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..engines.base import Request, Sampling, row_seed
from ..preference.filters import words
from ..preference.prompts import answer_messages
from .ahead import RewritesAhead
from .jsonl import read_rows, write_rows
from .models import load_engine
from .outcomes import CHUNKS

if TYPE_CHECKING:
    from ..engines.base import Engine


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
    return Result(
        outputs={"responses": output},
        counts={
            "read": len(contexts),
            "responses": len(responses),
            "truncated": sum(response.truncated_turns > 0 for response in responses),
            "cut": sum(response.finish == "length" for response in responses),
            **({"thoughts": thoughts} if (thoughts := sum(row.get("thought", False) for row in rows)) else {}),
            **({"ahead": len(ahead.finished(responses))} if ahead else {}),
        },
        metrics={"words": round(sum(words(response.text) for response in responses) / len(responses), 2)},
        tokens=sum(response.tokens for response in responses),
    )


def _answer(
    workspace: Workspace, settings: GenerationSettings, own: Mapping[str, Context], ahead: RewritesAhead | None
) -> None:
    """Answer the contexts that have no answer, and rewrite the answers ahead."""
    if ahead:  # a batch must fit both stages
        settings = settings.model_copy(update={"token_budget": min(settings.token_budget, ahead.token_budget)})
    engine = load_engine(workspace, settings)
    try:
        _sample(workspace, settings, engine, own, ahead)
    except PermanentError as error:
        if ahead is None:
            raise
        # If the fault is generate's own, it comes again.
        ahead.leave(error)
        _sample(workspace, settings, engine, own, None)


def _sample(
    workspace: Workspace,
    settings: GenerationSettings,
    engine: Engine,
    own: Mapping[str, Context],
    ahead: RewritesAhead | None,
) -> None:
    """Sample what is not durable yet, and make it durable, some rows at a time.

    Progress is in rows: with `ahead`, a row is half done with its answer and done with its rewrite.
    """
    stored = workspace.rows.finished()
    answers = {id_: Response.stored(stored[id_]) for id_ in own if id_ in stored}
    known = ahead.finished(answers.values()) if ahead else set(answers)
    requests = [_request(context, settings, workspace.spec.seed) for id_, context in own.items() if id_ not in answers]
    if ahead:
        unwritten = [ahead.follow(answer) for id_, answer in answers.items() if id_ not in known]
        requests += [request for request in unwritten if request]
    rewrites = len(known)
    fresh: list[Response] = []

    def keep(least: int) -> None:
        nonlocal rewrites, fresh
        if workspace.stopping:
            least = 1
        if kept := len(fresh) >= least:
            workspace.rows.append(dict(answer) for answer in fresh)
            fresh = []
        rewritten = ahead.keep(least) if ahead else 0
        rewrites = rewrites + rewritten if ahead else len(answers)
        workspace.progress((len(answers) + rewrites) // 2, len(own), "rows")
        if kept or rewritten or workspace.stopping:
            workspace.check_stop()

    workspace.progress((len(answers) + rewrites) // 2, len(own), "rows")
    for part in engine.batches(requests):
        for response in engine.generate(part, ahead.follow if ahead else None):
            if response.id not in answers:
                answers[response.id] = response
                fresh.append(response)
            keep(max(1, len(part) // CHUNKS))
        keep(1)


def _request(context: Context, settings: GenerationSettings, seed: int) -> Request:
    return Request(
        id=context.id,
        messages=answer_messages(context.turns),
        sampling=Sampling.of(settings),
        seed=row_seed(seed, context.id, "answer"),
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
    )
