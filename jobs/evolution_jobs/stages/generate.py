"""generate: M(t-1) answers each context directly; the answer becomes `rejected` (arXiv 2505.16610, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from ..contract.errors import PermanentError
from ..contract.rows import Context, Response
from ..contract.settings import GenerationSettings
from ..contract.workspace import Result, Workspace, shard_of
from ..engines.base import Request, Sampling, row_seed
from ..preference.filters import words
from ..preference.prompts import answer_messages
from .jsonl import read_rows, write_rows
from .models import load_engine


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
    if unanswered := [contexts[id_] for id_ in own if id_ not in finished]:
        _answer(workspace, settings, unanswered, len(own))
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
        },
        metrics={"words": round(sum(words(response.text) for response in responses) / len(responses), 2)},
        tokens=sum(response.tokens for response in responses),
    )


def _answer(workspace: Workspace, settings: GenerationSettings, contexts: Sequence[Context], total: int) -> None:
    """Answer contexts and make the answers durable, a batch at a time."""
    engine = load_engine(workspace, settings)
    done = total - len(contexts)
    workspace.progress(done, total, "rows")
    for batch in engine.batches(_request(context, settings, workspace.spec.seed) for context in contexts):
        answered = []
        for response in engine.generate(batch):
            answered.append(dict(response))
            workspace.progress(done + len(answered), total, "rows")
        workspace.rows.append(answered)
        done += len(answered)
        workspace.check_stop()


def _request(context: Context, settings: GenerationSettings, seed: int) -> Request:
    return Request(
        id=context.id,
        messages=answer_messages(context.turns),
        sampling=Sampling.of(settings),
        seed=row_seed(seed, context.id, "answer"),
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
    )
