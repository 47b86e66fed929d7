"""Strategies that answers name: what counts as one, and figures against plain definitions and the published code's steps."""

import json
import statistics

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import STRATEGIES, Answer
from evolution_jobs.metrics import strategies
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.compare import compare
from evolution_jobs.metrics.measures import BY_NAME
from evolution_jobs.metrics.score import score, score_files
from hypothesis import given, settings
from hypothesis import strategies as st

QUESTION, RESTATEMENT, REFLECTION = STRATEGIES[:3]
NAMES = ("strategy_accuracy", "strategy_macro_f1", "strategy_bias")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("[Question] When was that?", QUESTION),
        ("(question) When was that?", QUESTION),
        ("  [Restatement or  Paraphrasing]You miss her.", RESTATEMENT),
        ("[Reflection_of_Feelings]", REFLECTION),
        ("[self disclosure] Me too.", "Self-disclosure"),
        ("Question: when was that?", None),
        ("I see. [Question] When?", None),
        ("[Questions] When?", None),
        ("(Question] When?", None),
        ("[] When?", None),
        ("", None),
    ],
)
def test_a_strategy_is_named_in_brackets_at_the_start(answer, name):
    assert strategies.named(answer) == (None if name is None else STRATEGIES.index(name))


@pytest.mark.parametrize(
    ("noted", "name"),
    [
        ("Question", QUESTION),
        ("Reflection of Feelings; Question", REFLECTION),
        ("Reflective Statements", None),
        ("", None),
    ],
)
def test_the_first_strategy_of_the_data_counts(noted, name):
    assert strategies.noted(noted) == (None if name is None else STRATEGIES.index(name))


def rows(pairs, dialogues=None):
    """Answers that name the first of each pair, where the data has the second."""
    return Answered(
        answers=[f"[{said}] Yes." if said else "Yes." for said, _ in pairs],
        humans=["No."] * len(pairs),
        dialogues=dialogues,
        strategies=[true for _, true in pairs],
    )


def values(answered):
    return {name: BY_NAME[name].estimate(answered).value for name in NAMES if BY_NAME[name].defined(answered)}


def test_figures_by_hand():
    # Question is named 3 times for Restatement, and Restatement once for Question: the preferences are 3/4 and 1/4 of 2.
    pairs = [(QUESTION, RESTATEMENT)] * 3 + [(RESTATEMENT, QUESTION)] + [(QUESTION, QUESTION)] * 4
    found = values(rows(pairs))
    assert found["strategy_accuracy"] == 50
    # Question: 4 of 7 named and of 5 true; Restatement: none of 1 named and of 3 true.
    assert found["strategy_macro_f1"] == pytest.approx(100 * (2 * 4 / 12 + 0) / 2)
    assert found["strategy_bias"] == pytest.approx(0.5)
    sums = strategies.confusions(rows(pairs).answers, [true for _, true in pairs]).sum(axis=0, keepdims=True)
    assert strategies.preferences(sums)[0, :3] == pytest.approx([1.5, 0.5, 0])


def test_an_answer_that_names_none_is_wrong_and_says_nothing_of_preferences():
    pairs = [(QUESTION, RESTATEMENT)] * 3 + [(RESTATEMENT, QUESTION)] + [(None, QUESTION)] * 4
    found = values(rows(pairs))
    assert found["strategy_accuracy"] == 0
    assert found["strategy_bias"] == pytest.approx(0.5)


def test_one_that_is_named_for_all_others_takes_all():
    found = values(rows([(QUESTION, each) for each in STRATEGIES]))
    assert found["strategy_bias"] == pytest.approx(statistics.pstdev([8, *[0] * 7]))


def test_a_strategy_that_no_human_answer_has_does_not_count_for_the_bias():
    pairs = [(QUESTION, RESTATEMENT)] * 3 + [(RESTATEMENT, QUESTION)] + [(REFLECTION, QUESTION)] * 2
    assert values(rows(pairs))["strategy_bias"] == pytest.approx(0.5)


def published(pairs):
    """The steps of arXiv 2402.13211's own code: in place, 20 times, each time divided by the geometric mean."""
    wins = np.array([[sum(pair == (i, j) for pair in pairs) for j in range(8)] for i in range(8)], float)
    found = [1.0] * 8
    for _ in range(20):
        for i in range(8):
            others = [j for j in range(8) if j != i]
            more = sum(wins[i, j] * found[j] / (found[i] + found[j]) for j in others)
            found[i] = more / sum(wins[j, i] / (found[i] + found[j]) for j in others)
        mean = np.prod([each for each in found if each > 0]) ** (1 / sum(each > 0 for each in found))
        found = [each / mean for each in found]
    return np.std([8 * each / sum(found) for each in found])


POSITION = st.integers(0, 7)


@settings(max_examples=30)
@given(st.lists(st.tuples(POSITION, POSITION), max_size=60))
def test_the_bias_is_that_of_the_published_code(pairs):
    # Where its fractions have no denominator of 0: each strategy is missed once.
    pairs += [((true + 1) % 8, true) for true in range(8)]
    answered = rows([(STRATEGIES[said], STRATEGIES[true]) for said, true in pairs])
    assert BY_NAME["strategy_bias"].estimate(answered).value == pytest.approx(published(pairs))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.none() | POSITION, POSITION, st.sampled_from("abcd")), min_size=1, max_size=30))
def test_figures_are_those_of_their_definitions(drawn):
    pairs = [(None if said is None else STRATEGIES[said], STRATEGIES[true]) for said, true, _ in drawn]
    answered = rows(pairs, [dialogue for *_, dialogue in drawn])
    if sum(said is not None for said, _ in pairs) * 2 < len(pairs):
        assert not values(answered)
        return
    hits = {name: sum(said == true == name for said, true in pairs) for name in STRATEGIES}
    both = {name: sum((said == name) + (true == name) for said, true in pairs) for name in STRATEGIES}
    found = values(answered)
    assert found["strategy_accuracy"] == pytest.approx(100 * sum(hits.values()) / len(pairs))
    f1 = [2 * hits[name] / both[name] for name in STRATEGIES if both[name]]
    assert found["strategy_macro_f1"] == pytest.approx(100 * statistics.mean(f1))
    assert 0 <= found["strategy_bias"] <= statistics.pstdev([8, *[0] * 7]) + 1e-9
    for name in NAMES:
        estimate = BY_NAME[name].estimate(answered)
        assert np.isfinite(estimate.replicates).all()
        assert (estimate.interval() is None) == (len(set(answered.dialogues)) < 2)


def test_rows_without_one_of_the_eight_strategies_are_left_out():
    pairs = [(QUESTION, QUESTION), (None, "Reflective Statements"), (None, None), (None, None)]
    figures = {figure["name"]: figure for figure in score(rows(pairs))["figures"]}
    assert (figures["strategy_accuracy"]["value"], figures["strategy_accuracy"]["rows"]) == (100, 1)
    assert "strategy_accuracy" not in score(rows(pairs[1:]))["metrics"]


def answer(number, text, strategy):
    return Answer(
        id=f"{number}-3",
        dialogue=f"{number}",
        context=[],
        human="No.",
        answer=text,
        tokens=2,
        finish="stop",
        truncated_turns=0,
        nll_tokens=2,
        strategy=strategy,
    )


def test_a_comparison_has_them_where_models_name_strategies_and_is_silent_where_none_does(tmp_path):
    naming = [answer(number, "[Question] When?", QUESTION) for number in range(3)]
    plain = [answer(number, "When?", QUESTION) for number in range(3)]
    assert compare({"one": naming, "two": naming}).values["two"]["strategy_accuracy"] == 100
    half = compare({"one": naming, "two": plain})
    assert half.not_compared["strategy_accuracy"] == (
        "two: 0 of 3 answers begin with a strategy in brackets, fewer than half"
    )
    assert not {*NAMES} & {*compare({"one": plain, "two": plain}).not_compared}
    asked = compare({"one": plain, "two": plain}, ["strategy_accuracy", "distinct1"])
    assert set(asked.not_compared) == {"strategy_accuracy"}


def test_score_reads_strategies_from_a_file_of_answers(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(answer(1, "[Question] When?", QUESTION).wire()) + "\n")
    assert score_files(file, file)["metrics"]["strategy_accuracy"] == 100
    file.write_text(json.dumps({"answer": "a", "human": "b", "strategy": 3}) + "\n")
    with pytest.raises(PermanentError, match="`strategy` must be a string"):
        score_files(file, file)
