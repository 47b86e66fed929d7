"""Compare SFT and DPO with plain trl scripts on the same rows, in one run.

    python -m bench.training [sft] [dpo] --shape smollm2|1b|8b [--rounds N] [--steps N] [--checkpointing]

The peers are what a careful user writes: trl's SFTTrainer on one prompt and completion for each supporter turn, and trl's
DPOTrainer with an adapter. Both sides have the same model, rows, LoRA, batch size, learning rate and precision, and take
turns. The first steps (warm-up, compilation) are not timed. `smollm2` is the real SmolLM2-135M; `1b` and `8b` have the
shape of Llama-3.2-1B and Llama-3-8B with random weights, and are only for speed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from evolution_jobs.contract.rows import Context, Dialogue, Pair
from evolution_jobs.contract.settings import DpoSettings, LoraSettings, SftSettings
from evolution_jobs.data.contexts import contexts
from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.models.load import load_model, placement
from evolution_jobs.preference.prompts import answer_messages
from evolution_jobs.training.adapter import adapter_tensors, new_adapter
from evolution_jobs.training.encoding import IGNORED, ChatEncoder
from evolution_jobs.training.preference import preference_trainer
from evolution_jobs.training.supervised import supervised_trainer
from evolution_jobs.training.trainer import quiet
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from bench.example import dialogues, packaged_model
from bench.figures import figure
from tests.support.stages.workspace import LocalWorkspace

WARM = 4 if torch.cuda.is_available() else 1
"""Optimiser steps that are not timed."""
BATCH, ACCUMULATION = 4, 2
SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
VOCABULARY = 128_256
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations a second by the makers' data sheets."""


class Clock(TrainerCallback):
    """Seconds of the steps after the warm-up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.global_step == WARM:
            self._started = now
        elif self._started is not None:
            self.seconds = now - self._started


def model_for(shape: str, directory: Path | None) -> Any:
    """The base model, on the device and in the precision that a stage would take."""
    if directory is not None:
        return load_model(directory, None, "auto")
    device, dtype = placement("auto")
    config = LlamaConfig(
        **SHAPES[shape], num_key_value_heads=8, head_dim=SHAPES[shape]["hidden_size"] // 32, vocab_size=VOCABULARY,
        max_position_embeddings=8192, tie_word_embeddings=shape == "1b",
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def pairs(found: Sequence[Dialogue], rows: int) -> list[Pair]:
    """The human answer of each context against the human answer of the next: real lengths, without sampling."""
    asked: list[Context] = [context for context in contexts(found, 3, per_dialogue=None, samples=None) if context.human]
    taken = [asked[place % len(asked)] for place in range(rows)]
    return [
        Pair(id=str(place), turns=row.turns, chosen=row.human, rejected=other.human, source="human", attempts=1)
        for place, (row, other) in enumerate(zip(taken, [*taken[1:], taken[0]], strict=True))
        if row.human != other.human
    ]


class Bench:
    """Both sides on one base model. Adapters are taken off after each turn."""

    def __init__(self, shape: str, directory: Path | None, tokenizer: Path, steps: int, checkpointing: bool) -> None:
        self._load = lambda: model_for(shape, directory)
        self._tokenizer = tokenizer
        self.steps = steps
        self._checkpointing = checkpointing
        self._dialogues = dialogues("seed")
        self._base = self._load()

    def _adapted(self) -> Any:
        return new_adapter(self._base, LoraSettings(), 0)

    def _timed(self, trainer: Any, train: Callable[[], object], amount: Callable[[float], float]) -> dict[str, float]:
        trainer.remove_callback(PrinterCallback)
        clock = Clock()
        trainer.add_callback(clock)
        train()
        share = (self.steps - WARM) / self.steps
        rate = amount(share) / clock.seconds
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        return {"rate": rate, "seconds": clock.seconds, "memory": memory}

    def turn(self, what: str) -> dict[str, float]:
        """One turn of one side: `sft`, `sft peer`, `dpo`, `dpo peer`."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        forward, implementation = self._base.forward, self._base.config._attn_implementation
        with tempfile.TemporaryDirectory() as place:
            model = self._adapted()
            try:
                return getattr(self, f"_{what.replace(' ', '_')}")(model, Path(place))
            finally:
                self._base = model.unload()
                self._base.forward = forward
                self._base.set_attn_implementation(implementation)
                if self._checkpointing:
                    self._base.gradient_checkpointing_disable()

    def _settings(self) -> dict[str, Any]:
        return {
            "epochs": 1.0, "batchSize": BATCH, "gradientAccumulation": ACCUMULATION, "checkpointSteps": 100_000,
            "gradientCheckpointing": self._checkpointing, "learningRate": 1e-5,
        }  # fmt: skip

    def _peer_arguments(self, place: Path) -> dict[str, Any]:
        _, dtype = placement("auto")
        return {
            "output_dir": str(place), "max_steps": self.steps, "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": ACCUMULATION, "learning_rate": 1e-5, "bf16": dtype == torch.bfloat16,
            "gradient_checkpointing": self._checkpointing, "save_strategy": "no", "report_to": [],
            "disable_tqdm": True, "max_length": None, "logging_steps": 1, "use_cpu": not torch.cuda.is_available(),
        }  # fmt: skip

    def _sft(self, model: Any, place: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
        encoded = ChatEncoder(tokenizer, 8192).dialogues(self._dialogues).rows
        rows = [encoded[row % len(encoded)] for row in range(self.steps * BATCH * ACCUMULATION)]
        settings = SftSettings.model_validate(
            {**self._settings(), "evaluationsPerEpoch": 1, "earlyStoppingPatience": 0}
        )
        workspace = LocalWorkspace(place, "sft", settings.wire())
        trainer = supervised_trainer(model, tokenizer, settings, 0, rows, rows[:1], workspace)
        result = self._timed(
            trainer,
            lambda: super(type(trainer), trainer).resume(),
            lambda share: share * sum(sum(label != IGNORED for label in row.labels) for row in rows),
        )
        counted = share_of(self.steps) * sum(row.tokens for row in rows)
        return {**result, "tokens": counted / result["seconds"], "packed": trainer.layout.packed}

    def _sft_peer(self, model: Any, place: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
        chats = [
            (answer_messages(row.turns[:at]), turn.text)
            for row in self._dialogues
            for at, turn in enumerate(row.turns)
            if turn.role == "supporter" and at
        ]
        rows = [
            {"prompt": chat, "completion": [{"role": "assistant", "content": text}]}
            for chat, text in (chats[row * 7 % len(chats)] for row in range(self.steps * BATCH * ACCUMULATION))
        ]
        trainer = SFTTrainer(model=model, args=SFTConfig(**self._peer_arguments(place)),
                             train_dataset=Dataset.from_list(rows), processing_class=tokenizer)  # fmt: skip
        learnt = sum(label != IGNORED for row in trainer.train_dataset for label in row["labels"])
        return self._timed(trainer, trainer.train, lambda share: share * learnt)

    def _dpo(self, model: Any, place: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
        rows = ChatEncoder(tokenizer, 8192).pairs(pairs(self._dialogues, self.steps * BATCH * ACCUMULATION)).rows
        settings = DpoSettings.model_validate(self._settings())
        workspace, start = LocalWorkspace(place, "dpo", settings.wire()), adapter_tensors(model)
        trainer = preference_trainer(model, tokenizer, settings, 0, rows, start, start, workspace)
        result = self._timed(trainer, trainer.resume, lambda share: share * len(rows))
        counted = share_of(self.steps) * sum(row.tokens for row in rows)
        layout = trainer.layout
        return {**result, "tokens": counted / result["seconds"], "shared": layout.shared, "packed": layout.packed}

    def _dpo_peer(self, model: Any, place: Path) -> dict[str, float]:
        tokenizer = AutoTokenizer.from_pretrained(self._tokenizer)
        rows = [
            {
                "prompt": answer_messages(pair.turns),
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in pairs(self._dialogues, self.steps * BATCH * ACCUMULATION)
        ]
        arguments = {**self._peer_arguments(place), "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
        trainer = DPOTrainer(model=model, args=DPOConfig(**arguments), train_dataset=Dataset.from_list(rows),
                             processing_class=tokenizer)  # fmt: skip
        return self._timed(trainer, trainer.train, lambda share: share * len(rows))

    def operations(self, what: str) -> float:
        """Floating-point operations a token, without attention: 2 a weight forward and 2 back through it (LoRA needs no
        gradient of the base weights); dpo goes forward once more for the reference.
        """
        weights = sum(
            p.numel() for name, p in self._base.named_parameters() if "embed" not in name and "head" not in name
        )
        return (6 if what == "dpo" else 4) * weights


def share_of(steps: int) -> float:
    """The share of the steps that is timed."""
    return (steps - WARM) / steps


def main() -> None:
    """Print a line for each of sft and dpo."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", default=["sft", "dpo"])
    parser.add_argument("--shape", choices=["smollm2", *SHAPES], default="smollm2")
    parser.add_argument("--model", type=Path, help="a directory with SmolLM2 or its tokenizer; else the package's")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--checkpointing", action="store_true")
    given = parser.parse_args()
    set_library_defaults()
    quiet()
    with tempfile.TemporaryDirectory() as place:
        directory = given.model or packaged_model(Path(place))
        own = directory if given.shape == "smollm2" else None
        bench = Bench(given.shape, own, directory, given.steps, given.checkpointing)
        goals = {"sft": 5.0, "dpo": 1.7 if torch.cuda.is_available() else 2.5}
        for what in given.what:
            ours, peers = [], []
            for _ in range(given.rounds):
                peers.append(bench.turn(f"{what} peer"))
                ours.append(bench.turn(what))
            more = {name: float(f"{value:.4g}") for name, value in ours[-1].items() if name not in ("rate", "seconds")}
            peak = next(
                (
                    peak
                    for name, peak in PEAKS.items()
                    if torch.cuda.is_available() and name in torch.cuda.get_device_name()
                ),
                None,
            )
            if peak:
                more["mfu"] = round(bench.operations(what) * ours[-1]["tokens"] / peak, 3)
            more["peerMemory"] = float(f"{peers[-1]['memory']:.3g}")
            unit = "supervised tokens/s" if what == "sft" else "pairs/s"
            figure(
                f"{what} {given.shape}",
                [row["rate"] for row in ours],
                [row["rate"] for row in peers],
                unit,
                goals[what],
                **more,
            )


if __name__ == "__main__":
    main()
