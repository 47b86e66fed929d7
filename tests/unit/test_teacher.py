"""Preference source teacher, alone and mixed with others: rows, resumption, and what is paid for.

The teacher is a real server (tests/support/chat_server.py): plain functions answer where the text does not matter, and
SmolLM2-135M in the last test.
"""

from collections import Counter

import pytest
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.rows import Pair, Reject
from evolution_jobs.stages import reflect
from evolution_jobs.stages.sources import source_of
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chat_server import REPORTED, Fault, model_reply, serving
from tests.support.killed import killed_while_asking
from tests.support.stages.taught import IDS, workspace

PRICES = {"pricePerMillionInputTokens": 100_000, "pricePerMillionOutputTokens": 200_000}


def topic(body):
    return body["messages"][-1]["content"]


def advise(body):
    return f"What do you miss most, {topic(body)}?"


@pytest.fixture
def server():
    with serving(advise) as server:
        yield server


def rows_of(result, output, kind):
    return [kind.model_validate_json(line) for line in result.outputs[output].read_text("utf-8").splitlines()]


def teacher(server, **fields):
    return {"url": server.url, "model": "smollm2-135m", "concurrency": 4, "maxAttempts": 2, **fields}


def test_the_teachers_answer_is_chosen_with_its_model_and_what_it_cost(server, tmp_path, monkeypatch):
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    server.faults.append(Fault(429, retry_after=0.01))
    result = reflect.run(workspace(tmp_path, server.url, {"teacher": teacher(server, **PRICES)}))
    pairs = rows_of(result, "pairs", Pair)
    assert [pair.id for pair in pairs] == IDS
    assert {(pair.source, pair.model, pair.profile) for pair in pairs} == {("teacher", REPORTED, None)}
    assert pairs[3].chosen == "What do you miss most, d03-3?"
    assert result.counts == {
        "read": 24,
        "pairs": 24,
        "teacher.requests": 25,
        "teacher.inputTokens": 240,
        "teacher.outputTokens": 24 * 6,
        "teacher.retries": 1,
        "truncated": 0,
    }
    assert result.details == {"teacher": {"models": {REPORTED: 24}, "cost": 24.0 + 24 * 6 * 0.2}}
    assert result.tokens == 0


def test_the_chat_is_the_products_own_and_unset_sampling_is_left_to_the_endpoint(server, tmp_path):
    reflect.run(workspace(tmp_path, server.url, {"teacher": teacher(server, temperature=0.5)}))
    body = server.asked[0]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][0]["content"].startswith("You are a supporter")
    assert (body["temperature"], body["max_tokens"]) == (0.5, 512)
    assert not {"top_p", "seed", "stop"} & body.keys()


def test_answers_are_cleaned_filtered_and_counted(tmp_path):
    answers = {"d00-3": "", "d01-3": "I hear that you have lost much, d01-3", "d02-3": "word " * 99}
    answers["d03-3"] = '<think>They grieve.</think>\nSupporter: "What do you miss?"'

    with serving(lambda body: answers.get(topic(body), advise(body))) as server:
        server.faults.append(Fault(400, "content_filter", "filtered"))
        result = reflect.run(workspace(tmp_path, server.url, {"teacher": teacher(server, concurrency=1)}))
    # The first request, of d00-3, was refused.
    assert {name: count for name, count in result.counts.items() if name.startswith("dropped.")} == {
        "dropped.equal": 1,
        "dropped.teacher_refused": 1,
        "dropped.too_long": 1,
    }
    assert rows_of(result, "pairs", Pair)[0].chosen == "What do you miss?"
    assert result.counts["thoughts"] == 1
    refused = rows_of(result, "rejects", Reject)[0]
    assert (refused.detail, refused.row["source"]) == ("filtered", "teacher")


def test_killed_and_resumed_only_open_requests_are_paid_twice(tmp_path):
    with killed_while_asking("tests.support.stages.taught", tmp_path / "run", advise) as server:
        resumed = workspace(tmp_path / "run", server.url)
        durable = len(resumed.rows.finished())
        assert durable >= 8
        result = reflect.run(resumed)
        paid = Counter(map(topic, server.asked))
        whole = reflect.run(workspace(tmp_path / "whole", server.url))
    assert set(paid) == set(IDS)
    assert max(paid.values()) == 2
    assert sum(paid.values()) - len(IDS) <= 4
    for output in whole.outputs:
        assert result.outputs[output].read_bytes() == whole.outputs[output].read_bytes()
    assert result.counts == whole.counts


def test_asked_to_stop_it_keeps_every_answer_that_was_paid_for(tmp_path):
    def reply(body):
        if len(server.asked) == 9:
            stopped.stop()
        return advise(body)

    with serving(reply) as server:
        stopped = workspace(tmp_path, server.url)
        with pytest.raises(Terminated):
            reflect.run(stopped)
        before = len(server.asked)
        assert 9 <= before < len(IDS)
        assert len(stopped.rows.finished()) == before
        reflect.run(workspace(tmp_path, server.url))
        assert len(server.asked) == len(IDS)


def test_a_fault_keeps_what_was_answered(server, tmp_path):
    def reply(body):
        if len(server.asked) == 8:
            server.always = Fault(402)
        return advise(body)

    server.reply = reply
    with pytest.raises(PermanentError, match="quota"):
        reflect.run(workspace(tmp_path, server.url))
    server.always, server.reply = None, advise
    before = len(server.asked)
    assert before >= 9
    reflect.run(workspace(tmp_path, server.url))
    assert len(server.asked) == len(IDS)


MIXED = {"source": "mixed", "weights": {"human": 1, "teacher": 2}}


def test_mixed_sources_are_the_same_in_shards_and_counted(server, tmp_path):
    whole = reflect.run(workspace(tmp_path / "whole", server.url, MIXED))
    paid = Counter(map(topic, server.asked))
    shards = [reflect.run(workspace(tmp_path / "shared", server.url, MIXED, shard=(i, 3))) for i in (2, 0, 1)]
    assert shards[:2] == [None, None]
    for output in whole.outputs:
        assert shards[2].outputs[output].read_bytes() == whole.outputs[output].read_bytes()
    assert whole.counts["pairs.human"] + whole.counts["pairs.teacher"] == 24
    assert whole.counts["pairs.teacher"] == whole.counts["teacher.requests"] == sum(paid.values())
    assert 8 < sum(paid.values()) < 24


sources = st.dictionaries(st.sampled_from(["self", "none", "human", "teacher"]), st.integers(1, 9), min_size=1)


@given(sources, st.integers(0, 2**31), st.text(max_size=20))
def test_a_source_follows_from_seed_and_context_alone(shares, seed, context):
    assert source_of(context, shares, seed) in shares
    assert source_of(context, shares, seed) == source_of(context, dict(shares), seed)


def test_each_source_gets_the_share_of_its_weight():
    shares = {"self": 3, "human": 1, "teacher": 6}
    drawn = Counter(source_of(f"context-{number}", shares, 7) for number in range(5000))
    for name, weight in shares.items():
        assert abs(drawn[name] / 5000 - weight / 10) < 0.02
    again = Counter(source_of(f"context-{number}", shares, 8) for number in range(5000))
    assert again != drawn


@pytest.mark.model
def test_a_real_model_teaches(tmp_path, small_model):
    answer, said = model_reply(small_model), {}

    def reply(body):
        return said.setdefault(topic(body), answer(body))

    with serving(reply) as server:
        settings = {"teacher": teacher(server, temperature=0, maxTokens=24)}
        taught = workspace(tmp_path, server.url, settings, shard=(0, 12))
        assert reflect.run(taught) is None  # the rest belongs to other shards
    rows = taught.rows.finished()
    assert len(rows) == 2
    assert all(row["teacher"]["model"] == REPORTED and row["teacher"]["outputTokens"] for row in rows.values())
    written = {id_.split(".")[0]: row["pair"]["chosen"] for id_, row in rows.items() if "pair" in row}
    assert written
    assert all(said[id_].startswith(chosen) for id_, chosen in written.items())
