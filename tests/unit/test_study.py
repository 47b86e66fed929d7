"""A study's pure parts: which pairs are drawn, orders and sides, checks, figures, CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.metrics.bootstrap import bootstrap, ratio
from evolution_operator.results.spreadsheet import guarded
from evolution_operator.study.design import draw_pairs, in_turn, make_checks, orders, shuffled_words
from evolution_operator.study.export import COLUMNS, votes_as_csv
from evolution_operator.study.figures import agreement, comparison, figures, position_bias, report
from evolution_operator.study.records import Ballots, Choice, Item, Rater, Side, Vote, choice_of, side_of
from hypothesis import given
from hypothesis import strategies as st

from tests.support.study import sample, samples, study


def item(first: str = "M0", second: str = "M1", dialogue: str = "d", kind: str = "pair") -> Item:
    return Item(kind, f"{dialogue}-3", dialogue, [], False, first, second, "one", "two")  # type: ignore[arg-type]


def vote(
    rater: int, number: int, choice: Choice, swapped: bool = False, question: int = 0, seconds: float = 4.0
) -> Vote:
    return Vote(rater, number + 1, number, question, choice, swapped, 1e9, seconds, False)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 4))
def test_every_dialogue_comes_once_before_any_comes_again(seed: int, dialogues: int, each: int) -> None:
    ordered = in_turn(samples(dialogues, each), seed)
    assert sorted(found.id for found in ordered) == sorted(found.id for found in samples(dialogues, each))
    for start in range(0, len(ordered), dialogues):
        assert len({found.dialogue for found in ordered[start : start + dialogues]}) == dialogues


@given(st.integers(0, 99), st.integers(2, 4), st.data())
def test_pairs_are_different_and_evenly_divided_among_models(seed: int, count: int, data: st.DataObject) -> None:
    models = [f"M{number}" for number in range(count)]
    given_ = samples(4, 2, models)
    pairs = list(combinations(models, 2))
    wanted = data.draw(st.integers(1, 8))
    items, equal = draw_pairs(given_, models, wanted, seed)
    assert (len(items), equal) == (wanted, 0)
    counts = Counter((each.first, each.second) for each in items)
    assert max(counts.values()) - min(counts.get(pair, 0) for pair in pairs) <= 1
    everything, _ = draw_pairs(given_, models, 8 * len(pairs), seed)
    assert len({(each.context, each.first, each.second) for each in everything}) == 8 * len(pairs)
    assert everything[:wanted] == items


def test_too_many_pairs_are_refused_and_equal_answers_passed_over() -> None:
    some = [*samples(3, 1), sample("same", 3, M0="hello  there", M1="hello there ")]
    items, equal = draw_pairs(some, ["M0", "M1"], 3, 1)
    assert "same" not in {each.dialogue for each in items}
    assert equal in (0, 1), "counted only if it was met"
    with pytest.raises(PermanentError, match=r"--pairs 4: there are only 3 different pairs \(1 more have two equal"):
        draw_pairs(some, ["M0", "M1"], 4, 1)


def test_a_check_is_the_human_answer_beside_shuffled_words_of_another_dialogue() -> None:
    some = samples(5, 1)
    checks = make_checks(some, 3, 1, used={"d0-3", "d1-3"})
    assert [each.kind for each in checks] == ["check"] * 3
    assert {each.dialogue for each in checks} == {"d2", "d3", "d4"}, "contexts that no pair uses come first"
    for check in checks:
        human = {each.id: each.answers["human"] for each in some}
        assert check.first_text == human[check.context]
        donors = [text for text in human.values() if sorted(text.split()) == sorted(check.second_text.split())]
        assert len(donors) == 1
        assert donors[0] not in (check.first_text, check.second_text)
    with pytest.raises(PermanentError, match="--checks 2: only 0 contexts"):
        make_checks([sample("a", 3, human="Yes."), sample("b", 3, human="No.")], 2, 1, ())
    with pytest.raises(PermanentError, match="another dialogue"):
        make_checks(samples(1, 3), 1, 1, ())


@given(st.lists(st.text("abc ", max_size=4), max_size=12).map(" ".join), st.integers(0, 9))
def test_shuffled_words_are_the_same_words(text: str, seed: int) -> None:
    assert sorted(shuffled_words(text, seed).split()) == sorted(text.split())
    if len(set(text.split())) > 1 and text.split() != text.split()[::-1]:
        assert shuffled_words(text, seed).split() != text.split()


def test_a_script_without_spaces_is_shuffled_by_character() -> None:
    text = "我今天很难过想和你聊聊"
    assert sorted(shuffled_words(text, 1)) == sorted(text)
    assert shuffled_words(text, 1) != text


@given(st.integers(0, 99), st.integers(1, 5), st.integers(0, 20), st.integers(0, 7), st.integers(0, 3))
def test_orders_have_every_item_and_balanced_sides(seed: int, raters: int, one: int, other: int, checks: int) -> None:
    items = [item()] * one + [item("M0", "M2")] * other + [item(kind="check")] * checks
    made = orders(items, raters, seed)
    assert len(made) == raters
    for order in made:
        assert sorted(place.item for place in order) == list(range(len(items)))
        for start, stop in pairwise((0, one, one + other, len(items))):
            sides = Counter(place.swapped for place in order if start <= place.item < stop)
            assert abs(sides[True] - sides[False]) <= 1
    for even, odd in zip(made[::2], made[1::2], strict=False):
        sides_of_even = {place.item: place.swapped for place in even}
        assert all(sides_of_even[place.item] != place.swapped for place in odd)


def test_raters_have_different_orders_and_a_seed_repeats_them() -> None:
    items = [item()] * 20
    made = orders(items, 6, 1)
    assert made == orders(items, 6, 1) != orders(items, 6, 2)
    assert len({tuple(place.item for place in order) for order in made}) == 6


@given(st.sampled_from(["a", "b", "tie"]), st.booleans())
def test_a_side_is_the_same_side_after_both_ways(side: Side, swapped: bool) -> None:
    assert side_of(choice_of(side, swapped), swapped) == side
    assert {choice_of("a", swapped), choice_of("b", swapped)} == {"first", "second"}


def test_the_first_model_is_a_unless_swapped() -> None:
    assert [choice_of("a", False), choice_of("a", True), choice_of("tie", True)] == ["first", "second", "tie"]


EXAMPLE = (
    "*    *    *    *    *    3    4    1    2    1    1    3    3    *    3",
    "1    *    2    1    3    3    4    3    *    *    *    *    *    *    *",
    "*    *    2    1    3    4    4    *    2    1    1    3    3    *    4",
)
"""Krippendorff's example with three raters and missing values, which the library repeats: the nominal alpha is 0.691."""


def test_alpha_is_that_of_the_published_example(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row.split() for row in EXAMPLE]
    codes = {value: int(value) for row in rows for value in row if value != "*"}
    monkeypatch.setattr("evolution_operator.study.figures.CODES", codes)
    votes = [
        vote(rater, number, value)  # type: ignore[arg-type]
        for rater, row in enumerate(rows)
        for number, value in enumerate(row)
        if value != "*"
    ]
    found = agreement(votes)
    assert found["alpha"] == pytest.approx(0.691358, abs=1e-6)
    assert (found["raters"], found["items"]) == (3, 12)


def test_alpha_by_hand() -> None:
    """Two raters, four items, one disagreement.

    Values: first 3, second 5. Observed: 2 of 8 coincidences disagree. Expected: 2 * 3 * 5 / (8 * 7).
    """
    one: list[Choice] = ["first", "second", "second", "second"]
    two: list[Choice] = ["first", "second", "second", "first"]
    votes = [vote(rater, number, each) for rater, row in enumerate((one, two)) for number, each in enumerate(row)]
    assert agreement(votes)["alpha"] == pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)))


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ([], "no item has votes of two raters"),
        ([vote(1, 0, "first"), vote(2, 1, "second")], "no item has votes of two raters"),
        ([vote(1, 0, "tie"), vote(2, 0, "tie"), vote(1, 1, "first")], "all votes are the same"),
    ],
)
def test_where_alpha_is_undefined_it_says_why(votes: Sequence[Vote], reason: str) -> None:
    found = agreement(votes)
    assert found["alpha"] is None
    assert reason in found["reason"]


def test_win_rate_by_hand() -> None:
    items = [item(dialogue=f"d{number}") for number in range(4)]
    votes = [vote(1, 0, "first"), vote(1, 1, "first"), vote(1, 2, "tie"), vote(1, 3, "second"), vote(2, 0, "first")]
    found = comparison("M0", "M1", votes, items)
    assert (found["wins"], found["losses"], found["ties"], found["votes"]) == (3, 1, 1, 5)
    assert found["winRate"] == 3.5 / 5
    statistics = np.array([(1, 1), (1, 1), (0.5, 1), (0, 1), (1, 1)], float)
    assert found["interval"] == list(bootstrap(statistics, ratio, ["d0", "d1", "d2", "d3", "d0"]).interval() or ())
    assert found["words"] == "the interval includes one half: no difference is shown"
    assert "too narrow" in found["note"]


@pytest.mark.parametrize(
    ("choice", "dialogues", "words"),
    [
        ("first", 12, "M0 is preferred"),
        ("second", 12, "M1 is preferred"),
        ("tie", 12, "the interval includes one half: no difference is shown"),
        ("first", 1, "too few dialogues for an interval"),
    ],
)
def test_the_interval_in_words(choice: Choice, dialogues: int, words: str) -> None:
    items = [item(dialogue=f"d{number}") for number in range(dialogues)]
    found = comparison("M0", "M1", [vote(1, number, choice) for number in range(dialogues)], items)
    assert found["words"] == words
    assert found["note"] is None


def test_position_bias_counts_sides_not_models() -> None:
    items = [item(dialogue=f"d{number}") for number in range(4)]
    votes = [
        vote(1, 0, "first"),
        vote(1, 1, "second", swapped=True),
        vote(1, 2, "first", swapped=True),
        vote(1, 3, "tie"),
    ]
    found = position_bias(votes, items)
    assert (found["a"], found["b"], found["shareA"]) == (2, 1, 2 / 3)


def ballots() -> Ballots:
    """Two careful raters who prefer M0, and one who fails both checks and prefers M1."""
    items = [
        *(item(dialogue=f"d{number}") for number in range(12)),
        item(kind="check"),
        item(kind="check", dialogue="e"),
    ]
    raters = [Rater(number, True, 14, None, 14, 0) for number in (1, 2, 3)]
    votes = [vote(rater, number, "first") for rater in (1, 2) for number in range(14)]
    votes += [vote(3, number, "second", seconds=0.5) for number in range(14)]
    return Ballots(study(), items, raters, votes)


def test_a_rater_who_fails_checks_is_left_out_by_the_declared_rule() -> None:
    found = report(ballots())
    assert [rater["leftOut"] for rater in found["raters"]] == [False, False, True]
    assert [rater["failedChecks"] for rater in found["raters"]] == [0, 0, 2]
    assert [rater["medianSeconds"] for rater in found["raters"]] == [4.0, 4.0, 0.5]
    assert "more than 1 failed attention check is left out" in found["rule"]["text"]
    (kept,), (everyone,) = found["figures"], found["allRaters"]
    assert (kept["raters"], kept["comparisons"][0]["winRate"], kept["comparisons"][0]["votes"]) == (2, 1.0, 24)
    assert (everyone["raters"], everyone["comparisons"][0]["winRate"]) == (3, 24 / 36)
    assert [rater["leftOut"] for rater in report(ballots(), 2)["raters"]] == [False] * 3


def test_one_slip_or_a_tie_fails_a_check_and_only_the_main_question_counts() -> None:
    known = ballots()
    votes = [replace(each, choice="tie") if (each.rater, each.item) == (1, 12) else each for each in known.votes]
    votes += [vote(2, 12, "second", question=1), vote(2, 13, "second", question=1)]
    known = replace(known, study=study(questions=["main", "more"]), votes=votes)
    assert [rater["failedChecks"] for rater in report(known)["raters"]] == [1, 0, 2]
    assert [rater["leftOut"] for rater in report(known, 0)["raters"]] == [True, False, True]


def test_figures_without_votes() -> None:
    known = replace(ballots(), votes=[])
    (found,) = figures(known, {1, 2, 3})
    assert found["comparisons"][0]["winRate"] is None
    assert found["position"]["shareA"] is None


def test_csv_has_every_vote_and_no_formula() -> None:
    items = [replace(item(), context="=HYPERLINK(1)", dialogue="@d"), item("M0", "M2")]
    votes = [vote(1, 0, "first", swapped=True), vote(1, 1, "tie")]
    known = Ballots(study(questions=["+1?"]), items, [Rater(1, True, 2, None, 2, 0)], votes)
    rows = list(csv.DictReader(io.StringIO(votes_as_csv(known))))
    assert tuple(rows[0]) == COLUMNS
    assert [rows[0][name] for name in ("context", "dialogue", "question")] == ["'=HYPERLINK(1)", "'@d", "'+1?"]
    assert [rows[0][name] for name in ("shown_as_a", "choice", "preferred")] == ["M1", "b", "M0"]
    assert [rows[1][name] for name in ("shown_as_a", "choice", "preferred")] == ["M0", "tie", "tie"]


@given(st.text())
def test_no_cell_begins_like_a_formula(text: str) -> None:
    assert not guarded(text).lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert guarded(text).removeprefix("'") == text.removeprefix("'")
