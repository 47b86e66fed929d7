"""generate, reflect and evaluate with vLLM, as stages run them: their results, and what a kill leaves."""

import json
import signal
import subprocess
import sys
import time

import pytest
from evolution_jobs.contract.errors import EXIT_TERMINATED
from evolution_jobs.contract.rows import Context, Pair, Response, Turn
from evolution_jobs.engines.vllm_engine import VllmEngine
from evolution_jobs.stages import evaluate, generate, reflect

from tests.support.stages.workspace import LocalWorkspace

from .conftest import SETTINGS

SPOKEN = [
    "My sister stopped talking to me.",
    "When did that begin?",
    "Last month, after I moved out.",
    "What did you two say to each other then?",
    "Not much. I miss her.",
    "You could write her a letter.",
]
OPENINGS = [
    "I failed my exam.",
    "My cat died.",
    "Nobody calls me.",
    "I lost my job.",
    "I cannot sleep.",
    "We broke up.",
]


def context(dialogue, spoken, position):
    turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(spoken[:position])]
    return Context(id=f"{dialogue}-{position}", dialogue=dialogue, turns=turns, human=spoken[position])


CONTEXTS = [
    context(f"d{place}", [opening, *SPOKEN[1:]], position)
    for place, opening in enumerate(OPENINGS)
    for position in (1, 3, 5)
]


@pytest.fixture
def prepared(tmp_path, small_model, adapter):
    """The root of a stage's workspace, and its inputs."""
    files = {name: tmp_path / f"{name}.jsonl" for name in ("contexts", "test")}
    for file in files.values():
        file.write_text("".join(json.dumps(each.wire()) + "\n" for each in CONTEXTS))
    return tmp_path / "stage", {**files, "model": small_model, "adapter": adapter}


@pytest.fixture
def shared(vllm_engine, monkeypatch):
    """Stages take the session's engine instead of loading one."""
    monkeypatch.setattr(VllmEngine, "load", lambda *_, **__: vllm_engine)
    return vllm_engine


def rows(path, kind):
    return [kind.stored(line) for line in path.read_text("utf-8").splitlines()]


def start(root, kind, inputs, **settings):
    """A stage that runs in a process of its own."""
    given = {name: str(path) for name, path in inputs.items()}
    arguments = {"root": str(root), "kind": kind, "settings": {**SETTINGS, **settings}, "inputs": given}
    return subprocess.Popen([sys.executable, "-m", "tests.vllm.child", json.dumps(arguments)])


def ended(child):
    """Its exit code."""
    return child.wait(timeout=300)


def killed(root, kind, inputs, how):
    """Runs a stage in a process of its own, and ends it once some of its rows are durable. Returns its exit code."""
    child = start(root, kind, inputs)
    while not list((root / "rows").glob("*.jsonl")):
        assert child.poll() is None, "it ended before the moment to kill it came"
        time.sleep(0.02)
    child.send_signal(how)
    return ended(child)


def test_generate_and_reflect(prepared, shared, tmp_path):
    root, inputs = prepared
    contexts = CONTEXTS[:6]
    inputs["contexts"].write_text("".join(json.dumps(each.wire()) + "\n" for each in contexts))
    made = generate.run(LocalWorkspace(root, "generate", SETTINGS, inputs=inputs))
    responses = rows(made.outputs["responses"], Response)
    assert [each.id for each in responses] == [each.id for each in contexts]
    assert made.details == {"engines": {shared.name: len(contexts)}}
    assert made.tokens == sum(each.tokens for each in responses)

    settings = {**SETTINGS, "maxProfileTokens": 96, "maxPromptTokens": 464, "maxLengthRatio": 20}
    inputs = {**inputs, "responses": made.outputs["responses"]}
    reflected = reflect.run(LocalWorkspace(tmp_path / "reflect", "reflect", settings, inputs=inputs))
    print(reflected.counts)
    pairs = rows(reflected.outputs["pairs"], Pair)
    assert pairs
    assert {each.id for each in pairs} <= {each.id for each in contexts}
    assert all(each.chosen != each.rejected and len(each.profile) == 4 for each in pairs)
    dropped = sum(count for name, count in reflected.counts.items() if name.startswith("dropped."))
    assert len(pairs) + dropped == len(contexts)
    asked = sum(count for name, count in reflected.counts.items() if name.startswith("attempts."))
    assert reflected.details == {"engines": {shared.name: asked}}


def test_a_killed_generate_loses_at_most_a_chunk_and_what_was_sampled(prepared, shared):
    root, inputs = prepared
    assert killed(root, "generate", inputs, signal.SIGKILL) == -signal.SIGKILL
    again = LocalWorkspace(root, "generate", SETTINGS, inputs=inputs)
    kept = again.rows.finished()
    assert 0 < len(kept) < len(CONTEXTS)
    made = generate.run(again)
    said = {each.id: each.text for each in rows(made.outputs["responses"], Response)}
    assert {id_: said[id_] for id_ in kept} == {id_: row["text"] for id_, row in kept.items()}
    assert len(said) == len(CONTEXTS)
    assert sum(map(len, (chunk.read_text().splitlines() for chunk in again.rows.chunks))) == len(CONTEXTS)


def test_evaluate_stops_on_sigterm_keeps_what_it_has_and_goes_on(prepared, shared, transformers_engine):
    root, inputs = prepared
    assert killed(root, "evaluate", inputs, signal.SIGTERM) == EXIT_TERMINATED
    again = LocalWorkspace(root, "evaluate", SETTINGS, inputs=inputs)
    kept = set(again.rows.finished())
    assert 0 < len(kept) < 2 * len(CONTEXTS)
    result = evaluate.run(again)
    assert result.details["engines"] == {shared.name: 2 * len(CONTEXTS)}
    written = [json.loads(line)["id"] for chunk in again.rows.chunks for line in chunk.read_text().splitlines()]
    assert len(written) == len(set(written))

    # Nothing but the engine differs.
    settings = {**SETTINGS, "engine": "transformers", "precision": "float32", "samples": 4}
    other = evaluate.run(LocalWorkspace(root.parent / "other", "evaluate", settings, inputs=inputs))
    assert other.details["engines"] == {transformers_engine.name: 8}
    expected, found = likelihoods(other.outputs["answers"]), likelihoods(result.outputs["answers"])
    for id_, (nll, tokens) in expected.items():
        assert found[id_] == (pytest.approx(nll, abs=1e-3 * tokens), tokens)


def test_in_bfloat16_likelihoods_are_close_to_those_of_transformers(prepared):
    """On average. A single short answer differs by a tenth of a nat a token at most: either engine rounds in its own places."""
    root, inputs = prepared
    settings = {**SETTINGS, "precision": "bfloat16", "maxNewTokens": 4}
    assert ended(start(root, "evaluate", inputs, **settings)) == 0
    made = evaluate.run(LocalWorkspace(root, "evaluate", settings, inputs=inputs))
    assert [name.partition(" ")[0] for name in made.details["engines"]] == ["vllm"]
    settings["engine"] = "transformers"
    other = evaluate.run(LocalWorkspace(root.parent / "other", "evaluate", settings, inputs=inputs))
    expected, found = likelihoods(other.outputs["answers"]), likelihoods(made.outputs["answers"])
    apart = {id_: found[id_][0] - nll for id_, (nll, _) in expected.items()}
    tokens = {id_: count for id_, (_, count) in expected.items()}
    print({id_: round(nats / tokens[id_], 4) for id_, nats in apart.items()}, sum(tokens.values()), "tokens")
    assert abs(sum(apart.values())) < 1e-2 * sum(tokens.values())
    assert all(abs(nats) < 0.2 * tokens[id_] for id_, nats in apart.items())


def likelihoods(answers):
    """Nats and tokens of each human answer."""
    return {row["id"]: (row["nll"], row["nllTokens"]) for row in map(json.loads, answers.open())}
