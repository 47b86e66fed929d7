"""Signs of failing self-evolution: found where they are planted, absent where answers are like the human ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.signatures import Signature, log_odds_z, openings, signatures
from evolution_jobs.metrics.style import asks, holds_list, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vocabulary import VOCABULARY


def text(generator: np.random.Generator) -> str:
    """One to three sentences of five to nine words, some of them questions."""
    sentences = []
    for _ in range(generator.integers(1, 4)):
        words = " ".join(generator.choice(VOCABULARY, generator.integers(5, 10)))
        sentences.append(words + (".", "?")[int(generator.random() < 0.4)])
    return " ".join(sentences)


def rows(change=lambda text, number: text, count: int = 80) -> Answered:
    """Answers drawn from the law of the human ones, each then changed."""
    own, humans = np.random.default_rng(1), np.random.default_rng(2)
    return Answered(
        answers=[change(text(own), number) for number in range(count)],
        humans=[text(humans) for _ in range(count)],
        dialogues=[str(number // 2) for number in range(count)],
    )


def present(answered: Answered) -> set[str]:
    return {each.name for each in signatures(answered) if each.present}


def test_answers_like_the_human_ones_have_no_sign() -> None:
    found = signatures(rows())
    assert [each.name for each in found if each.present] == []
    assert all(each.threshold and each.sentence for each in found)


@pytest.mark.parametrize(
    ("change", "signs"),
    [
        (lambda text, number: f"It sounds like {text}" if number % 4 == 0 else text, {"stock_phrase_rate", "openings"}),
        (lambda text, number: f"{text} {text} {text}", {"self_repeat", "length_words"}),
        (lambda text, number: "Tell me more about your sister today." if number % 3 == 0 else text, {"duplicate_rate", "openings"}),
        (lambda text, number: text.replace("?", "."), {"question_rate"}),
        (lambda text, number: f"{text} why is that?", {"question_rate"}),
        (lambda text, number: f"{text}\n- call her\n- write to her" if number % 5 == 0 else text, {"list_rate"}),
    ],
)  # fmt: skip
def test_a_planted_sign_is_found(change, signs) -> None:
    assert signs <= present(rows(change))


def test_one_shape_for_every_answer_is_formulaic() -> None:
    def alike(text: str, number: int) -> str:
        words = text.replace(".", "").replace("?", "").split()
        return f"{' '.join(words[:5])}. {' '.join(words[5:])} so?"

    (found,) = [each for each in signatures(rows(alike)) if each.name == "shape_share"]
    assert found.present
    assert found.value == 100


def test_an_opening_of_control_characters_cannot_write_to_the_terminal() -> None:
    found = openings(rows(lambda text, number: f"i \x1bchear\x9b you {text}" if number % 2 else text))
    assert found.present
    for shown in (found.sentence, *found.examples):
        assert shown.isprintable(), shown
        assert "hear" in shown


def test_an_opening_is_named_with_its_counts() -> None:
    (found,) = [
        each
        for each in signatures(rows(lambda text, number: f"i hear you {text}" if number % 2 else text))
        if each.name == "openings"
    ]
    assert found.examples == ["i hear you (40 of 80, human 0)"]
    assert found.sentence == '50 % of the answers begin with "i hear you", of the human ones 0 %'


def shape_of(answered: Answered) -> list[Signature]:
    return [each for each in signatures(answered) if each.name == "shape_share"]


def test_answers_cut_before_their_first_sentence_ends_have_no_shape() -> None:
    """They all would have the same one."""
    whole = rows()
    cut = [number % 10 != 0 for number in range(len(whole))]
    answers = ["so it is and so it is" if each else text for each, text in zip(cut, whole.answers, strict=True)]
    (known,) = shape_of(replace(whole, answers=answers, cut=cut))
    (unknown,) = shape_of(replace(whole, answers=answers))
    assert unknown.present
    assert not known.present
    kept = whole.only(range(0, len(whole), 10))
    (alone,) = shape_of(kept)
    assert (known.value, known.human) == (alone.value, alone.human)
    assert known.sentence == f"{alone.sentence}; 72 answers were cut off and do not count"
    assert shape_of(replace(whole, cut=[True] * len(whole))) == []


def test_answers_too_short_for_an_opening_count_on_neither_side() -> None:
    """Of the longer answers, every other one opens alike on both sides; most human answers are one word."""
    opened = [f"i hear you {text(np.random.default_rng(3))}", "why did she say that?"]
    found = openings(Answered(answers=opened * 40, humans=(opened + ["yes."] * 8) * 8))
    assert not found.present, found.sentence


def test_a_few_odd_answers_are_no_sign() -> None:
    assert present(rows(lambda text, number: f"It sounds like {text}" if number < 2 else text)) == set()


def test_one_dialogue_raises_no_alarm_but_says_its_figures() -> None:
    answered = Answered(["It sounds like it."] * 2, ["Why?"] * 2, dialogues=["d", "d"])
    found = {each.name: each for each in signatures(answered)}
    assert found["stock_phrase_rate"].value == 100
    assert not found["stock_phrase_rate"].present


def test_log_odds_by_hand_and_its_symmetry() -> None:
    ours, theirs = Counter(a=30, b=70), Counter(a=10, b=90)
    # A prior of 4 and 16: (30 + 4) of 120 against (10 + 4) of 120.
    expected = (np.log(34 / 86) - np.log(14 / 106)) / np.sqrt(1 / 34 + 1 / 14)
    assert log_odds_z("a", ours, theirs) == pytest.approx(expected)
    assert log_odds_z("a", theirs, ours) == pytest.approx(-expected)
    assert log_odds_z("c", ours, theirs) == 0
    assert log_odds_z("a", Counter(a=3), Counter(a=3)) == 0


@pytest.mark.parametrize(
    ("said", "expected", "question", "listed"),
    [
        ("I see. That hurts! Why?", "..?", True, False),
        ("Really?! I see...", "?.", True, False),
        ("no mark", ".", False, False),
        ("你好。为什么？", ".?", True, False),
        ("Try:\n1. rest\n2) walk", ".", False, True),
        ("- one", ".", False, False),
    ],
)
def test_shapes_questions_and_lists(said: str, expected: str, question: bool, listed: bool) -> None:
    if not listed:
        assert shape(said) == expected
    assert (asks(said), holds_list(said)) == (question, listed)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.text(min_size=1, max_size=40)), min_size=1, max_size=6))
def test_any_text_has_signatures_within_bounds(pairs) -> None:
    answers, humans = zip(*pairs, strict=True)
    for each in signatures(Answered(answers, humans)):
        assert each.value >= 0
        assert each.name == "length_words" or each.value <= 100 + 1e-9
