"""What a report says in words: what happened, what is true now, what to do next. And the tables beside the words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from evolution_operator.api.status import StageStatus
from evolution_operator.reporting import figures, sections
from evolution_operator.reporting.advice import next_steps
from evolution_operator.reporting.facts import Change, Facts
from evolution_operator.reporting.signs import signs
from evolution_operator.reporting.words import compared, happened, true_now

from tests.support.report import (
    MADE,
    condition,
    make_answers,
    make_facts,
    make_manifests,
    make_scores,
    make_spec,
    make_status,
)


def told(facts: Facts) -> str:
    return " ".join(happened(facts))


def now(facts: Facts) -> str:
    return " ".join(true_now(facts, figures.rows(facts)))


def after(facts: Facts) -> str:
    return " ".join(next_steps(facts))


def only(*stages: str) -> Any:
    return {stage: each for stage, each in make_manifests().items() if stage in stages}


def test_a_complete_run_is_told_in_one_paragraph() -> None:
    assert told(make_facts()) == (
        "The run is complete, with 2 rounds after M0. The base model is hf://owner/small-chat. "
        "Prepare kept 816 dialogues to train on, 91 dialogues to validate with, 36 contexts to answer in each round, and 576 held-out contexts. "
        "Supervised fine-tuning on 816 dialogues made M0; its validation loss is 1.700 nats a token. "
        "In round 1, M0 answered 36 contexts, and 28 of them became preference pairs; 8 rows were dropped (4 too long, 2 equal, 2 profile unparsed). "
        "DPO on 28 pairs made M1. "
        "In round 2, M1 answered 36 contexts, and 28 of them became preference pairs; 8 rows were dropped (4 too long, 2 equal, 2 profile unparsed). "
        "DPO on 28 pairs made M2. "
        "M0, M1 and M2 answered the same 36 held-out contexts of 12 dialogues, with the same seeds."
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": None, "spec": None}, "Only the storage of this run is known"),
        ({"status": make_status(conditions=[condition("StoppedEarly", "the margin shrinks")])}, "ended early, after 2 rounds: the margin shrinks."),
        ({"status": make_status("Failed", conditions=[condition("Failed", "stage dpo-2: NoPairs: none")])}, "The run has failed: stage dpo-2: NoPairs: none."),
        ({"status": make_status("Running"), "manifests": only("prepare")}, "not complete: 1 of 11 stages have finished"),
        ({"status": make_status(started_at=MADE, finished_at=MADE + timedelta(hours=2))}, "It ran from 05 January 2026, 09:30 to 05 January 2026, 11:30 UTC."),
        ({"manifests": only("prepare", "sft", "generate-1"), "answers": {}}, "M0 has answered the contexts; there are no preference pairs yet. No model has been evaluated."),
        ({"manifests": {}, "answers": {}}, "No model has been evaluated."),
        ({"answers": {"M0": make_answers(0, 1)}}, "M0 answered 1 held-out context of 1 dialogue."),
    ],
)  # fmt: skip
def test_how_a_run_stands_is_told_first(fields: dict[str, Any], words: str) -> None:
    assert words in told(make_facts(**fields))


def test_the_same_seeds_are_told_of_only_where_they_are_known() -> None:
    assert told(make_facts()).endswith("of 12 dialogues, with the same seeds.")
    stages = make_manifests()
    other = stages | {"evaluate-2": stages["evaluate-2"].model_copy(update={"seed": 8})}
    for manifests in (other, only("sft", "evaluate-0", "evaluate-1")):
        words = told(make_facts(manifests=manifests))
        assert words.endswith("M0, M1 and M2 answered the same 36 held-out contexts of 12 dialogues.")


def test_models_that_answered_different_contexts_are_told_apart() -> None:
    fewer = {"M0": make_answers(0), "M1": make_answers(1)[30:]}
    assert told(make_facts(answers=fewer)).endswith(
        "M0 answered 36 held-out contexts and M1 answered 6 held-out contexts; they have 6 contexts of 2 dialogues in common."
    )
    apart = {"M0": make_answers(0, 3), "M1": make_answers(1, 1, id="other")}
    assert told(make_facts(answers=apart)).endswith(
        "M0 answered 3 held-out contexts and M1 answered 1 held-out context; they have no context in common."
    )


def test_many_rounds_are_told_together() -> None:
    stages = {}
    for number in range(1, 9):
        for kind in ("generate", "reflect", "dpo"):
            before = make_manifests()[f"{kind}-1"]
            counts = before.counts | ({"pairs": 20 + number} if kind == "reflect" else {})
            stages[f"{kind}-{number}"] = before.model_copy(update={"iteration": number, "counts": counts})
    words = told(make_facts(manifests=stages))
    assert (
        "In each of the rounds 1 to 8, the model of the round before answered 36 contexts, and 21 to 28 of them became"
        in words
    )


def test_the_champion_is_named_with_its_rule_and_its_value() -> None:
    assert now(make_facts()).startswith(
        "The champion is M2: the first model whose 95 % interval reaches the best Distinct-2. "
        "It has 80.60 (95 % interval 74.96 to 86.24); the best of all models."
    )
    earlier = now(make_facts(status=make_status(champion=1, ineligible=["M2 is less safe than M0"])))
    assert "It has 74.90 (95 % interval 69.66 to 80.14); the best is M2's 80.60" in earlier
    assert "M2 is less safe than M0. It cannot be the champion." in earlier


def test_what_is_not_known_is_said() -> None:
    assert "Which model is the champion is not known here" in now(make_facts(spec=None, status=None))
    assert "Whether the models differ was not tested: nltk is missing." in now(
        make_facts(changes=[], not_compared="nltk is missing")
    )
    few = make_facts(answers={f"M{number}": make_answers(number, 9) for number in range(3)})
    assert "of 3 dialogues. With fewer than 10" in now(few)
    assert "3 dialogues cannot show a difference" in after(few)


def test_a_difference_is_named_only_where_the_data_show_one() -> None:
    words = now(make_facts())
    assert (
        "Against M0, M2 is better in Distinct-2 (+9.20, 95 % interval +4.20 to +14.20), answers with a stock phrase (−36.10,"
        in words
    )
    assert "In 2 other figures, the data show no difference." in words
    none = Change(
        "distinct2", "Distinct-2, %", "higher", "M1", "M0", 1.0, (-1, 3), "the interval of the difference includes zero"
    )
    assert compared("M1", [none]).startswith("Against M0, M1 shows no difference in any of 1 figure")
    assert "That does not show that the models are equal." in compared("M1", [none])
    worse = Change("perplexity", "perplexity", "lower", "M1", "M0", 3.0, (1, 5), "worse")
    assert compared("M1", [worse, none]) == (
        "Against M0, M1 is worse in perplexity (+3.00, 95 % interval +1.00 to +5.00). In 1 other figure, the data show no difference."
    )


def test_a_sign_of_failure_is_told_and_leads_to_a_step() -> None:
    assert "M2 shows 1 sign of failing self-evolution: 86 % of the answers ask something" in now(make_facts())
    assert "Read answers of the newest model" in after(make_facts())
    healthy = make_facts(scores={1: make_scores(1)})
    assert "M1 shows none of the known signs" in now(healthy)
    assert "Read answers" not in after(healthy)


def test_a_sign_of_the_champion_is_told_even_if_the_newest_model_has_none() -> None:
    facts = make_facts(scores={0: make_scores(2), 1: make_scores(1)}, status=make_status(champion=0))
    assert "The champion, M0, shows 1 sign of it: 86 % of the answers ask something" in now(facts)
    (sign,) = [each for each in signs(facts) if each.name == "question_rate"]
    assert (sign.present, sign.elsewhere) == (False, "M0")
    assert "The champion, M0, shows" not in now(make_facts(status=make_status(champion=2)))


def test_a_run_file_does_not_say_that_what_has_not_finished_runs() -> None:
    facts = make_facts(status=make_status("Running", stages=[]), observed=False)
    assert facts.phase == "Unfinished"
    assert "Whether it runs, has failed or was stopped, its run file and its storage do not say." in " ".join(
        happened(facts)
    )
    assert make_facts(status=make_status("Running")).phase == "Running"
    assert make_facts(status=make_status("Complete"), observed=False).phase == "Complete"
    suspended = make_facts(status=make_status("Suspended"), observed=False)
    assert suspended.phase == "Suspended"
    assert "Whether it runs" not in " ".join(happened(suspended))


def test_a_round_without_its_model_makes_no_column() -> None:
    begun = {name: each for name, each in make_manifests().items() if each.iteration != 2 or each.kind == "reflect"}
    status = make_status().model_copy(update={"metrics": []})
    rows = figures.rows(make_facts(manifests=begun, status=status, scores={0: make_scores(0), 1: make_scores(1)}))
    assert {number for row in rows for number in row.values} == {0, 1}


def test_no_sign_is_denied_that_was_not_looked_for() -> None:
    assert "sign" not in now(make_facts(scores={1: make_scores(1, signatures=[])}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "raise spec.iterations"),
        ({}, "Ask a judge (spec.judge)"),
        ({"status": make_status(champion=0)}, "no round is shown to be better than M0"),
        ({"status": make_status(champion=1)}, "Use M1: later rounds are not shown to be better by Distinct-2"),
        ({"status": make_status(conditions=[condition("StoppedEarly", "x")])}, "allow more in spec.stopping"),
        ({"status": make_status("Running")}, "Wait for the run"),
        ({"status": make_status("Running"), "observed": False}, "Run the file again: it continues, or says what is wrong"),
        ({"status": make_status("Suspended")}, "set spec.suspend to false"),
        ({"status": None, "spec": None}, "Name the run file"),
        ({"unread": ["evaluate-1, answers: gone"]}, "This could not be read: evaluate-1, answers: gone."),
        (
            {"status": make_status("Failed", stages=[StageStatus(id="dpo-1", name="dpo", state="Failed", reason="NoPairs", message="none of 3 rows")])},
            "Stage dpo-1 has failed (NoPairs): none of 3 rows. Remove the cause",
        ),
    ],
)  # fmt: skip
def test_what_to_do_next_follows_from_how_the_run_stands(fields: dict[str, Any], words: str) -> None:
    assert words in after(make_facts(**fields))


def test_a_round_that_drops_most_rows_says_what_to_change() -> None:
    stages = make_manifests()
    counts = {"read": 30, "pairs": 5, "dropped.equal": 20, "dropped.too_long": 5}
    stages["reflect-2"] = stages["reflect-2"].model_copy(update={"counts": counts})
    words = after(make_facts(manifests=stages))
    assert "Round 2 dropped 25 of 30 rows, most as equal. To keep more: raise reflection.temperature" in words
    assert "Round 1" not in words


def test_figures_stand_side_by_side_with_intervals_and_the_human_value() -> None:
    by_name = {row.name: row for row in figures.rows(make_facts())}
    assert [*by_name][:2] == ["distinct1", "distinct2"]
    row = by_name["distinct2"]
    assert {number: each.value for number, each in row.values.items()} == {0: 71.4, 1: 74.9, 2: 80.6}
    assert row.values[0].interval == (66.402, 76.398)
    assert row.human == 84.0
    assert [*by_name["pair_similarity"].values] == [1, 2]
    assert by_name["kl_m0"].digits == 4
    # A stage whose files are gone still has its figures in the status.
    lost = make_facts(scores={}, manifests={})
    assert {row.name: row.values[2].value for row in figures.rows(lost)}["distinct2"] == 80.6


def test_each_named_test_set_has_its_own_rows() -> None:
    common = {"unit": "percent", "better": "higher", "rows": 3, "rowSet": "0", "method": "any", "headline": True}
    scores = make_scores(
        0,
        sets=[{"name": "far", "rows": 3, "neverTrainedOn": True}, {"name": "near", "rows": 3}],
        figures=[
            common | {"name": "distinct2", "value": 70.0, "interval": [60.0, 80.0], "set": "far"},
            common | {"name": "distinct2", "value": 75.0, "set": "near"},
            common | {"name": "distinct2", "value": 72.0},
            common | {"name": "list_rate", "value": 1.0, "set": "near", "headline": False},
        ],
    )
    found = figures.by_set(make_facts(scores={0: scores}))
    assert [(each.set, each.unseen, each.row.values[0].value) for each in found] == [
        ("far", True, 70.0),
        ("near", False, 75.0),
    ]


def test_dropped_rows_stand_with_examples_and_advice() -> None:
    found = sections.dropped(make_facts())
    assert [(each.stage, each.reason, each.rows) for each in found[:2]] == [
        ("prepare", "short_history", 4),
        ("reflect-1", "too_long", 4),
    ]
    assert [each.reason for each in found[1].examples] == ["too_long"] * sections.EXAMPLES
    assert found[1].advice == "raise reflection.maxLengthRatio"


def test_lineage_leads_from_the_data_to_the_last_model() -> None:
    facts = make_facts()
    assert [each.name for each in sections.chain(facts)] == ["data", "M0", "pairs-1", "M1", "pairs-2", "M2"]
    steps = {step.stage: step for step in sections.lineage(facts)}
    assert "evaluate-0" not in steps
    assert {link.name: link.stage for link in steps["dpo-2"].inputs} == {
        "pairs": "reflect-2",
        "adapter": "dpo-1",
        "model": "prepare",
    }
    alone = sections.lineage(make_facts(manifests=only("dpo-1")))
    assert [link.stage for link in alone[0].inputs] == [None, None, None]


def test_cost_sums_what_stages_took() -> None:
    parts = sections.costs(make_facts())
    whole = sections.total(parts)
    assert whole.tokens == 410_000 + 2 * 45_000 + 3 * 8700
    assert whole.gpu_hours == pytest.approx((1900 + 2 * 750 + 3 * 95) / 3600)
    assert whole.price is None
    stages = make_manifests()
    stages["evaluate-0"] = stages["evaluate-0"].model_copy(update={"details": {"judge": {"models": {}, "cost": 0.25}}})
    assert sections.total(sections.costs(make_facts(manifests=stages))).price == 0.25


def test_energy_is_summed_over_the_stages_that_know_it() -> None:
    whole = sections.total(sections.costs(make_facts()))
    assert (whole.joules, whole.metered, whole.on_gpus) == (None, 0, 10)
    stages = make_manifests()
    for stage, joules in (("sft", 720_000.0), ("dpo-2", 36_000.0)):
        stages[stage] = stages[stage].model_copy(update={"gpu_joules": joules})
    parts = sections.costs(make_facts(manifests=stages))
    assert {each.stage: each.joules for each in parts if each.joules} == {"sft": 720_000.0, "dpo-2": 36_000.0}
    whole = sections.total(parts)
    assert (whole.joules, whole.metered, whole.on_gpus) == (756_000.0, 2, 10)


def test_versions_that_differ_are_told_apart() -> None:
    stages = make_manifests()
    stages["dpo-2"] = stages["dpo-2"].model_copy(update={"code": {"python": "3.11.9", "torch": "2.9.0"}})
    found = dict(sections.environment(make_facts(manifests=stages, spec=make_spec())))
    assert found["python"] == "3.11.9"
    assert found["torch"].startswith("2.8.0 (prepare, sft,")
    assert found["torch"].endswith("2.9.0 (dpo-2)")
