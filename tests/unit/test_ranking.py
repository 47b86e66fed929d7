"""From scores to the best and the worst answer."""

import pytest
from evolution_jobs.contract.rows import Response
from evolution_jobs.preference.ranking import eligible, rank, too_close
from hypothesis import given
from hypothesis import strategies as st

scores = st.dictionaries(
    st.sampled_from(["candidate-1", "candidate-2", "candidate-3", "self"]),
    st.floats(-1e6, 1e6),
    min_size=2,
)


@pytest.mark.parametrize(
    ("given_scores", "chosen", "rejected"),
    [
        ({"candidate-1": 0.0, "self": 1.0}, "self", "candidate-1"),
        ({"candidate-1": 0.0, "self": -1.0}, "candidate-1", "self"),
        ({"candidate-1": 2.0, "candidate-2": -3.0, "candidate-3": 2.0, "self": -3.0}, "candidate-1", "candidate-2"),
        ({"candidate-1": 1.0, "self": 1.0}, "candidate-1", "candidate-1"),
    ],
)
def test_the_best_and_the_worst_and_of_equal_ones_the_first(given_scores, chosen, rejected):
    ranking = rank(given_scores)
    assert (ranking.chosen, ranking.rejected) == (chosen, rejected)


@pytest.mark.parametrize(
    ("best", "margin", "dropped"),
    [(0.0, 0.0, True), (1e-9, 0.0, False), (0.5, 0.5, False), (0.499, 0.5, True), (3.0, 0.5, False)],
)
def test_a_pair_needs_the_margin_and_equal_scores_never_make_one(best, margin, dropped):
    reject = too_close("d1-3", rank({"candidate-1": 0.0, "self": best}), margin)
    assert (reject is not None) == dropped
    if reject:
        assert (reject.id, reject.reason) == ("d1-3", "margin_small")
        assert reject.detail == f"the best and the worst of 2 answers differ by {best:.6g}"


@given(scores, st.floats(0, 10))
def test_nothing_is_better_than_chosen_or_worse_than_rejected(given_scores, margin):
    ranking = rank(given_scores)
    assert ranking.scores == given_scores
    assert ranking.margin == max(given_scores.values()) - min(given_scores.values())
    if too_close("id", ranking, margin) is None:
        assert ranking.chosen != ranking.rejected
        assert given_scores[ranking.chosen] >= given_scores[ranking.rejected] + margin * (1 - 1e-9) - 1e-9


@given(scores, st.floats(0.5, 2), st.floats(-10, 10))
def test_only_differences_of_scores_count(given_scores, scale, shift):
    """A ranker that is stretched or shifted takes the same answers, as far as rounding keeps their order."""
    rounded = {name: round(score) for name, score in given_scores.items()}
    moved = {name: score * scale + shift for name, score in rounded.items()}
    one, other = rank(rounded), rank(moved)
    assert (one.chosen, one.rejected) == (other.chosen, other.rejected)


def answer(text, finish="stop"):
    return Response(id="d1-3", text=text, finish=finish, tokens=3)


def test_only_whole_answers_that_differ_are_ranked():
    answers = {
        "candidate-1": answer("I hear you."),
        "candidate-2": answer("i HEAR you!"),
        "candidate-3": answer("  "),
        "candidate-4": answer("That is hard. What did", "length"),
        "candidate-5": answer("What did you", "length"),
        "self": answer("Whom could you call?"),
    }
    assert eligible(answers) == {
        "candidate-1": "I hear you.",
        "candidate-4": "That is hard.",
        "self": "Whom could you call?",
    }
