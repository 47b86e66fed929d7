"""A chat with real models: the same answers as the stages, one base model for two adapters, and the whole command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Answer, Context, Response, Turn
from evolution_jobs.contract.settings import EvaluationSettings, GenerationSettings
from evolution_jobs.engines.base import row_seed
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.stages.direct import direct_request
from evolution_jobs.store.base import CorruptObjectError
from evolution_operator.chat.session import Session
from evolution_operator.cli.main import app
from evolution_operator.results.find import results_of_pointers
from evolution_operator.results.weights import weights_of
from typer.testing import CliRunner

from tests.support.stages.stored_run import Published
from tests.support.stages.tiny_model import random_adapter, tiny_model, write_rows

pytestmark = pytest.mark.model

SAMPLING = GenerationSettings(max_new_tokens=12, max_prompt_tokens=200)
EVALUATION = EvaluationSettings(max_new_tokens=12, max_prompt_tokens=200)
CONTEXTS = [
    Context(id=f"d{place}-1", dialogue=f"d{place}", turns=[Turn(role="seeker", text=text)], human="Why?")
    for place, text in enumerate(("I lost my job.", "My dog died.", "I cannot sleep."))
]


def request(context: Context):
    return direct_request(context, EVALUATION, id=context.id, seed=row_seed(7, context.id, "evaluate"))


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A run with a tiny base model, M0 and M1, and what M1 has answered as evaluate samples it: all contexts in one batch."""
    directory = tmp_path_factory.mktemp("run")
    base = tiny_model(small_model, directory / "base")
    published = Published(directory / "store")
    settings = {"baseModel": {"uri": "package://tiny"}}
    test = write_rows(directory / "test.jsonl", CONTEXTS)
    published.stage("prepare", {"model": base, "test": test}, settings=settings)
    adapters = [random_adapter(base, directory / f"M{number}", seed=number) for number in (0, 1)]
    published.stage("sft", {"adapter": adapters[0]})
    published.stage("generate-1", {"responses": test}, settings=SAMPLING.wire())
    published.stage("dpo-1", {"adapter": adapters[1]})
    engine = TransformersEngine.load(base, adapters[1], "float32", 4096)
    said = {each.id: each for each in engine.generate([request(context) for context in CONTEXTS])}
    rows = [
        Answer(
            id=context.id,
            dialogue=context.dialogue,
            context=context.turns,
            human=context.human,
            answer=said[context.id].text,
            tokens=said[context.id].tokens,
            finish=said[context.id].finish,
            truncated_turns=0,
            nll=None,
            nll_tokens=0,
        )
        for context in reversed(CONTEXTS)
    ]
    answers = write_rows(directory / "answers.jsonl", rows)
    published.stage("evaluate-1", {"answers": answers}, settings=EVALUATION.wire())
    return published


def chat(run: Published, *arguments: str, said: str | None = None) -> list[dict]:
    command = ["chat", "first", "--storage", str(run.directory), "-o", "json", *arguments]
    found = CliRunner().invoke(app, command, input=said)
    assert found.exit_code == 0, (found.exception, found.output)
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_test_context_gets_the_answer_that_evaluate_has_written(run: Published) -> None:
    (first,) = chat(run, "--context", "1", said="")
    stored = [json.loads(line) for line in (run.directory.parent / "answers.jsonl").read_text().splitlines()]
    assert first["said"] == "I cannot sleep."
    assert first["answers"] == [
        {
            "model": "M1",
            "text": stored[0]["answer"],
            "finish": stored[0]["finish"],
            "tokens": stored[0]["tokens"],
            "truncatedTurns": 0,
        }
    ]


def test_two_models_on_one_base_answer_as_each_does_alone(run: Published) -> None:
    lines = "I lost my job.\nSeven years.\n"
    together = chat(run, "--against", "M0", "--greedy", said=lines)
    alone = {name: chat(run, "--model", name, "--greedy", said=lines) for name in ("M1", "M0")}
    for place, document in enumerate(together):
        assert [each["model"] for each in document["answers"]] == ["M1", "M0"]
        for each in document["answers"]:
            assert each == alone[each["model"]][place]["answers"][0]
    texts = [each["text"] for each in together[0]["answers"]]
    assert texts[0] != texts[1]


def test_the_base_model_has_no_adapter(run: Published) -> None:
    said = "I lost my job.\n"
    (both,) = chat(run, "--against", "base", "--greedy", said=said)
    (base,) = chat(run, "--model", "base", "--greedy", said=said)
    assert both["answers"][1]["text"] == base["answers"][0]["text"] != both["answers"][0]["text"]


def test_a_model_is_not_compared_with_itself(run: Published) -> None:
    command = ["chat", "first", "--storage", str(run.directory), "--against", "M1", "--message", "Hello."]
    found = CliRunner().invoke(app, command)
    assert isinstance(found.exception, PermanentError)
    assert "this is the model itself" in str(found.exception)


def test_an_answer_is_seen_as_it_grows_and_a_long_history_is_cut(run: Published) -> None:
    seen: list[Response] = []
    results = results_of_pointers(run.store, None, "first")
    with weights_of(results) as weights:
        session = Session.load(weights, ["M1"], SAMPLING)
    turns = [
        Turn(role=("seeker", "supporter")[place % 2], text=f"I feel rather bad today, part {place}.")
        for place in range(31)
    ]
    response = session.answer("M1", turns, SAMPLING, 5, seen.append)
    assert [each.tokens for each in seen] == list(range(1, response.tokens))
    assert response.truncated_turns > 0


def test_a_changed_file_of_an_adapter_is_refused(run: Published, tmp_path: Path) -> None:
    published = Published(tmp_path / "store")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    manifest = published.stage("sft", {"adapter": adapter})
    (file,) = manifest.outputs["adapter"].files
    (published.directory / file.location).write_bytes(b"others!")
    results = results_of_pointers(published.store, None, "first")
    with weights_of(results) as weights, pytest.raises(CorruptObjectError, match="expected sha256"):
        weights.adapter("M0")
