"""generate: M(t-1) answers each context directly; the answer becomes `rejected` (arXiv 2505.16610, section 3).

With `spec.ahead`, it also makes the rows of the reflect stage that reads its answers (`stages.ahead`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    ahead = RewritesAhead.of(workspace)
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
            **({"ahead": ahead.count(responses)} if ahead else {}),
        },
        metrics={"words": round(sum(words(response.text) for response in responses) / len(responses), 2)},
        tokens=sum(response.tokens for response in responses),
    )


def _answer(
    workspace: Workspace, settings: GenerationSettings, own: Mapping[str, Context], ahead: RewritesAhead | None
) -> None:
    """Answer the contexts that have no answer, and make the answers durable, a batch at a time.

    With `ahead`, each batch is rewritten as well, before the next one is answered; first the answers that an earlier
    attempt has not rewritten.
    """
    if ahead:  # a batch must fit both stages
        settings = settings.model_copy(update={"token_budget": min(settings.token_budget, ahead.token_budget)})
    engine = load_engine(workspace, settings)
    finished = workspace.rows.finished()
    answered = [Response.stored(finished[id_]) for id_ in own if id_ in finished]
    known = sum(not ahead.lacks(each) for each in answered) if ahead else 0
    progress = _Progress(workspace, ahead, len(own), len(answered), known)

    def rewrite(responses: list[Response]) -> None:
        if ahead and (lacking := [each for each in responses if ahead.lacks(each)]):
            ahead.rewrite(own, lacking, engine, progress.rewritten)

    progress.report()
    rewrite(answered)
    unanswered = [context for id_, context in own.items() if id_ not in finished]
    for batch in engine.batches(_request(context, settings, workspace.spec.seed) for context in unanswered):
        responses = []
        for response in engine.generate(batch):
            responses.append(response)
            progress.answered(1)
        workspace.rows.append(dict(response) for response in responses)
        workspace.check_stop()
        rewrite(responses)


@dataclass
class _Progress:
    """Progress in rows. With rewrites ahead, a row is done once its answer is rewritten, and half done before that."""

    workspace: Workspace
    ahead: RewritesAhead | None
    total: int
    answers: int
    rewrites: int

    def answered(self, count: int) -> None:
        self.answers += count
        self.report()

    def rewritten(self, count: int) -> None:
        self.rewrites += count
        self.report()
        self.workspace.check_stop()

    def report(self) -> None:
        half = self.ahead is not None and not self.ahead.stopped
        done = (self.answers + self.rewrites) // 2 if half else self.answers
        self.workspace.progress(done, self.total, "rows")


def _request(context: Context, settings: GenerationSettings, seed: int) -> Request:
    return Request(
        id=context.id,
        messages=answer_messages(context.turns),
        sampling=Sampling.of(settings),
        seed=row_seed(seed, context.id, "answer"),
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
    )
