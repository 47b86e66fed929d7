"""The client of an OpenAI-compatible endpoint, against a real server with faults (tests/support/chat_server.py)."""

import socket
import threading
from itertools import pairwise

import pytest
from evolution_jobs.contract.endpoints import Endpoint
from evolution_jobs.contract.errors import PermanentError, TransientError
from evolution_jobs.endpoints.answers import Chat, read_answer
from evolution_jobs.endpoints.client import EndpointClient
from evolution_jobs.endpoints.rate import Rate
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chat_server import MODEL, REPORTED, Fault, completion, serving

KEY = "canary-key-that-nobody-may-see"
ENVIRONMENT = {"CREDENTIALS_MY_KEY_API_KEY": f"{KEY}\n"}


def chat(name, **options):
    return Chat(name, [{"role": "user", "content": name}], max_tokens=9, options=options)


def echo(body):
    return f"You said {body['messages'][-1]['content']}"


@pytest.fixture
def server():
    with serving(echo) as server:
        yield server


def asked(server, names="abc", environ=ENVIRONMENT, **fields):
    endpoint = Endpoint.model_validate({"url": server.url, "model": MODEL, "maxAttempts": 2, **fields})
    with EndpointClient(endpoint, "teacher", environ=environ) as client:
        return {each.id: each for list_ in client.answers(map(chat, names)) for each in list_}


def test_each_chat_is_answered_with_its_usage_and_the_servers_name_of_the_model(server):
    answers = asked(server)
    assert {name: answer.text for name, answer in answers.items()} == {name: f"You said {name}" for name in "abc"}
    assert {answer.model for answer in answers.values()} == {REPORTED}
    assert {(a.usage.input_tokens, a.usage.output_tokens, a.usage.retries) for a in answers.values()} == {(10, 3, 0)}
    assert {body["max_tokens"] for body in server.asked} == {9}
    assert not any("authorization" in headers for headers in server.headers)


def test_the_key_comes_from_the_secrets_variable_and_is_sent_without_white_space():
    with serving(echo, key=KEY) as server:
        assert len(asked(server, apiKeySecret="my-key")) == 3


def test_no_more_requests_are_open_than_allowed():
    barrier = threading.Barrier(3)

    def reply(body):
        barrier.wait(30)
        return echo(body)

    with serving(reply) as server:
        assert len(asked(server, "abcdef", concurrency=3)) == 6
        assert server.most_open == 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, retry_after=0.01),
        Fault(500, retry_after=0.01),
        Fault(503, page="<html>", retry_after=0.01),
        Fault(0),
    ],
)
def test_a_passing_fault_is_tried_again_and_counted(server, fault):
    server.faults.append(fault)
    answers = asked(server)
    assert sum(answer.usage.retries for answer in answers.values()) == 1
    assert len(server.asked) == 3


LASTING = [
    (Fault(401, "invalid_api_key"), PermanentError, "EndpointDenied", "teacher.apiKeySecret"),
    (Fault(403), PermanentError, "EndpointDenied", "my-key"),
    (Fault(403, page="<html>"), PermanentError, "EndpointRefused", "web page"),
    (Fault(404, "model_not_found"), PermanentError, "EndpointModelMissing", "teacher.model.*models lists"),
    (Fault(404, message="Not Found"), PermanentError, "EndpointRefused", "teacher.url.*/v1"),
    (Fault(400, message="top_p is unknown"), PermanentError, "EndpointRefused", "top_p is unknown"),
    (Fault(400, message="top_p is unknown", detail=True), PermanentError, "EndpointRefused", "top_p is unknown"),
    (Fault(402), PermanentError, "EndpointQuotaExceeded", "quota"),
    (Fault(429, "insufficient_quota", retry_after=0.01), PermanentError, "EndpointQuotaExceeded", "quota"),
    (Fault(429, retry_after=0.01), TransientError, "EndpointBusy", "2 attempts.*teacher.concurrency"),
    (Fault(502, retry_after=0.01), TransientError, "EndpointUnreachable", "2 attempts.*502"),
    (Fault(0), TransientError, "EndpointUnreachable", "teacher.url"),
    (Fault(200, page="<html>"), PermanentError, "EndpointAnswerInvalid", "teacher.url.*no JSON"),
    (Fault(200), TransientError, "EndpointBusy", "answers with an error: on purpose"),
    (Fault(200, page="[" * 200_000), PermanentError, "EndpointAnswerInvalid", "teacher.url.*no JSON"),
    (Fault(400, message="half \ud83d\nof it"), PermanentError, "EndpointRefused", r"half \? of it"),
]


@pytest.mark.parametrize(("fault", "kind", "reason", "words"), LASTING, ids=lambda part: str(part)[:40])
def test_a_lasting_fault_says_what_to_do(server, fault, kind, reason, words):
    server.always = fault
    with pytest.raises(kind, match=words) as raised:
        asked(server, apiKeySecret="my-key")
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    "fault",
    [
        Fault(400, "content_filter", "the prompt is filtered"),
        Fault(400, message="This model's maximum context length is 2048 tokens"),
        Fault(400, message="maximum context length is 9 tokens: \ud83d"),
    ],
)
def test_a_refusal_of_one_chat_is_an_answer(server, fault):
    server.faults.append(fault)
    answers = asked(server)
    assert sorted(answer.refusal or "" for answer in answers.values()) == ["", "", fault.message.replace("\ud83d", "?")]


def test_what_was_answered_before_a_fault_is_not_lost(server):
    endpoint = Endpoint(url=server.url, model=MODEL, concurrency=1, max_attempts=1)
    found = []
    with EndpointClient(endpoint, "teacher") as client:
        lists = client.answers(map(chat, "abcd"))
        found += next(lists) + next(lists)
        server.always = Fault(401)
        with pytest.raises(PermanentError):
            next(lists)
    assert [answer.id for answer in found] == ["a", "b"]


def test_a_key_is_in_no_error_although_the_server_repeats_it():
    environ = {"CREDENTIALS_MY_KEY_API_KEY": KEY}
    with serving(echo, key="another") as server, pytest.raises(PermanentError) as raised:
        asked(server, environ=environ, apiKeySecret="my-key")
    assert raised.value.reason == "EndpointDenied"
    assert KEY not in str(raised.value)


def test_a_key_is_in_no_error_that_comes_with_status_200(monkeypatch):
    monkeypatch.setenv("CREDENTIALS_MY_KEY_API_KEY", KEY)
    body = {"error": {"message": f"upstream refuses\n{KEY} " + "x" * 500}}
    with pytest.raises(TransientError, match="answers with an error: upstream refuses") as raised:
        read_answer(chat("a"), body, 0, MODEL, "teacher")
    assert KEY not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_missing_key_is_named_with_its_variable(server):
    with pytest.raises(PermanentError, match="CREDENTIALS_MY_KEY_API_KEY is not set") as raised:
        asked(server, environ={}, apiKeySecret="my-key")
    assert raised.value.reason == "CredentialsMissing"
    assert server.headers == []


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = Endpoint(url=f"http://127.0.0.1:{free.getsockname()[1]}/v1", model=MODEL, max_attempts=1)
        with (
            EndpointClient(endpoint, "teacher") as client,
            pytest.raises(TransientError, match=r"teacher\.url.*cannot be reached") as raised,
        ):
            list(client.answers([chat("a")]))
    assert raised.value.reason == "EndpointUnreachable"


def test_tls_is_asked_of_a_port_that_has_none(server):
    endpoint = Endpoint(url=server.url.replace("http", "https"), model=MODEL, max_attempts=1)
    with (
        EndpointClient(endpoint, "teacher") as client,
        pytest.raises(PermanentError, match="write http://"),
    ):
        list(client.answers([chat("a")]))


@given(
    st.integers(1, 6000),
    st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=50).map(sorted),
)
def test_no_minute_has_more_requests_than_allowed(limit, moments):
    rate = Rate(limit)
    starts = [now + rate.wait(now) for now in moments]
    assert all(start >= now for start, now in zip(starts, moments, strict=True))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert all(gap >= 60 / limit - 1e-6 for gap in gaps)


def test_without_a_limit_nobody_waits():
    rate = Rate(None)
    assert [rate.wait(0) for _ in range(3)] == [0, 0, 0]


def test_retries_take_their_turn_in_the_rate(server, monkeypatch):
    waits = []
    monkeypatch.setattr(Rate, "wait", lambda self, now: waits.append(self.per_minute) or 0)
    server.faults += [Fault(429, retry_after=0.01)]
    asked(server, "ab", requestsPerMinute=100)
    assert waits == [100] * 3


@pytest.mark.parametrize(
    ("change", "text", "finish", "refusal"),
    [
        ({}, "yes", "stop", None),
        ({"finish_reason": "length"}, "yes", "length", None),
        ({"message": {"content": None}}, "", "stop", None),
        ({"message": {"content": None, "refusal": "I will not"}}, "", "stop", "I will not"),
        ({"finish_reason": "content_filter"}, "yes", "stop", "its content filter stopped the answer"),
    ],
)
def test_an_answer_is_read(change, text, finish, refusal):
    body = completion("yes")
    body["choices"][0] |= change
    answer = read_answer(chat("a"), body, 0, MODEL, "teacher")
    assert (answer.text, answer.finish, answer.refusal) == (text, finish, refusal)


@pytest.mark.parametrize(
    "body",
    [None, [], "text", {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": [1]}}]}],
)
def test_what_is_no_completion_is_refused(body):
    with pytest.raises(PermanentError, match="no chat completion") as raised:
        read_answer(chat("a"), body, 0, MODEL, "teacher")
    assert raised.value.reason == "EndpointAnswerInvalid"


def test_a_server_may_leave_out_usage_and_model():
    body = {name: value for name, value in completion("yes").items() if name not in ("usage", "model")}
    answer = read_answer(chat("a"), body, 0, MODEL, "teacher")
    assert (answer.model, answer.usage.input_tokens) == (MODEL, 0)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a \ud83d", "a ?"),
        ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "one two"),
        ([{"type": "image"}, {"text": "kept"}], "kept"),
        (None, ""),
    ],
)
def test_odd_content_is_read_as_text(content, text):
    body = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
    assert read_answer(chat("a"), body, 0, "model", "judge").text == text


def test_names_and_refusals_hold_no_half_pairs_either():
    body = {"choices": [{"message": {"content": None, "refusal": "no \ud83d"}}], "model": "large \udc00"}
    answer = read_answer(chat("a"), body, 0, MODEL, "judge")
    assert (answer.refusal, answer.model) == ("no ?", "large ?")


def test_a_body_without_choices_and_without_an_error_is_no_completion():
    for body in ({"choices": []}, {"choices": [{"message": {"content": 3}}]}, []):
        with pytest.raises(PermanentError, match="no chat completion"):
            read_answer(chat("a"), body, 0, "model", "judge")
