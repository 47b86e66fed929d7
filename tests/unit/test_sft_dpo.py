"""The sft and dpo stages: what they learn, what they refuse, and that a stopped one ends as an unbroken one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evolution_jobs.contract.document import Document
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.rows import Pair, dialogue_of
from evolution_jobs.contract.settings import DpoSettings, SftSettings
from evolution_jobs.contract.workspace import Result
from evolution_jobs.engines.base import row_seed
from evolution_jobs.models.load import load_model, load_tokenizer
from evolution_jobs.stages import dpo, sft
from evolution_jobs.training import passes, preference, supervised
from evolution_jobs.training.encoding import IGNORED, ChatEncoder, Preference
from evolution_jobs.training.forward import Layout
from evolution_jobs.training.reference import REFERENCE, ReferenceGuard
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.support.stages.tiny_model import (
    DIALOGUES,
    INSTRUCTIONS,
    PAIRS,
    dialogue,
    random_adapter,
    tiny_model,
    write_rows,
)
from tests.support.stages.workspace import LocalWorkspace

pytestmark = pytest.mark.model

Inputs = dict[str, Path]
SFT = {
    "epochs": 2,
    "batchSize": 2,
    "gradientAccumulation": 1,
    "learningRate": 5e-3,
    "lora": {"r": 4, "dropout": 0.1},
    "checkpointSteps": 2,
}
DPO = {"epochs": 2, "batchSize": 2, "gradientAccumulation": 1, "learningRate": 1e-3, "checkpointSteps": 2}
WEIGHTS = "adapter_model.safetensors"


class Killed(BaseException):
    """The process is gone: nothing is saved."""


class Interrupted(LocalWorkspace):
    """A workspace in which something happens once a step has been reported."""

    def __init__(self, *given: Any, at: int, then: Callable[[Interrupted], None], **options: Any) -> None:
        super().__init__(*given, **options)
        self._at, self._then = at, then

    def progress(self, done: int, total: int, unit: str) -> None:
        super().progress(done, total, unit)
        if done == self._at:
            self._then(self)


def stop(workspace: Interrupted) -> None:
    workspace.stop()


def kill(_workspace: Interrupted) -> None:
    raise Killed


@pytest.fixture(scope="module")
def tiny(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(small_model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sft_inputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("rows")
    return {
        "model": tiny,
        "train": write_rows(root / "train.jsonl", DIALOGUES[:5]),
        "validation": write_rows(root / "validation.jsonl", DIALOGUES[5:]),
        "replay": write_rows(root / "replay.jsonl", INSTRUCTIONS),
    }


@pytest.fixture(scope="module")
def dpo_inputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("rows")
    adapter = random_adapter(tiny, root / "before")
    return {"model": tiny, "adapter": adapter, "pairs": write_rows(root / "pairs.jsonl", PAIRS)}


def run_sft(root: Path, inputs: Inputs, **settings: Any) -> Result:
    return sft.run(LocalWorkspace(root, "sft", {**SFT, **settings}, inputs=inputs))


def run_dpo(root: Path, inputs: Inputs, **settings: Any) -> Result:
    return dpo.run(LocalWorkspace(root, "dpo", {**DPO, **settings}, inputs=inputs))


def weights(result: Result) -> dict[str, torch.Tensor]:
    return load_file(result.outputs["adapter"] / WEIGHTS)


def published(result: Result) -> Mapping[str, object]:
    """All of a result but the place of its files; it survives JSON, as the manifest asks."""
    files = {path.name: path.read_bytes() for path in result.outputs["adapter"].iterdir()}
    assert set(files) == {WEIGHTS, "adapter_config.json"}
    figures = {"counts": result.counts, "metrics": result.metrics, "details": result.details, "tokens": result.tokens}
    return {**files, **json.loads(json.dumps(figures, allow_nan=False))}


def likelier(model: torch.nn.Module, row: Preference) -> float:
    """By how many nats chosen is likelier than rejected."""
    ignored = [IGNORED] * len(row.prompt_ids)
    chosen, rejected = (
        losses(model, [(row.prompt_ids + answer, ignored + answer)])[0] for answer in (row.chosen_ids, row.rejected_ids)
    )
    return rejected - chosen


def losses(model: torch.nn.Module, sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[float, int]:
    """Summed negative log-likelihood of the labels and their number, by the model's plain forward pass."""
    total, tokens = 0.0, 0
    for ids, labels in sequences:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        total += float(cross_entropy(logits, torch.tensor(labels[1:]), ignore_index=IGNORED, reduction="sum"))
        tokens += sum(label != IGNORED for label in labels[1:])
    return total, tokens


class TestSft:
    def test_counts_and_figures(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        rows = [*DIALOGUES[:5], dialogue("Nobody answers me."), dialogue("I am sad.", "word " * 3000)]
        inputs = {**sft_inputs, "train": write_rows(tmp_path / "train.jsonl", rows)}
        workspace = LocalWorkspace(tmp_path, "sft", SFT, inputs=inputs)
        result = sft.run(workspace)
        assert result.counts == {
            "dialogues": 5,
            "supporterTurns": 8,
            "validation": 1,
            "replay": 2,
            "truncated": 0,
            "dropped.silent": 1,
            "dropped.too_long": 1,
        }
        # 7 rows, twice, 2 a step.
        assert workspace.reported == [(step, 7, "steps") for step in range(8)]
        assert workspace.is_loaded
        assert result.details["steps"] == 7
        curve = result.details["curve"]
        assert [step for step, _ in curve] == list(range(1, 8))
        assert result.metrics["train_loss_first"] == pytest.approx(curve[0][1], rel=1e-4)
        assert result.metrics["train_loss_last"] == pytest.approx(curve[-1][1], rel=1e-4)
        assert result.metrics["validation_perplexity"] == pytest.approx(math.exp(result.metrics["validation_loss"]))
        # Twice an epoch, and at the end.
        assert [step for step, _ in result.details["validation"]] == [2, 4, 6, 7]
        published(result)

    def test_tokens_are_those_of_every_row_in_every_epoch(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        encoder = ChatEncoder(load_tokenizer(sft_inputs["model"]), 2048)
        rows = [*encoder.dialogues(DIALOGUES[:5]).rows, *encoder.instructions(INSTRUCTIONS).rows]
        assert run_sft(tmp_path, sft_inputs).tokens == 2 * sum(row.tokens for row in rows)

    def test_the_first_loss_is_the_mean_over_all_learnt_tokens_of_the_step(
        self, tmp_path: Path, sft_inputs: Inputs
    ) -> None:
        result = run_sft(tmp_path, sft_inputs, batchSize=7, epochs=1)
        encoder = ChatEncoder(load_tokenizer(sft_inputs["model"]), 2048)
        rows = [*encoder.dialogues(DIALOGUES[:5]).rows, *encoder.instructions(INSTRUCTIONS).rows]
        model = AutoModelForCausalLM.from_pretrained(sft_inputs["model"])
        total, tokens = losses(model, [(row.input_ids, row.labels) for row in rows])
        assert result.metrics["train_loss_first"] == pytest.approx(total / tokens, rel=1e-5)
        # All rows fit one optimiser step; the last one is not dropped for being alone in it.
        assert result.details["steps"] == 1

    def test_without_replay(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        inputs = {name: path for name, path in sft_inputs.items() if name != "replay"}
        with_replay, without = run_sft(tmp_path / "a", sft_inputs), run_sft(tmp_path / "b", inputs)
        assert without.counts["replay"] == 0
        assert without.tokens < with_replay.tokens

    def test_early_stopping_keeps_the_adapter_of_lowest_validation_loss(
        self, tmp_path: Path, sft_inputs: Inputs
    ) -> None:
        settings = {"learningRate": 0.05, "epochs": 20, "earlyStoppingPatience": 2, "evaluationsPerEpoch": 3}
        result = run_sft(tmp_path, sft_inputs, **settings)
        measured = dict(result.details["validation"])
        best = min(measured, key=lambda step: measured[step])
        assert result.details["stoppedEarly"]
        # The warm-up's first step has a learning rate of 0, and each later one makes the loss worse.
        assert (best, "lower sft.learningRate" in result.notes[0]) == (1, True)
        assert result.details["keptStep"] == best
        assert sum(step > best for step in measured) == 2
        assert result.details["steps"] < 70
        encoder = ChatEncoder(load_tokenizer(sft_inputs["model"]), 2048)
        kept = load_model(sft_inputs["model"], result.outputs["adapter"], "float32")
        [row] = encoder.dialogues(DIALOGUES[5:]).rows
        total, tokens = losses(kept, [(row.input_ids, row.labels)])
        assert result.metrics["validation_loss"] == pytest.approx(total / tokens, rel=1e-4)
        assert measured[best] == pytest.approx(total / tokens, rel=1e-4)

    def test_patience_0_trains_to_the_end_and_keeps_the_last_adapter(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        result = run_sft(tmp_path, sft_inputs, learningRate=0.05, epochs=4, earlyStoppingPatience=0)
        assert not result.details["stoppedEarly"]
        assert result.details["keptStep"] == result.details["steps"] == 14
        assert result.metrics["validation_loss"] == pytest.approx(result.details["validation"][-1][1], rel=1e-4)

    def test_a_changed_seed_changes_the_adapter_and_the_same_one_does_not(
        self, tmp_path: Path, sft_inputs: Inputs
    ) -> None:
        results = [
            published(sft.run(LocalWorkspace(tmp_path / name, "sft", SFT, seed=seed, inputs=sft_inputs)))
            for name, seed in (("a", 0), ("b", 0), ("c", 1))
        ]
        assert results[0] == results[1]
        assert results[0][WEIGHTS] != results[2][WEIGHTS]

    def test_the_adapter_names_no_place_on_this_machine(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        result = run_sft(tmp_path, sft_inputs)
        config = (result.outputs["adapter"] / "adapter_config.json").read_text()
        assert str(sft_inputs["model"]) not in config
        assert str(tmp_path) not in config
        assert json.loads(config)["base_model_name_or_path"] is None
        base = AutoModelForCausalLM.from_pretrained(sft_inputs["model"])
        PeftModel.from_pretrained(base, result.outputs["adapter"])

    @pytest.mark.parametrize(
        "target",
        [
            ["no_such_layer"],
            ["lm_head"],
            ["q_proj", "v_porj"],
            ["q_proj", "norm"],
            ["embed_tokens"],
            ["self_attn"],
            ["base_model.model.model.layers.0.self_attn.q_proj"],
        ],
    )
    def test_layers_that_cannot_be_adapted(self, tmp_path: Path, sft_inputs: Inputs, target: list[str]) -> None:
        with pytest.raises(PermanentError, match=r"sft\.lora\.targetModules") as caught:
            run_sft(tmp_path, sft_inputs, lora={"targetModules": target})
        assert caught.value.reason == "LoraSettings"

    def test_sequences_longer_than_the_positions(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        with pytest.raises(PermanentError, match=r"sft\.maxLength 4097 exceeds the 4096 positions") as caught:
            run_sft(tmp_path, sft_inputs, maxLength=4097)
        assert caught.value.reason == "LengthSettings"

    def test_an_adapter_that_stays_as_it_was_is_refused(
        self, tmp_path: Path, sft_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_given, **_options: None)
        with pytest.raises(
            PermanentError, match=r"after \d+ optimiser steps as before: raise sft\.learningRate"
        ) as caught:
            run_sft(tmp_path, sft_inputs)
        assert caught.value.reason == "NothingLearnt"

    def test_layers_by_name(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        result = run_sft(tmp_path, sft_inputs, lora={"targetModules": ["q_proj", "v_proj"]}, epochs=1)
        assert {name.split(".")[-3] for name in weights(result)} == {"q_proj", "v_proj"}

    @pytest.mark.parametrize("name", ["train", "validation"])
    def test_nothing_to_learn_from(self, tmp_path: Path, sft_inputs: Inputs, name: str) -> None:
        silent = write_rows(tmp_path / f"{name}.jsonl", [dialogue("Is anybody there?")])
        with pytest.raises(PermanentError, match=f"input {name}") as caught:
            run_sft(tmp_path, {**sft_inputs, name: silent})
        assert caught.value.reason == "DataEmpty"

    def test_gradient_checkpointing_changes_nothing_but_memory(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        plain = run_sft(tmp_path / "a", sft_inputs)
        spared = run_sft(tmp_path / "b", sft_inputs, gradientCheckpointing=True)
        for name, value in weights(plain).items():
            torch.testing.assert_close(weights(spared)[name], value, rtol=1e-4, atol=1e-6)

    def test_a_loss_that_is_no_number_ends_the_stage(self, tmp_path: Path, sft_inputs: Inputs) -> None:
        workspace = LocalWorkspace(tmp_path, "sft", SFT, inputs=sft_inputs)
        load = load_model

        def broken(*given: Any, **options: Any) -> Any:
            model = load(*given, **options)
            with torch.no_grad():
                model.model.norm.weight.fill_(math.nan)
            return model

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sft, "load_model", broken)
            with pytest.raises(PermanentError, match="lower learningRate") as caught:
                sft.run(workspace)
        assert caught.value.reason == "TrainingDiverged"


class TestDpo:
    def test_counts_and_figures(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        long = PAIRS[0].model_copy(update={"id": "long", "chosen": "word " * 3000})
        inputs = {**dpo_inputs, "pairs": write_rows(tmp_path / "pairs.jsonl", [*PAIRS, long])}
        workspace = LocalWorkspace(tmp_path, "dpo", {**DPO, "batchSize": 4}, inputs=inputs)
        result = dpo.run(workspace)
        assert result.counts == {"pairs": 6, "truncated": 0, "dropped.too_long": 1}
        # 6 pairs, twice, 4 a step.
        assert workspace.reported == [(step, 3, "steps") for step in range(4)]
        assert result.details["sharedPrompts"] is True
        assert result.metrics["reward_margin"] > 0
        assert result.metrics["logp_change_chosen"] > 0 > result.metrics["logp_change_rejected"]
        encoded = ChatEncoder(load_tokenizer(inputs["model"]), 2048).pairs(PAIRS)
        assert result.tokens == 2 * sum(row.tokens for row in encoded.rows)
        published(result)

    @pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
    def test_the_first_loss_is_ln_2_and_the_sft_term_by_hand(
        self, tmp_path: Path, dpo_inputs: Inputs, weight: float
    ) -> None:
        result = run_dpo(tmp_path, dpo_inputs, batchSize=4, gradientAccumulation=2, sftWeight=weight, epochs=1)
        model = load_model(dpo_inputs["model"], dpo_inputs["adapter"], "float32")
        rows = ChatEncoder(load_tokenizer(dpo_inputs["model"]), 2048).pairs(PAIRS).rows
        total, tokens = losses(
            model,
            [(row.prompt_ids + row.chosen_ids, [IGNORED] * len(row.prompt_ids) + row.chosen_ids) for row in rows],
        )
        assert result.metrics["loss_first"] == pytest.approx(math.log(2) + weight * total / tokens, rel=1e-5)
        first = result.details["reference"]["firstStep"]
        assert first["sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
        assert first["rewardsChosen"] == pytest.approx(0, abs=1e-6)
        assert first["rewardsRejected"] == pytest.approx(0, abs=1e-6)

    def test_held_out_pairs_are_not_trained_on_and_ranked_as_by_hand(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        result = run_dpo(tmp_path, dpo_inputs, heldOut=0.5)
        tokenizer = load_tokenizer(dpo_inputs["model"])
        held = [pair for pair in PAIRS if row_seed(0, dialogue_of(pair.id), "held-out") < 2**62]
        assert 0 < len(held) < len(PAIRS)
        assert (result.counts["pairs"], result.counts["heldOut"]) == (len(PAIRS) - len(held), len(held))
        assert result.tokens == 2 * sum(
            row.tokens for row in ChatEncoder(tokenizer, 2048).pairs(pair for pair in PAIRS if pair not in held).rows
        )
        by_model = []
        for adapter in (dpo_inputs["adapter"], result.outputs["adapter"]):
            model = load_model(dpo_inputs["model"], adapter, "float32").eval()
            by_model.append([likelier(model, row) for row in ChatEncoder(tokenizer, 2048).pairs(held).rows])
        margins = [0.1 * (after - before) for before, after in zip(*by_model, strict=True)]
        assert result.metrics["heldout_margin"] == pytest.approx(sum(margins) / len(held), abs=2e-4)
        assert result.metrics["heldout_accuracy"] == pytest.approx(
            100 * sum(margin > 0 for margin in margins) / len(held), abs=1e-3
        )
        published(result)

    def test_holding_out_everything_or_nothing_is_said(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        with pytest.raises(PermanentError, match=r"lower dpo\.heldOut"):
            run_dpo(tmp_path / "all", dpo_inputs, heldOut=0.999999)
        result = run_dpo(tmp_path / "none", dpo_inputs, heldOut=1e-9, epochs=0.5)
        assert any("no dialogue with pairs is held out" in note for note in result.notes)
        assert "heldout_margin" not in result.metrics

    def test_the_references_digest_is_that_of_the_input(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        before = (dpo_inputs["adapter"] / WEIGHTS).read_bytes()
        result = run_dpo(tmp_path, dpo_inputs, epochs=1)
        assert result.details["reference"]["adapterDigest"] == hashlib.sha256(before).hexdigest()
        assert (dpo_inputs["adapter"] / WEIGHTS).read_bytes() == before

    def test_it_trains_on_from_the_input_adapter(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        result = run_dpo(tmp_path, dpo_inputs, learningRate=1e-6, epochs=1)
        before, after = load_file(dpo_inputs["adapter"] / WEIGHTS), weights(result)
        assert before.keys() == after.keys()
        moved = [float((after[name] - before[name]).abs().max()) for name in before]
        assert 0 < max(moved) < 1e-5

    def test_one_pair_is_one_step(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        inputs = {**dpo_inputs, "pairs": write_rows(tmp_path / "pairs.jsonl", PAIRS[:1])}
        result = run_dpo(tmp_path, inputs, epochs=1, batchSize=4, gradientAccumulation=2)
        assert result.details["steps"] == 1
        assert any(
            not torch.equal(value, weights(result)[name])
            for name, value in load_file(dpo_inputs["adapter"] / WEIGHTS).items()
        )

    @pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant"])
    def test_a_run_that_is_all_warm_up_learns_in_its_one_step(
        self, tmp_path: Path, dpo_inputs: Inputs, scheduler: str
    ) -> None:
        result = run_dpo(tmp_path, dpo_inputs, epochs=1, gradientAccumulation=8, warmupRatio=1, scheduler=scheduler)
        assert result.details["steps"] == 1
        before = load_file(dpo_inputs["adapter"] / WEIGHTS)
        assert any(not torch.equal(before[name], after) for name, after in weights(result).items())

    def test_bfloat16_on_a_cpu(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        one = write_rows(tmp_path / "pairs.jsonl", PAIRS[:1])
        result = run_dpo(tmp_path, {**dpo_inputs, "pairs": one}, epochs=0.5, batchSize=64, precision="bfloat16")
        assert result.details["steps"] == 1
        assert result.details["reference"]["firstStep"]["sigmoid"] == pytest.approx(math.log(2), abs=5e-2)
        assert all(math.isfinite(figure) for figure in result.metrics.values())

    def test_an_adapter_that_stays_as_it_was_is_refused(self, tmp_path: Path, dpo_inputs: Inputs) -> None:
        with pytest.raises(PermanentError, match=r"raise dpo\.learningRate") as caught:
            run_dpo(tmp_path, dpo_inputs, learningRate=1e-30)
        assert caught.value.reason == "NothingLearnt"

    def test_prompts_shared_or_not_the_adapter_is_the_same(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared = run_dpo(tmp_path / "a", dpo_inputs)
        monkeypatch.setattr(passes, "best_layout", lambda *_, **__: Layout())
        apart = run_dpo(tmp_path / "b", dpo_inputs)
        assert apart.details["sharedPrompts"] is False
        for name, value in weights(shared).items():
            torch.testing.assert_close(weights(apart)[name], value, rtol=1e-3, atol=2e-5)

    @pytest.mark.parametrize(("batch", "accumulation"), [(5, 1), (2, 3), (4, 2)])
    def test_a_steps_loss_does_not_depend_on_its_cut_into_passes(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch, batch: int, accumulation: int
    ) -> None:
        """A GPU takes `batchSize` rows a pass, the CPU one; here the CPU does as a GPU would."""
        inputs = {**dpo_inputs, "pairs": write_rows(tmp_path / "pairs.jsonl", PAIRS[:5])}
        one_by_one = run_dpo(tmp_path / "a", inputs, batchSize=5, epochs=1)
        arguments = preference.arguments

        def cut(*given: Any, **options: Any) -> dict[str, Any]:
            sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
            return {**arguments(*given, **options), **sizes}

        monkeypatch.setattr(preference, "arguments", cut)
        in_batches = run_dpo(tmp_path / "b", inputs, batchSize=5, epochs=1)
        assert in_batches.metrics["loss_first"] == pytest.approx(one_by_one.metrics["loss_first"], rel=1e-5)
        for name, value in weights(one_by_one).items():
            torch.testing.assert_close(weights(in_batches)[name], value, rtol=1e-3, atol=2e-5)

    @pytest.mark.parametrize("rows", [[], [PAIRS[0].model_copy(update={"chosen": "word " * 3000})]])
    def test_no_pairs(self, tmp_path: Path, dpo_inputs: Inputs, rows: list[Pair]) -> None:
        inputs = {**dpo_inputs, "pairs": write_rows(tmp_path / "pairs.jsonl", rows)}
        with pytest.raises(PermanentError, match="input pairs") as caught:
            run_dpo(tmp_path, inputs)
        assert caught.value.reason == "DataEmpty"


class TestReference:
    """A reference other than M(t-1): the one that is declared, proven in the first step, and never another."""

    @pytest.fixture
    def before(self, tmp_path: Path, dpo_inputs: Inputs) -> Inputs:
        """Inputs of a second round: M1's adapter, and M0's as the reference."""
        first = run_dpo(tmp_path / "first", dpo_inputs, learningRate=1e-2, epochs=1)
        return {**dpo_inputs, "adapter": first.outputs["adapter"], "reference": dpo_inputs["adapter"]}

    def test_each_reference_gives_the_loss_by_hand(self, tmp_path: Path, before: Inputs) -> None:
        rows = ChatEncoder(load_tokenizer(before["model"]), 2048).pairs(PAIRS).rows

        def log_probs(adapter: Path | None) -> torch.Tensor:
            model = load_model(before["model"], adapter, "float32")
            sides = [[(row.prompt_ids + answer, [IGNORED] * len(row.prompt_ids) + answer)]
                     for row in rows for answer in (row.chosen_ids, row.rejected_ids)]  # fmt: skip
            return -torch.tensor([losses(model, side)[0] for side in sides]).view(-1, 2)

        policy = log_probs(before["adapter"])
        given = {"previous": before["adapter"], "sft": before["reference"], "base": None}
        seen = set()
        for kind, adapter in given.items():
            result = run_dpo(tmp_path / kind, before, reference=kind, sftWeight=0.0, epochs=1,
                             batchSize=len(rows), gradientAccumulation=1)  # fmt: skip
            rewards = 0.1 * (policy - log_probs(adapter))
            expected = -torch.nn.functional.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()
            assert result.metrics["loss_first"] == pytest.approx(float(expected), rel=1e-4)
            shown = result.details["reference"]
            assert shown["kind"] == kind
            assert shown["firstStep"]["sigmoid"] == pytest.approx(math.log(2), abs=1e-5)
            digest = None if adapter is None else hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
            assert shown["adapterDigest"] == digest
            assert (digest or "base model")[:12] in result.notes[0]
            seen.add(round(result.metrics["loss_first"], 5))
        assert len(seen) == 3

    def test_the_first_step_tells_another_reference(
        self, tmp_path: Path, before: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ReferenceGuard, "check_tensors", lambda _guard: None)
        monkeypatch.setattr(preference, "set_peft_model_state_dict", lambda *_, **__: None)
        with pytest.raises(PermanentError, match=r"not ln 2 = 0\.693147") as caught:
            run_dpo(tmp_path, before, reference="sft")
        assert caught.value.reason == "WrongReference"

    def test_the_policy_goes_on_from_its_own_weights(self, tmp_path: Path, before: Inputs) -> None:
        result = run_dpo(tmp_path, before, reference="base", learningRate=1e-6, epochs=1)
        start = load_file(before["adapter"] / WEIGHTS)
        assert max(float((weights(result)[name] - start[name]).abs().max()) for name in start) < 1e-5


class TestWrongReference:
    """Each way in which the reference could silently be another model ends the stage before an adapter is left."""

    def refused(
        self, tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[PeftModel], None]
    ) -> PermanentError:
        """`spoil` is done to the model right after trl has made its reference."""
        made = preference.PreferenceTrainer.__init__

        def spoilt(trainer: Any, *given: Any, **options: Any) -> None:
            made(trainer, *given, **options)
            spoil(trainer.model)

        monkeypatch.setattr(preference.PreferenceTrainer, "__init__", spoilt)
        with pytest.raises(PermanentError) as caught:
            run_dpo(tmp_path, inputs)
        assert caught.value.reason == "WrongReference"
        assert not list(tmp_path.rglob(WEIGHTS))
        return caught.value

    @staticmethod
    def shift(model: PeftModel, adapter: str) -> None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if f".{adapter}." in name and "lora_B" in name:
                    weight.add_(0.01)

    @staticmethod
    def base_model(model: PeftModel) -> None:
        """The reference is the base model: an adapter that changes nothing."""
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if f".{REFERENCE}." in name and "lora_B" in name:
                    weight.zero_()

    def test_another_adapter(self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, lambda model: self.shift(model, REFERENCE))
        assert "are not those of its adapter" in str(error)

    def test_the_base_model_by_a_missing_copy(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, lambda model: model.delete_adapter(REFERENCE))
        assert "no frozen copy" in str(error)

    def test_another_start(self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, lambda model: self.shift(model, "default"))
        assert "does not start from" in str(error)

    def test_a_reference_that_is_trained(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        error = self.refused(
            tmp_path, dpo_inputs, monkeypatch, lambda model: model.set_requires_grad(REFERENCE, requires_grad=True)
        )
        assert "being trained" in str(error)

    def test_the_losses_alone_tell(self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ReferenceGuard, "check_tensors", lambda _guard: None)
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, self.base_model)
        assert "not ln 2 = 0.693147" in str(error)

    def test_a_reference_that_nobody_asks(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Disabled:
            """trl's fallback: the reference is the model without its adapter."""

            def __call__(self, model: PeftModel, adapter_name: str | None) -> Any:
                return model.disable_adapter()

        monkeypatch.setattr("trl.trainer.dpo_trainer.use_adapter", Disabled())
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, lambda _model: None)
        assert "DPO's reference is not the declared model" in str(error)

    def test_one_that_moves_during_training(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shift = self.shift

        class Drift(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: PeftModel, **_: Any) -> None:
                shift(model, REFERENCE)

        built = dpo.preference_trainer

        def drifting(*given: Any) -> preference.PreferenceTrainer:
            trainer = built(*given)
            trainer.add_callback(Drift())
            return trainer

        monkeypatch.setattr(dpo, "preference_trainer", drifting)
        error = self.refused(tmp_path, dpo_inputs, monkeypatch, lambda _model: None)
        assert "are not those of its adapter" in str(error)


class TestResumption:
    """Both stages take 6 or 7 steps, with a checkpoint every 2."""

    @pytest.fixture(scope="class")
    def unbroken(
        self, sft_inputs: Inputs, dpo_inputs: Inputs, tmp_path_factory: pytest.TempPathFactory
    ) -> dict[str, Mapping[str, object]]:
        root = tmp_path_factory.mktemp("unbroken")
        return {
            "sft": published(run_sft(root / "sft", sft_inputs)),
            "dpo": published(run_dpo(root / "dpo", dpo_inputs)),
        }

    @pytest.fixture
    def stages(self, sft_inputs: Inputs, dpo_inputs: Inputs) -> dict[str, tuple[Any, dict[str, Any], Inputs]]:
        return {"sft": (sft, SFT, sft_inputs), "dpo": (dpo, DPO, dpo_inputs)}

    @pytest.mark.parametrize("kind", ["sft", "dpo"])
    @pytest.mark.parametrize(("then", "error"), [(stop, Terminated), (kill, Killed)])
    @pytest.mark.parametrize("steps", [[0], [1], [3], [5], [1, 2, 4]])
    def test_a_broken_run_ends_as_an_unbroken_one(
        self,
        tmp_path: Path,
        stages: dict[str, tuple[Any, dict[str, Any], Inputs]],
        unbroken: dict[str, Mapping[str, object]],
        kind: Any,
        then: Callable[[Interrupted], None],
        error: type[BaseException],
        steps: list[int],
    ) -> None:
        stage, settings, inputs = stages[kind]
        for step in steps:
            workspace = Interrupted(tmp_path, kind, settings, inputs=inputs, at=step, then=then)
            with pytest.raises(error):
                stage.run(workspace)
            kept = workspace.checkpoints.latest()
            reached = step if then is stop else step // 2 * 2
            assert (int(kept.name) if kept else 0) <= reached if then is kill else (kept is None) == (step == 0)
        workspace = LocalWorkspace(tmp_path, kind, settings, inputs=inputs)
        assert published(stage.run(workspace)) == unbroken[kind]
        if then is stop and steps[-1]:
            assert workspace.reported[0][0] == steps[-1]

    @pytest.mark.parametrize("kind", ["sft", "dpo"])
    def test_a_stop_inside_a_step_loses_that_step_alone(
        self, tmp_path: Path, stages: dict[str, tuple[Any, dict[str, Any], Inputs]], kind: Any
    ) -> None:
        stage, settings, inputs = stages[kind]
        settings = {**settings, "batchSize": 3}
        whole = published(stage.run(LocalWorkspace(tmp_path / "whole", kind, settings, inputs=inputs)))
        workspace = LocalWorkspace(tmp_path / "broken", kind, settings, inputs=inputs)
        module = supervised.SupervisedTrainer if kind == "sft" else preference.PreferenceTrainer
        computed, passes = module.compute_loss, 0

        def count(trainer: Any, *given: Any, **options: Any) -> Any:
            nonlocal passes
            passes += 1
            if passes == 5:  # the second of three rows in the second step
                workspace.stop()
            return computed(trainer, *given, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "compute_loss", count)
            with pytest.raises(Terminated):
                stage.run(workspace)
        assert passes == 5
        assert workspace.checkpoints.steps == [1]
        assert published(stage.run(LocalWorkspace(tmp_path / "broken", kind, settings, inputs=inputs))) == whole

    def test_a_stop_inside_a_validation_loses_that_validation_alone(
        self, tmp_path: Path, sft_inputs: Inputs, unbroken: dict[str, Mapping[str, object]]
    ) -> None:
        workspace = LocalWorkspace(tmp_path, "sft", SFT, inputs=sft_inputs)
        measure = supervised.SupervisedTrainer._validation_loss

        def interrupted(trainer: Any) -> float:
            if trainer.state.global_step == 4:
                workspace.stop()
            return float(measure(trainer))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervised.SupervisedTrainer, "_validation_loss", interrupted)
            with pytest.raises(Terminated):
                sft.run(workspace)
        assert workspace.checkpoints.steps == [4]
        assert published(run_sft(tmp_path, sft_inputs)) == unbroken["sft"]

    def test_a_finished_training_whose_publication_failed_is_not_repeated(
        self, tmp_path: Path, dpo_inputs: Inputs, unbroken: dict[str, Mapping[str, object]]
    ) -> None:
        run_dpo(tmp_path, dpo_inputs)
        workspace = LocalWorkspace(tmp_path, "dpo", DPO, inputs=dpo_inputs)
        assert published(dpo.run(workspace)) == unbroken["dpo"]
        assert workspace.reported == [(6, 6, "steps")]

    @pytest.mark.parametrize("kind", ["sft", "dpo"])
    def test_what_is_kept_is_no_pickle(
        self, tmp_path: Path, stages: dict[str, tuple[Any, dict[str, Any], Inputs]], kind: Any
    ) -> None:
        stage, settings, inputs = stages[kind]
        workspace = LocalWorkspace(tmp_path, kind, settings, inputs=inputs)
        stage.run(workspace)
        kept = workspace.checkpoints.latest()
        assert kept is not None
        assert {path.suffix for path in kept.rglob("*") if path.is_file()} == {".safetensors", ".json"}

    def test_a_resumed_run_still_has_the_input_adapter_as_reference(
        self, tmp_path: Path, dpo_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(Terminated):
            dpo.run(Interrupted(tmp_path, "dpo", DPO, inputs=dpo_inputs, at=4, then=stop))
        seen = []
        check = ReferenceGuard.check_tensors

        def observe(guard: ReferenceGuard) -> None:
            check(guard)
            seen.append(guard)

        monkeypatch.setattr(ReferenceGuard, "check_tensors", observe)
        result = run_dpo(tmp_path, dpo_inputs)
        assert len(seen) == 2  # as training begins, and after it
        assert result.details["reference"]["firstStep"]["sigmoid"] == pytest.approx(math.log(2))


class TestSilence:
    """Standard output is the runner's, and nothing is told to anybody."""

    def test_nothing_on_standard_output_and_no_telemetry(
        self,
        tmp_path: Path,
        sft_inputs: Inputs,
        dpo_inputs: Inputs,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def called(*_given: object, **_options: object) -> None:
            raise AssertionError("telemetry")

        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", called)
        run_sft(tmp_path / "sft", sft_inputs)
        run_dpo(tmp_path / "dpo", dpo_inputs)
        out, err = capfd.readouterr()
        assert out == ""
        assert err == ""


class TestDefaults:
    """The paper's values (arXiv 2505.16610)."""

    def test_settings(self) -> None:
        assert (SftSettings().epochs, SftSettings().early_stopping_patience) == (2, 3)
        assert (SftSettings().lora.r, SftSettings().lora.alpha) == (8, 16)
        settings = DpoSettings()
        assert (settings.beta, settings.sft_weight, settings.learning_rate) == (0.1, 1, 5e-6)
        assert (settings.batch_size, settings.gradient_accumulation) == (4, 2)


class TestSmallModel:
    """SmolLM2-135M, as the quickstart trains it."""

    def test_sft_then_two_rounds_of_dpo(self, tmp_path: Path, small_model: Path) -> None:
        def files(name: str, rows: Sequence[Document]) -> Path:
            return write_rows(tmp_path / f"{name}.jsonl", rows)

        inputs = {
            "model": small_model,
            "train": files("train", DIALOGUES[:3]),
            "validation": files("validation", DIALOGUES[5:]),
        }
        first = run_sft(tmp_path / "sft", inputs, lora={}, learningRate=1e-3)
        assert first.metrics["train_loss_last"] < first.metrics["train_loss_first"] < 6
        adapter = first.outputs["adapter"]
        for iteration in (1, 2):
            result = run_dpo(
                tmp_path / f"dpo-{iteration}",
                {"model": small_model, "adapter": adapter, "pairs": files("pairs", PAIRS[3:4])},
                learningRate=5e-4,
                epochs=3,
                batchSize=1,
                gradientAccumulation=1,
            )
            reference = result.details["reference"]
            assert reference["firstStep"]["sigmoid"] == pytest.approx(math.log(2), abs=1e-5)
            assert reference["adapterDigest"] == hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
            assert result.metrics["loss_last"] < result.metrics["loss_first"]
            adapter = result.outputs["adapter"]
