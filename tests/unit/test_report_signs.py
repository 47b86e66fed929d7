"""Answers that show a sign of failing self-evolution, for a reader who wants to see it."""

from __future__ import annotations

from typing import Any

import pytest
from evolution_jobs.contract.rows import Answer
from evolution_operator.reporting.scores import StoredSign
from evolution_operator.reporting.signs import examples, signs

from tests.support.report import make_answers, make_facts


def said(*texts: str) -> list[Answer]:
    (row,) = make_answers(0, 1)
    return [row.model_copy(update={"id": str(place), "answer": text}) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("name", "sign", "texts", "shown"),
    [
        ("stock_phrase_rate", {}, ["I'm sorry to hear that.", "Who knows?"], ["0"]),
        ("self_repeat", {}, ["a b c d e", "no no no no no no", "x a b c d y a b c d"], ["1", "2"]),
        ("duplicate_rate", {}, ["Be calm.", "Breathe.", "be  calm."], ["0", "2"]),
        ("shape_share", {}, ["One. Two?", "One.", "Three. Four?"], ["0", "2"]),
        ("list_rate", {}, ["- a\n- b", "a"], ["0"]),
        ("question_rate", {"value": 90, "human": 30}, ["Why?", "So."], ["0"]),
        ("question_rate", {"value": 1, "human": 30}, ["Why?", "So."], ["1"]),
        ("length_words", {}, ["a", "a b c", "a b"], ["1", "2", "0"]),
        ("openings", {"examples": ["i 'm so (2 of 3, human 0)"]}, ["I'm so glad.", "Not I.", "I'm so so."], ["0", "2"]),
        ("openings", {}, ["a"], []),
        ("of_another_version", {}, ["a"], []),
    ],
)
def test_the_answers_that_show_a_sign_most_are_shown(
    name: str, sign: dict[str, Any], texts: list[str], shown: list[str]
) -> None:
    assert [each.id for each in examples(name, StoredSign(name=name, **sign), said(*texts))] == shown


def test_signs_of_the_newest_model_come_first_and_only_they_have_answers() -> None:
    found = signs(make_facts())
    assert [(each.name, each.present) for each in found] == [
        ("question_rate", True),
        ("stock_phrase_rate", False),
        ("openings", False),
    ]
    assert [number for number, _, _ in found[0].models] == [0, 1, 2]
    assert all("?" in each.answer for each in found[0].answers)
    assert len(found[0].answers) == 3
    assert not found[1].answers
