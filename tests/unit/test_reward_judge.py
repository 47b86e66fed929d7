"""Preference source reward with a judge: what it is asked, how answers rank, resumption, and what is paid for.

M(t-1) is a plain function that writes known answers, and the judge a real server (tests/support/chat_server.py) whose
preference is planted.
"""

import json
from collections import Counter
from itertools import combinations, permutations

import pytest
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.rows import Context, Pair, Reject, Response, Turn
from evolution_jobs.engines.base import row_seed
from evolution_jobs.judging.points import questions, scored
from evolution_jobs.judging.rubric import messages
from evolution_jobs.judging.verdicts import Said
from evolution_jobs.preference.ranking import ToRank
from evolution_jobs.stages import reflect
from evolution_jobs.stages.comparing import JudgeRanker
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chat_server import MODEL, REPORTED, Fault, serving
from tests.support.judges import compared, first, longer, perfect, reply_by, tossed, verdict_text
from tests.support.stages.scripted_engine import ScriptedEngine
from tests.support.stages.workspace import LocalWorkspace

IDS = [f"d{number:02}-3" for number in range(4)]
ANSWERS = {
    "candidate-1": "I see, {}.",
    "candidate-2": "It is good that you say so, {}.",
    "candidate-3": "What do you miss most about those days at work, {}?",
    "candidate-4": "Call your brother today, {}.",
}
REQUESTS = len(IDS) * 4 * 3
"""Four answers in all orders of two."""


def context(id_):
    spoken = ["I lost my job.", "That is hard.", f"I am lost, {id_}."]
    turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(spoken)]
    return Context(id=id_, dialogue=id_[:3], turns=turns, human="Take your time.")


def written(request):
    seeds = {row_seed(0, request.id, "candidate", number): number for number in (2, 3, 4)}
    return ANSWERS[f"candidate-{seeds[request.seed]}"].format(request.id)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def reflecting(tmp_path, monkeypatch):
    """A function that makes a workspace for reflect whose engine is scripted and whose judge is at a URL."""
    monkeypatch.setattr(reflect, "load_reward_model", lambda *_: pytest.fail("a reward model was loaded"))

    def make(server, name="run", reward=None, judge=None, **options):
        asked = {"url": server.url, "model": MODEL, "concurrency": 4, "maxAttempts": 2, **(judge or {})}
        settings = {
            "source": "reward",
            "reward": {"candidates": 4, "refine": False, "judge": asked, **(reward or {})},
            "maxLengthRatio": 10,
        }
        drafts = [Response(id=id_, text=ANSWERS["candidate-1"].format(id_), finish="stop", tokens=9) for id_ in IDS]
        inputs = {
            "contexts": jsonl(tmp_path / "contexts.jsonl", map(context, IDS)),
            "responses": jsonl(tmp_path / "responses.jsonl", drafts),
        }
        workspace = LocalWorkspace(tmp_path / name, "reflect", settings, inputs=inputs, **options)
        workspace.engine, workspace.loads = ScriptedEngine(written), 0

        def load_engine(*_):
            workspace.loads += 1
            return workspace.engine

        monkeypatch.setattr(reflect, "load_engine", load_engine)
        return workspace

    return make


def rows_of(result, output, kind):
    return [kind.model_validate_json(line) for line in result.outputs[output].read_text("utf-8").splitlines()]


def test_the_answer_that_wins_most_is_chosen_with_what_it_cost(reflecting):
    prices = {"pricePerMillionInputTokens": 100_000, "pricePerMillionOutputTokens": 200_000}
    with serving(reply_by(perfect)) as server:
        server.faults.append(Fault(429, retry_after=0.01))
        workspace = reflecting(server, judge=prices)
        result = reflect.run(workspace)
    pairs = rows_of(result, "pairs", Pair)
    assert [pair.id for pair in pairs] == IDS
    third = pytest.approx(1 / 3)
    for pair in pairs:
        assert pair.ranking.scores == {
            "candidate-1": third,
            "candidate-2": 1.0,
            "candidate-3": third,
            "candidate-4": third,
        }
        assert pair.chosen == ANSWERS["candidate-2"].format(pair.id)
        assert pair.rejected == ANSWERS["candidate-1"].format(pair.id)
    assert result.counts == {
        "read": 4,
        "pairs": 4,
        "reward.scored": 16,
        "reward.truncated": 0,
        "reward.unrefined": 0,
        "reward.compared": 24,
        "reward.flipped": 0,
        "reward.unreadable": 0,
        "reward.refused": 0,
        "reward.requests": REQUESTS + 1,
        "reward.inputTokens": REQUESTS * 10,
        "reward.outputTokens": REQUESTS,
        "reward.retries": 1,
        "truncated": 0,
    }
    assert result.details["reward"] == {"models": {REPORTED: REQUESTS}, "cost": REQUESTS + REQUESTS * 0.2}
    assert "rewardModel" not in result.details
    assert result.metrics["reward_margin"] == pytest.approx(2 / 3, abs=1e-5)
    assert not any("judge" in note for note in result.notes)
    assert workspace.reported[-1] == (4, 4, "rows")


def test_a_judge_of_lengths_ranks_by_length(reflecting):
    with serving(reply_by(longer)) as server:
        result = reflect.run(reflecting(server))
    (ranking, *_) = (pair.ranking for pair in rows_of(result, "pairs", Pair))
    assert (ranking.chosen, ranking.rejected, ranking.margin) == ("candidate-3", "candidate-1", 1.0)
    assert ranking.scores["candidate-2"] == pytest.approx(2 / 3)
    assert ranking.scores["candidate-4"] == pytest.approx(1 / 3)


def test_a_judge_that_looks_at_the_position_alone_makes_no_pair(reflecting):
    with serving(reply_by(first)) as server, pytest.raises(PermanentError) as caught:
        reflect.run(reflecting(server))
    assert caught.value.reason == "NoPairs"
    assert "margin_small 4" in str(caught.value)
    assert "follows the order of the answers in 24 of 24 comparisons" in str(caught.value)


def test_each_two_answers_are_compared_in_both_orders_by_the_judges_rubric(reflecting):
    with serving(reply_by(perfect)) as server:
        reflect.run(reflecting(server, judge={"maxTokens": 99, "temperature": 0.5}))
    texts = [[answer.format(id_) for answer in ANSWERS.values()] for id_ in IDS]
    assert sorted(map(compared, server.asked)) == sorted(pair for each in texts for pair in permutations(each, 2))
    body = next(body for body in server.asked if compared(body) == tuple(texts[0][:2]))
    assert body["messages"] == messages(context(IDS[0]).turns, *texts[0][:2])
    assert (body["temperature"], body["max_tokens"]) == (0.5, 99)


def test_what_has_no_verdict_is_a_tie_and_counted(reflecting):
    def reply(body):
        a, b = compared(body)
        if IDS[0] in a:
            return "Both are kind."
        # In one order alone: the two answers then share the point.
        if IDS[1] in a and a.startswith("It is good") and b.startswith("I see"):
            return "The first."
        return verdict_text(perfect(a, b))

    with serving(reply) as server:
        result = reflect.run(reflecting(server))
    assert result.counts["reward.unreadable"] == 7
    assert result.counts["dropped.unscored"] == 1
    (reject,) = rows_of(result, "rejects", Reject)
    assert reject.detail == "the judge gave no verdict on any of 6 pairs: Both are kind."
    pair = rows_of(result, "pairs", Pair)[0]
    assert pair.ranking.scores["candidate-2"] == pytest.approx(2.5 / 3)
    assert pair.ranking.scores["candidate-1"] == 0.5
    assert any(note.startswith("7 of 24 comparisons have no verdict") for note in result.notes)


def test_a_refused_comparison_is_a_tie_and_keeps_the_endpoints_words(reflecting):
    with serving(reply_by(perfect)) as server:
        server.faults.append(Fault(400, "content_filter", "filtered"))
        workspace = reflecting(server)
        result = reflect.run(workspace)
    assert result.counts["reward.refused"] == 1
    assert result.counts["pairs"] == 4
    assert [row["refusal"] for row in workspace.rows.finished().values() if "refusal" in row] == ["filtered"]


def test_a_margin_is_a_share_of_points(reflecting):
    with serving(reply_by(perfect)) as server, pytest.raises(PermanentError, match="margin_small 4"):
        reflect.run(reflecting(server, reward={"margin": 0.7}))


def test_asked_to_stop_it_keeps_every_answer_that_was_paid_for(reflecting):
    def reply(body):
        if len(server.asked) == 29:
            stopped.stop()
        return verdict_text(perfect(*compared(body)))

    with serving(reply) as server:
        stopped = reflecting(server)
        with pytest.raises(Terminated):
            reflect.run(stopped)
        before = len(server.asked)
        assert 29 <= before < REQUESTS
        assert sum("reward" in row for row in stopped.rows.finished().values()) == before
        resumed = reflecting(server)
        result = reflect.run(resumed)
        assert resumed.loads == 0
        assert max(Counter(map(compared, server.asked)).values()) == 1
        assert len(server.asked) == REQUESTS
        whole = reflect.run(reflecting(server, "whole"))
    for output in whole.outputs:
        assert result.outputs[output].read_bytes() == whole.outputs[output].read_bytes()
    assert (result.counts, result.metrics, result.details) == (whole.counts, whole.metrics, whole.details)


def test_cut_short_at_most_the_open_requests_are_paid_twice(reflecting):
    asked = [ToRank(id_, context(id_).turns, {name: text.format(id_) for name, text in ANSWERS.items()}) for id_ in IDS]
    with serving(reply_by(perfect)) as server:
        workspace = reflecting(server)
        settings = workspace.spec.settings.reward.judge
        scores = JudgeRanker(workspace, settings).scores(asked)
        next(scores)
        scores.close()
        assert 0 < len(workspace.rows.finished()) < REQUESTS
        found = [each for part in JudgeRanker(workspace, settings).scores(asked) for each in part]
    assert sorted(each.id for each in found) == IDS
    paid = Counter(map(compared, server.asked))
    assert len(paid) == REQUESTS
    assert sum(paid.values()) - REQUESTS <= settings.concurrency


def test_a_fault_keeps_what_was_answered_and_names_the_field(reflecting):
    def reply(body):
        if len(server.asked) == 20:
            server.always = Fault(402)
        return verdict_text(perfect(*compared(body)))

    with serving(reply) as server:
        with pytest.raises(PermanentError, match=r"^reward\.judge: .*quota"):
            reflect.run(reflecting(server))
        server.always, server.reply = None, reply_by(perfect)
        assert reflect.run(reflecting(server)).counts["pairs"] == 4
    assert len(server.asked) == REQUESTS


def test_shards_make_the_same_pairs_and_pay_once(reflecting):
    with serving(reply_by(longer)) as server:
        whole = reflect.run(reflecting(server, "whole"))
        server.asked.clear()
        ends = [reflect.run(reflecting(server, "shared", shard=(index, 3))) for index in (2, 0, 1)]
    assert len(server.asked) == REQUESTS
    assert ends[:2] == [None, None]
    assert ends[2].outputs["pairs"].read_bytes() == whole.outputs["pairs"].read_bytes()
    assert (ends[2].counts, ends[2].details["reward"]) == (whole.counts, whole.details["reward"])


texts = st.lists(st.text("ab good", min_size=1, max_size=9), min_size=2, max_size=6, unique=True)


@given(texts, st.sampled_from([first, longer, perfect, tossed]))
def test_points_are_shared_out_whole_and_the_order_of_the_answers_decides_nothing(written, judge):
    names = {f"candidate-{number}": text for number, text in enumerate(written)}
    turned = dict(reversed(names.items()))

    def scores(answers):
        asked = ToRank("c", context("c").turns, answers)
        said = {each.id: Said(verdict_text(judge(answers[each.a], answers[each.b]))) for each in questions(asked)}
        assert len(said) == len(answers) * (len(answers) - 1)
        return scored(asked, said)

    found = scores(names)
    assert sum(found.scores.values()) == pytest.approx(len(names) / 2)
    assert all(0 <= score <= 1 for score in found.scores.values())
    assert scores(turned).scores == pytest.approx(found.scores)
    assert found.judged["compared"] == len(list(combinations(names, 2)))
    assert (found.judged["flipped"] == found.judged["compared"]) or judge is not first
