"""What a run will train on, found without a GPU and without weights: prepare's checks, three examples, and an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from .chat.chats import Chats
from .chat.trial import spelled, try_chats
from .contract.document import Document
from .contract.locations import Storage
from .contract.rows import Context
from .contract.settings import DpoSettings, EvaluationSettings, PrepareSettings, SamplingSettings, SftSettings
from .contract.stage import Node
from .data.gather import gather
from .models.resolve import examine
from .preference.prompts import answer_messages
from .training.encoding import IGNORED, ChatEncoder, Encoded, Example
from .training.schedule import optimiser_steps

EXAMPLES = 3
SAMPLED = 200
"""Contexts whose prompts are encoded for the estimate."""


class Run(Document):
    """A piece of an example's text."""

    text: str
    learnt: bool


class Estimate(Document):
    """What a stage will compute."""

    stage: str
    rows: int
    """At most, for dpo: reflect drops rows."""
    steps: int | None = None
    """Optimiser steps, at most."""
    prompt_tokens: int | None = None
    """About, from a sample of the rows."""
    tokens: int
    """Trained on in all epochs, or sampled at most."""


class Survey(Document):
    """The answer to `evolution validate --deep`."""

    counts: dict[str, int]
    """As in prepare's manifest, and those of sft's encoding under `sft.`."""
    details: dict[str, Any]
    """As in prepare's manifest: sources with their pins, skipped records."""
    notes: list[str]
    """What to know of the model's chats and the data."""
    examples: list[list[Run]]
    """The first training dialogues as sft sees them."""
    estimates: list[Estimate]


def survey(graph: Sequence[Node], storage: Storage, seed: int, directory: Path) -> Survey:
    """Check a run's data and model as prepare does, and encode what sft trains on. Downloads go below `directory`.

    Raises what prepare raises, and PermanentError (`ChatTemplate`).
    """
    by_kind = {node.kind: node.settings for node in reversed(graph)}
    prepare, sft = by_kind["prepare"], by_kind["sft"]
    assert isinstance(prepare, PrepareSettings)
    assert isinstance(sft, SftSettings)
    chats = examine(prepare.base_model, storage, directory, prepare.model_use)
    longest = max(prepare.model_use.prompts.values(), default=None)
    data = gather(prepare, storage, directory, seed, lambda: None, lambda: None, longest)
    asked, tested = list(data.asked), list(data.tested)
    met, notes = spelled(chats, data.texts())
    counts = {
        **data.counts,
        **met,
        "train": len(data.train),
        "validation": len(data.validation),
        "replay": len(data.replay),
        "contexts": len(asked),
        "test": len(tested),
        "turns": sum(len(dialogue.turns) for dialogue in [*data.train, *data.validation]),
    }
    encoder = ChatEncoder(chats, sft.max_length)
    train, replay = encoder.dialogues(data.train), encoder.instructions(data.replay)
    return Survey(
        counts={name: count for name, count in {**counts, **_encoded(train, replay)}.items() if count},
        details=data.details,
        notes=[*try_chats(chats), *notes],
        examples=[_runs(chats, row) for each in data.train[:EXAMPLES] for row in encoder.dialogues([each]).rows[-1:]],
        estimates=[
            _trained("sft", sft, [example.tokens for example in [*train.rows, *replay.rows]]),
            *(_stage(node, chats, asked, tested) for node in graph if node.kind not in ("prepare", "sft")),
        ],
    )


def _encoded(train: Encoded[Example], replay: Encoded[Example]) -> dict[str, int]:
    learnt = sum(label != IGNORED for example in train.rows for label in example.labels)
    return {
        "sft.dialogues": train.dialogues,
        "sft.sequences": len(train.rows),
        "sft.supporterTurns": sum(example.turns for example in train.rows),
        "sft.unlearnt": train.unlearnt,
        "sft.tokens": sum(example.tokens for example in train.rows),
        "sft.learntTokens": learnt,
        "sft.truncated": train.truncated,
        "sft.dropped.silent": train.silent,
        "sft.dropped.too_long": train.too_long + replay.too_long,
    }


def _stage(node: Node, chats: Chats, asked: Sequence[Context], tested: Sequence[Context]) -> Estimate:
    settings = node.settings
    contexts = tested if node.kind == "evaluate" else asked
    sampled = [len(chats.prompt(answer_messages(context.turns))) for context in islice(contexts, SAMPLED)]
    if isinstance(settings, DpoSettings):
        # An answer is about as long as the person's. The prompt counts once for both answers.
        answers = [
            len(chats.passage([{"role": "user", "content": "."}], each.human).answer) for each in contexts[:SAMPLED]
        ]
        pairs = zip(sampled, answers, strict=True)
        lengths = [min(prompt, settings.max_length - answer) + 2 * answer for prompt, answer in pairs]
        return _trained(node.id, settings, _spread(lengths, len(contexts)))
    assert isinstance(settings, SamplingSettings)
    rows = len(contexts)
    if isinstance(settings, EvaluationSettings) and settings.samples:
        rows = min(rows, settings.samples)
    bounded = [min(length, settings.max_prompt_tokens) for length in sampled]
    return Estimate(
        stage=node.id,
        rows=rows,
        prompt_tokens=sum(_spread(bounded, rows)),
        tokens=rows * settings.max_new_tokens,
    )


def _spread(lengths: Sequence[int], rows: int) -> list[int]:
    """The lengths of `rows` rows, as far as a sample tells: each row is as long as the sample's mean."""
    return [round(sum(lengths) / len(lengths))] * rows if lengths else []


def _trained(stage: str, settings: SftSettings | DpoSettings, lengths: Sequence[int]) -> Estimate:
    visited = max(1, round(settings.epochs * len(lengths)))
    return Estimate(
        stage=stage,
        rows=len(lengths),
        steps=optimiser_steps(visited, settings.batch_size, settings.gradient_accumulation),
        tokens=round(settings.epochs * sum(lengths)),
    )


def _runs(chats: Chats, example: Example) -> list[Run]:
    pairs = zip(example.input_ids, example.labels, strict=True)
    return [
        Run(text=chats.tokens.decode([id_ for id_, _ in run]), learnt=learnt)
        for learnt, run in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]
