"""What a run will train on, found without a GPU and without weights: prepare's checks, three examples, and an estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from .chat.chats import Chats
from .chat.trial import spelled
from .contract.document import Document
from .contract.locations import Storage
from .contract.rows import Context
from .contract.settings import DpoSettings, EvaluationSettings, PrepareSettings, SamplingSettings, SftSettings
from .contract.stage import Node
from .data.gather import gather
from .models.resolve import examine
from .models.reward import examine_reward
from .models.sentence import examine_sentence
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
    chats, notes = examine(prepare.base_model, storage, directory, prepare.model_use)
    if prepare.reward:
        examine_reward(prepare.reward, storage, directory)
    if prepare.sentence_model:
        examine_sentence(prepare.sentence_model, storage, directory)
    longest = prepare.model_use.longest_prompt
    data = gather(prepare, storage, directory, seed, lambda: None, lambda: None, longest, prepare.labels or ())
    asked, tested = (_Sample.of(chats, list(each)) for each in (data.asked, data.tested))
    met, spelled_notes = spelled(chats, data.texts())
    counts = {
        **data.counts,
        **met,
        "train": len(data.train),
        "validation": len(data.validation),
        "replay": len(data.replay),
        "contexts": asked.rows,
        "test": tested.rows,
        "turns": sum(len(dialogue.turns) for dialogue in [*data.train, *data.validation]),
    }
    encoder = ChatEncoder(chats, sft.max_length)
    train, replay = encoder.dialogues(data.train), encoder.instructions(data.replay)
    return Survey(
        counts={name: count for name, count in {**counts, **_encoded(train, replay)}.items() if count},
        details=data.details,
        notes=[*notes, *spelled_notes],
        examples=[_runs(chats, row) for each in data.train[:EXAMPLES] for row in encoder.dialogues([each]).rows[-1:]],
        estimates=[
            _trained(
                "sft", sft, len(train.rows) + len(replay.rows), sum(row.tokens for row in train.rows + replay.rows)
            ),
            *(
                _stage(node, tested if node.kind == "evaluate" else asked)
                for node in graph
                if node.kind not in ("prepare", "sft")
            ),
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


@dataclass(frozen=True)
class _Sample:
    """How long the prompts of some contexts are, and the human answers to them, in tokens. It stands for all contexts."""

    rows: int
    """Contexts in all."""
    lengths: list[tuple[int, int]]

    @classmethod
    def of(cls, chats: Chats, contexts: Sequence[Context]) -> _Sample:
        passages = (chats.passage(answer_messages(each.turns), each.human) for each in contexts[:SAMPLED])
        return cls(len(contexts), [(len(passage.prompt), len(passage.answer)) for passage in passages])

    def total(self, rows: int, length: Callable[[int, int], int]) -> int:
        """The length of `rows` contexts together, where `length` is that of one with a prompt and an answer so long."""
        if not self.lengths:
            return 0
        return round(rows * sum(length(*each) for each in self.lengths) / len(self.lengths))


def _stage(node: Node, sample: _Sample) -> Estimate:
    settings = node.settings
    if isinstance(settings, DpoSettings):
        # An answer is about as long as the person's. The prompt counts once for both answers.
        longest = settings.max_length
        tokens = sample.total(sample.rows, lambda prompt, answer: min(prompt, longest - answer) + 2 * answer)
        return _trained(node.id, settings, sample.rows, tokens)
    assert isinstance(settings, SamplingSettings)
    drawn = settings.samples if isinstance(settings, EvaluationSettings) else None
    rows = min(sample.rows, drawn or sample.rows)
    bound = settings.max_prompt_tokens
    return Estimate(
        stage=node.id,
        rows=rows,
        prompt_tokens=sample.total(rows, lambda prompt, _: min(prompt, bound)),
        tokens=rows * settings.max_new_tokens,
    )


def _trained(stage: str, settings: SftSettings | DpoSettings, rows: int, tokens: int) -> Estimate:
    visited = max(1, round(settings.epochs * rows))
    return Estimate(
        stage=stage,
        rows=rows,
        steps=optimiser_steps(visited, settings.batch_size, settings.gradient_accumulation),
        tokens=round(settings.epochs * tokens),
    )


def _runs(chats: Chats, example: Example) -> list[Run]:
    pairs = zip(example.input_ids, example.labels, strict=True)
    return [
        Run(text=chats.tokens.decode([id_ for id_, _ in run]), learnt=learnt)
        for learnt, run in groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    ]
