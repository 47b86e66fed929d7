"""How evaluate makes its rows: texts that the model samples and texts whose likelihood it computes, each durable.

What is asked is the matter of a `Part`: the answers that are scored, the probes of drift, profiles. The model is loaded once, and
all parts share its batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..contract.errors import PermanentError
from ..contract.figures import Figure
from ..contract.rows import DIVERGED, Context
from ..contract.settings import EvaluationSettings
from ..contract.workspace import Workspace, shard_of
from ..engines.base import Request
from ..training.encoding import ChatEncoder
from .chunks import chunk_size, chunks
from .models import load_engine

if TYPE_CHECKING:
    from ..engines.base import Engine

CHUNK = 128
"""Texts whose likelihoods are made durable together. The contexts of one dialogue share a forward pass."""

Finished = Mapping[str, dict[str, Any]]
"""Finished rows by id."""


class Reading(NamedTuple):
    """A text whose likelihood is computed."""

    id: str
    """The row's."""
    context: Context
    """The text is its `human`."""
    cut: bool = False
    """Whether the text has no end: it was cut at the longest length, so no end-of-turn token is read."""


@dataclass(frozen=True)
class Outcome:
    """What a part adds to the stage's result."""

    figures: Sequence[Figure] = ()
    outputs: Mapping[str, Path] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the manifest and for metrics.json, under names of their own."""
    tokens: int = 0


class Part(Protocol):
    """One thing that evaluate finds out, from rows of its own."""

    @property
    def kinds(self) -> Sequence[str]:
        """The rows of each context are `<context>/<kind>`."""
        ...

    @property
    def contexts(self) -> Sequence[Context]:
        """The contexts that it asks about."""
        ...

    def request(self, context: Context) -> Request | None:
        """What the model is to write, under the row's id; None if nothing."""
        ...

    def reading(self, context: Context, finished: Finished) -> Reading | None:
        """The text whose likelihood is wanted; None if nothing, or if its text is not sampled yet."""
        ...

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """The part's figures and files, from the rows of all shards."""
        ...


def all_finished(parts: Iterable[Part], finished: Finished) -> bool:
    """Whether every row of every part is there."""
    return all(f"{context.id}/{kind}" in finished for part in parts for context in part.contexts for kind in part.kinds)


def finish_rows(workspace: Workspace, settings: EvaluationSettings, parts: Sequence[Part]) -> None:
    """Make this shard's rows that are not finished. A model is loaded only if there are any.

    Raises PermanentError (`ModelDiverged`) if the model's likelihoods are not finite or far too large, Terminated once
    asked to stop, and what loading a model and encoding a chat raise.
    """
    shard, finished = workspace.spec.shard, workspace.rows.finished()
    own: list[tuple[Part, Context]] = []
    for part in parts:
        ids = set(shard_of((context.id for context in part.contexts), shard.index, shard.count))
        own += [(part, context) for context in part.contexts if context.id in ids]
    missing = {id_ for part, context in own for kind in part.kinds if (id_ := f"{context.id}/{kind}") not in finished}
    if not missing:
        return
    asked = [request for part, context in own if (request := part.request(context))]
    waiting = [request for request in asked if request.id in missing]
    # What no request makes is a likelihood.
    engine = load_engine(workspace, settings, scores=bool(missing - {request.id for request in waiting}))
    workspace.progress(len(asked) - len(waiting), len(asked), "rows")
    # First what needs no sampled text: a model that has diverged is found before it writes for hours.
    _read(workspace, engine, settings, own, finished)
    if waiting:
        _sample(workspace, engine, waiting, len(asked))
        _read(workspace, engine, settings, own, workspace.rows.finished())


def _sample(workspace: Workspace, engine: Engine, requests: Sequence[Request], total: int) -> None:
    done = total - len(requests)
    for part in engine.batches(requests):
        sampled = ({**dict(each), "engine": engine.name} for each in engine.generate(part))
        for rows in chunks(sampled, chunk_size(len(part))):
            workspace.rows.append(rows)
            done += len(rows)
            workspace.progress(done, total, "rows")
            workspace.check_stop()


def _read(
    workspace: Workspace,
    engine: Engine,
    settings: EvaluationSettings,
    own: Sequence[tuple[Part, Context]],
    finished: Finished,
) -> None:
    readings = [reading for part, context in own if (reading := part.reading(context, finished))]
    unread = [reading for reading in readings if reading.id not in finished]
    for start in range(0, len(unread), CHUNK):
        workspace.rows.append(_likelihoods(engine, settings, unread[start : start + CHUNK]))
        workspace.check_stop()


def _likelihoods(engine: Engine, settings: EvaluationSettings, readings: Sequence[Reading]) -> Iterable[dict[str, Any]]:
    """A row for each text: negative log-likelihood and tokens, encoded as for training. `nll` is None if it does not fit."""
    asked = settings.max_prompt_tokens + settings.max_new_tokens
    # The model's positions bound this as they bound prompts: a table of positions has no entry beyond them.
    encoder = ChatEncoder(engine.chats, min(asked, engine.positions or asked))
    # By the row, not by the context: two parts may read a text to the same one.
    by_row = {reading.id: reading for reading in readings}
    passages = encoder.answers(reading.context.model_copy(update={"id": reading.id}) for reading in readings)
    for id_, passage in passages.items():
        if by_row[id_].cut:
            passages[id_] = passage._replace(answer=passage.answer[:-1])
    read = {id_: passage for id_, passage in passages.items() if passage.answer}
    ids = list(read)
    rows: dict[str, dict[str, Any]] = {
        id_: {"id": id_, "nll": None, "tokens": 0, "engine": engine.name} for id_ in by_row
    }
    for position, nll in engine.answer_losses(list(read.values())):
        id_ = ids[position]
        tokens = len(read[id_].answer)
        if not nll < DIVERGED * tokens:  # NaN, too
            raise PermanentError(
                "ModelDiverged",
                f"context {by_row[id_].context.id}: the negative log-likelihood of the text is {nll:g}, so the model has diverged; train it "
                "again with a lower learning rate",
            )
        rows[id_] |= {"nll": nll, "tokens": tokens}
    return rows.values()
