"""The teacher and the judge against a real server: `transformers serve` answers, with the real small model."""

from contextlib import suppress

import pytest
from evolution_jobs.chat.files import read_chats
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Turn
from evolution_jobs.judging.rubric import messages
from evolution_jobs.preference.prompts import answer_messages
from evolution_jobs.stages import judge, reflect

from tests.support.model_server import serving_model
from tests.support.stages import judged, taught

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def server(small_model, tmp_path_factory):
    with serving_model(small_model, tmp_path_factory.mktemp("serve")) as server:
        yield server


@pytest.fixture(scope="module")
def tokens(small_model):
    """How many tokens a chat has, by the model's own template."""
    chats = read_chats(lambda name: path.read_text("utf-8") if (path := small_model / name).exists() else "")
    return lambda chat: len(chats.prompt(chat))


def spoken(texts):
    return [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(texts)]


def test_a_teacher(server, tokens, tmp_path):
    ids, limit = taught.IDS[:2], 16
    teacher = {"url": server.url, "model": server.model, "temperature": 0, "maxTokens": limit, "concurrency": 2}
    workspace = taught.workspace(tmp_path, server.url, {"teacher": teacher}, ids=ids)
    with suppress(PermanentError):  # NoPairs: a small model may write no whole sentence in so few tokens
        result = reflect.run(workspace)
        assert result.details["teacher"]["models"] == {server.reported: 2}
        assert result.counts["teacher.requests"] == 2
    rows = {id_.split(".")[0]: row for id_, row in workspace.rows.finished().items()}
    assert sorted(rows) == ids
    for id_, row in rows.items():
        assert row["teacher"]["model"] == server.reported
        asked = answer_messages(spoken(["I lost my job.", "That is hard.", id_]))
        assert row["teacher"]["inputTokens"] == tokens(asked)
        assert 0 < row["teacher"]["outputTokens"] <= limit
        assert row["teacher"]["retries"] == 0


def test_a_judge(server, tokens, tmp_path):
    ids, limit = judged.IDS[:1], 16
    settings = {"model": server.model, "maxTokens": limit, "concurrency": 2}
    workspace = judged.workspace(tmp_path, server.url, settings, before=False, ids=ids)
    # A verdict has about 60 tokens, so no model writes one in so few.
    with pytest.raises(PermanentError, match=r"1 of 1 pairs have no verdict \(1 unreadable\)") as caught:
        judge.run(workspace)
    assert caught.value.reason == "NoVerdicts"
    rows = workspace.rows.finished()
    assert sorted(rows) == [f"{ids[0]}/human/as_a", f"{ids[0]}/human/as_b"]
    mine, human = f"It is good that you ask. Whom do you trust, {ids[0]}?", "Call your brother. " * 10 + ids[0]
    for id_, row in rows.items():
        pair = (mine, human) if id_.endswith("as_a") else (human, mine)
        assert row["text"]
        assert row["judge"]["model"] == server.reported
        assert row["judge"]["inputTokens"] == tokens(messages(spoken(judged.SPOKEN), *pair))
        assert row["finish"] == ("length" if row["judge"]["outputTokens"] == limit else "stop")


def test_a_model_that_it_does_not_serve_is_named(server, tmp_path):
    teacher = {"url": server.url, "model": "owner/other", "maxAttempts": 2}
    with pytest.raises(PermanentError, match=r"teacher: .*owner/other") as caught:
        reflect.run(taught.workspace(tmp_path, server.url, {"teacher": teacher}, ids=taught.IDS[:1]))
    assert caught.value.reason == "EndpointRefused"
