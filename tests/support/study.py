"""Small studies: answers of models that a test can tell apart, and files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evolution_operator.study.design import draw_pairs, make_checks, orders
from evolution_operator.study.records import HUMAN, MAIN_QUESTION, Sample, Study, Utterance
from evolution_operator.study.storage import create

HOSTILE = '<script>alert(1)</script> & <b>"bold"</b> {{ 7*7 }} \u202e'
"""Text that a page must show as it is."""


def sample(dialogue: str, position: int, models: Sequence[str] = ("M0", "M1"), **answers: str) -> Sample:
    """A context whose answers tell a test which model wrote them, by words that are not the models' names."""
    words = {HUMAN: f"kind and warm words of a person for {dialogue} at turn {position}"}
    words |= {name: f"machine{number} speaks about {dialogue} at turn {position}" for number, name in enumerate(models)}
    turns = [Utterance(role="seeker", text=f"I feel low {dialogue}"), Utterance(role="supporter", text="Tell me more")]
    return Sample(f"{dialogue}-{position}", dialogue, turns, position > len(turns), words | answers)


def samples(dialogues: int, each: int, models: Sequence[str] = ("M0", "M1")) -> list[Sample]:
    """Contexts: `each` of every dialogue."""
    return [
        sample(f"d{dialogue}", position, models)
        for dialogue in range(dialogues)
        for position in range(3, 3 + 2 * each, 2)
    ]


def study(models: Sequence[str] = ("M0", "M1"), **fields: Any) -> Study:
    """What holds for a study."""
    known: dict[str, Any] = {
        "title": "Study of answers",
        "introduction": [],
        "contact": "Jo Doe",
        "questions": [MAIN_QUESTION],
        "models": list(models),
        "seed": 7,
        "created": 1e9,
        "equal_left_out": 0,
    }
    return Study(**known | fields)


def make_study(
    path: Path,
    given: Sequence[Sample],
    pairs: int,
    checks: int,
    tokens: Sequence[str],
    models: Sequence[str] = ("M0", "M1"),
    **fields: Any,
) -> Path:
    """A new study's file."""
    document = study(models, **fields)
    items, _ = draw_pairs(given, models, pairs, document.seed)
    items += make_checks(given, checks, document.seed, {item.context for item in items})
    create(path, document, items, orders(items, len(tokens), document.seed), tokens)
    return path


def write_answers(path: Path, model: str, given: Iterable[Sample]) -> Path:
    """A file as an evaluate stage writes it."""
    with path.open("w", encoding="utf-8") as file:
        for each in given:
            row = {
                "id": each.id,
                "dialogue": each.dialogue,
                "context": [turn.wire() for turn in each.turns],
                "human": each.answers[HUMAN],
                "answer": each.answers[model],
                "tokens": 5,
                "finish": "stop",
                "truncatedTurns": 0,
                "nllTokens": 3,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path
