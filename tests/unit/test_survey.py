"""`evolution validate --deep`: what a run will train on, without a GPU and without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from evolution_operator.cli.main import app
from typer.testing import CliRunner

from tests.support.run_document import experiment_document, minimal_spec, run_document
from tests.support.stages.chat_families import FAMILIES, save_tokenizer
from tests.support.stages.model_directory import model_directory

pytest.importorskip("transformers")

WORDS = [
    "river",
    "stone",
    "cloud",
    "apple",
    "tiger",
    "music",
    "window",
    "garden",
    "silver",
    "thunder",
    "pepper",
    "candle",
    "marble",
    "falcon",
    "ocean",
    "ladder",
]


def talk(number: int, turns: int = 6) -> dict[str, object]:
    said = [
        " ".join(WORDS[(number * 5 + place * 7 + n * n) % 16] for n in range(7)) + f" {number}."
        for place in range(turns)
    ]
    if number == 0:
        said[0] += " <|im_end|>"
    return {"dialog": [{"text": text, "speaker": ("usr", "sys")[place % 2]} for place, text in enumerate(said)]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model_directory(tmp_path / "model")
    (tmp_path / "seed.jsonl").write_text("".join(json.dumps(talk(number)) + "\n" for number in range(12)), "utf-8")
    seed = {"uri": "file://seed.jsonl", "format": "esconv"}
    spec = minimal_spec(model_uri="file://model", storage_uri="file://runs", iterations=1)
    document = run_document(spec | {"data": {"seed": [seed]}, "sft": {"epochs": 2, "batchSize": 2}})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document), "utf-8")
    return tmp_path / "run.yaml"


def deep(file: Path) -> dict[str, object]:
    result = CliRunner().invoke(app, ["validate", "--deep", "-f", str(file), "-o", "json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_it_says_what_is_trained_on_and_writes_nothing(file: Path) -> None:
    found = deep(file)
    counts = found["counts"]
    assert counts["seed.read"] == 12
    assert counts["train"] + counts["validation"] == 12
    assert counts["sft.supporterTurns"] == 3 * counts["train"]
    assert 0 < counts["sft.learntTokens"] < counts["sft.tokens"]
    assert [each["stage"] for each in found["estimates"]] == [
        "sft",
        "generate-1",
        "reflect-1",
        "dpo-1",
        "evaluate-0",
        "evaluate-1",
    ]
    sft = found["estimates"][0]
    assert (sft["rows"], sft["steps"]) == (counts["train"], -(-counts["train"] * 2 // 4))
    assert sft["tokens"] == 2 * counts["sft.tokens"]
    assert "control tokens of the model 1 times" in found["notes"][0]
    assert not (file.parent / "runs").exists()


def test_it_shows_three_dialogues_with_what_is_learnt(file: Path) -> None:
    examples = deep(file)["examples"]
    assert len(examples) == 3
    learnt = [run["text"] for run in examples[0] if run["learnt"]]
    assert len(learnt) == 3
    assert all(text.endswith("<|im_end|>") for text in learnt)
    result = CliRunner().invoke(app, ["validate", "--deep", "-f", str(file)])
    assert f"»{learnt[0]}«".replace("\n", "") in result.stdout.replace("\n", "")
    assert "evaluate-1" in result.stdout


def test_a_template_that_needs_one_sequence_an_answer_is_said_with_its_sequences(file: Path) -> None:
    save_tokenizer(FAMILIES["qwen3"], file.parent / "model")
    found = deep(file)
    assert found["counts"]["sft.sequences"] == 3 * found["counts"]["sft.dialogues"]
    assert "one sequence an answer" in found["notes"][0]


def test_what_prepare_refuses_it_refuses(file: Path) -> None:
    from evolution_jobs.contract.errors import PermanentError

    (file.parent / "seed.jsonl").write_text('{"dialog": []}\n', "utf-8")
    with pytest.raises(PermanentError, match=r"data\.seed") as refused:
        deep(file)
    assert refused.value.reason == "DataMalformed"


def test_arms_of_an_experiment_that_read_the_same_are_read_once(file: Path) -> None:
    base = yaml.safe_load(file.read_text())["spec"]
    variants = [{"name": "self"}, {"name": "none", "set": {"preferenceSource": "none"}}]
    variants.append({"name": "half", "set": {"data": {"validationFraction": 0.5}}})
    file.write_text(yaml.safe_dump(experiment_document(*variants, base=base)))
    arms = deep(file)["arms"]
    assert isinstance(arms, dict)
    assert arms["none"] == {"readsAs": "self"}
    assert arms["self"]["counts"]["train"] == arms["half"]["counts"]["train"] == 6
    shown = CliRunner().invoke(app, ["validate", "--deep", "-f", str(file)])
    assert "none: reads what self reads" in shown.stdout
