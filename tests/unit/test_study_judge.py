"""Agreement of a judge with people, by hand and through the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Outcome, Verdict
from evolution_operator.cli.main import app
from evolution_operator.study.judge import agreement_with_judge
from evolution_operator.study.records import Ballots, Choice, Item, Vote
from evolution_operator.study.storage import StudyFile
from typer.testing import CliRunner

from tests.support.study import make_study, samples, study


def verdict(number: int, overall: Outcome | None, swapped: bool = False) -> Verdict:
    texts = (f"first {number}", f"second {number}")
    answer, other = texts[::-1] if swapped else texts
    return Verdict(
        id=f"c{number}/previous",
        context=f"c{number}",
        dialogue=f"d{number}",
        opponent="previous",
        answer=answer,
        other=other,
        words=2,
        other_words=2,
        overall=overall,
    )


def ballots(*choices: tuple[Choice, ...]) -> Ballots:
    """An item for each tuple, which has each rater's vote."""
    items = [
        Item("pair", f"c{number}", f"d{number}", [], False, "M1", "M0", f"first {number}", f"second  {number}\n")
        for number in range(len(choices))
    ]
    votes = [
        Vote(rater, 1, number, 0, choice, False, 0, None, False)
        for number, given in enumerate(choices)
        for rater, choice in enumerate(given, start=1)
    ]
    return Ballots(study(), items, [], votes)


def test_agreement_by_hand() -> None:
    # People: first, first, tie (one against one), tie, tie. The judge: first, second, second, tie, first.
    known = ballots(("first", "first", "tie"), ("first",), ("second", "tie"), ("tie", "tie"), ("first", "second"))
    said = [
        verdict(0, "win"),
        verdict(1, "win", swapped=True),
        verdict(2, "loss"),
        verdict(3, "tie", True),
        verdict(4, "win"),
    ]
    found = agreement_with_judge(known, {1, 2, 3}, said)
    assert (found["items"], found["dialogues"]) == (5, 5)
    assert found["agreement"] == pytest.approx(40)
    chance = (2 * 2 + 0 * 2 + 3 * 1) / 25
    assert found["kappa"] == pytest.approx((0.4 - chance) / (1 - chance))
    low, high = found["kappaInterval"]
    assert low < found["kappa"] < high


def test_the_majority_is_the_most_frequent_choice() -> None:
    known = ballots(("tie", "tie", "tie", "first"))
    assert agreement_with_judge(known, {1, 2, 3, 4}, [verdict(0, "tie")])["agreement"] == 100
    assert agreement_with_judge(known, {1, 2, 3, 4}, [verdict(0, "win")])["agreement"] == 0


def test_verdicts_of_two_judges_on_one_pair_are_refused() -> None:
    with pytest.raises(PermanentError, match="two verdicts on the same answers to 'c0' differ"):
        agreement_with_judge(ballots(("tie",)), {1}, [verdict(0, "tie"), verdict(0, "win")])


def test_verdicts_on_one_pair_are_compared_in_whatever_order_its_answers_stand() -> None:
    known = ballots(("first",))
    with pytest.raises(PermanentError, match="two verdicts on the same answers to 'c0' differ"):
        agreement_with_judge(known, {1}, [verdict(0, "win"), verdict(0, "win", swapped=True)])
    again = [verdict(0, "win"), verdict(0, "loss", swapped=True)]
    assert agreement_with_judge(known, {1}, again)["agreement"] == 100


def test_only_votes_of_kept_raters_and_pairs_with_a_verdict_count() -> None:
    known = ballots(("first", "second", "second"), ("first", "first", "first"))
    said = [verdict(0, "win"), verdict(1, None)]
    assert agreement_with_judge(known, {1}, said)["agreement"] == 100
    assert agreement_with_judge(known, {1, 2, 3}, said)["agreement"] == 0
    assert agreement_with_judge(known, set(), said) == {"items": 0, "dialogues": 0}
    others = [replace(item, first_text="else") for item in known.items]
    assert agreement_with_judge(replace(known, items=others), {1}, said)["items"] == 0


def test_a_judge_that_always_says_the_same_agrees_no_more_than_by_chance() -> None:
    known = ballots(*[("first",), ("second",)] * 10)
    found = agreement_with_judge(known, {1}, [verdict(number, "win") for number in range(20)])
    assert (found["agreement"], found["kappa"]) == (50, 0)


def test_the_report_says_how_often_a_judge_agrees(tmp_path: Path) -> None:
    path, verdicts = tmp_path / "study.db", tmp_path / "verdicts.jsonl"
    with StudyFile(make_study(path, samples(12, 1), 12, 0, ["a" * 24])) as opened:
        opened.start(1, 1.0)
        for position in range(1, 13):
            opened.vote(1, position, ["a"], 2.0)
        known = opened.ballots()

    def report(*outcomes: Outcome) -> str:
        rows = []
        for vote, agrees in zip(known.votes, [True] * 9 + [False] * 3, strict=True):
            item = known.items[vote.item]
            same = outcomes[0] if (vote.choice == "first") == agrees else outcomes[1]
            given = {"id": item.context, "context": item.context, "answer": item.first_text, "other": item.second_text}
            rows.append(verdict(0, same).model_copy(update=given))
        verdicts.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows))
        return CliRunner().invoke(app, ["study", "report", str(path), "--judge", str(verdicts)]).output

    told = report("win", "loss")
    assert "judge: agrees with the majority of raters on 75.0 % of 12 pairs (95 % interval" in told
    assert "Cohen's kappa 0.5" in told
    verdicts.write_text(json.dumps(verdict(0, "win").wire()) + "\n")
    given = ["study", "report", str(path), "--judge", str(verdicts)]
    assert "judge: none of its pairs has a vote here" in CliRunner().invoke(app, given).output
    found = json.loads(CliRunner().invoke(app, [*given, "-o", "json"]).output)
    assert found["judge"] == {"items": 0, "dialogues": 0}
    verdicts.write_text("{}\n")
    refused = CliRunner().invoke(app, given)
    assert "this is not a verdicts.jsonl of a judge stage" in str(refused.exception)
