"""sft: M0, a LoRA adapter of the base model trained on whole dialogues (arXiv 2505.16610, section 3).

A dialogue is one sequence, with a loss on the supporter's turns only. One sequence a turn would train on the same turns
with many times the tokens. General instruction samples are mixed in as replay.
"""

from __future__ import annotations

import math

from ..contract.errors import PermanentError
from ..contract.rows import Dialogue, Instruction
from ..contract.settings import SftSettings
from ..contract.workspace import Result, Workspace
from ..models.load import load_model, load_tokenizer, placement
from ..models.positions import longest, require_positions
from ..training.adapter import adapter_tensors, new_adapter, require_learnt, same_tensors, save_adapter
from ..training.encoding import ChatEncoder, Encoded, Example
from ..training.sharding import held_weights, shard
from ..training.supervised import SupervisedTrainer, supervised_trainer
from ..training.trainer import quiet, thinned
from .jsonl import read_rows
from .models import base_model, quantization


def run(workspace: Workspace) -> Result:
    """Output `adapter`, from inputs `model`, `train`, `validation` and, if the run has any, `replay`.

    Raises PermanentError `DataEmpty` if nothing is left to train on or to validate with, and those of models.load,
    `require_positions`, `ChatEncoder`, `new_adapter`, `Resumable.resume` and `require_learnt`; Terminated once asked to stop, with a checkpoint saved.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, SftSettings)
    quiet()
    reference = base_model(workspace)
    tokenizer = load_tokenizer(reference)
    encoder = ChatEncoder(tokenizer, settings.max_length, workspace.check_stop)
    train = encoder.dialogues(read_rows(workspace, "train", Dialogue).values())
    validation = encoder.dialogues(read_rows(workspace, "validation", Dialogue).values())
    replayed = read_rows(workspace, "replay", Instruction) if workspace.has_input("replay") else {}
    replay = encoder.instructions(replayed.values())
    for name, encoded in (("train", train), ("validation", validation)):
        if not encoded.rows:
            raise PermanentError("DataEmpty", _nothing_left(name, encoded))

    sharded = workspace.spec.ranks.sharded
    base = load_model(reference, None, settings.precision, to_device=not sharded, quantization=quantization(workspace))
    require_positions("sft.maxLength", settings.max_length, longest(base.config.to_dict()))
    model = new_adapter(base, settings.lora, workspace.spec.seed)
    untrained = adapter_tensors(model)
    if sharded:
        shard(model, placement(settings.precision)[0])
    trainer = supervised_trainer(
        model, tokenizer, settings, workspace.spec.seed, [*train.rows, *replay.rows], validation.rows, workspace
    )
    trainer.resume()
    require_learnt(untrained, adapter_tensors(model), "sft", trainer.state.global_step)
    adapter = save_adapter(model, trainer.trained, workspace.reference("model"), workspace.scratch / "adapter")
    return Result(
        outputs={"adapter": adapter},
        counts=_counts(train, validation, replay),
        metrics=_metrics(trainer),
        details=_details(trainer),
        tokens=trainer.trained_tokens,
        notes=[*_notes(train), *_untouched(same_tensors(untrained, trainer.trained))],
    )


def _counts(train: Encoded[Example], validation: Encoded[Example], replay: Encoded[Example]) -> dict[str, int]:
    return {
        "dialogues": train.dialogues,
        "supporterTurns": sum(example.turns for example in train.rows),
        "validation": len(validation.rows),
        "replay": len(replay.rows),
        **({"unlearnt": train.unlearnt} if train.unlearnt else {}),
        **({"sequences": len(train.rows)} if train.split else {}),
        "truncated": train.truncated + validation.truncated,
        "dropped.silent": train.silent + validation.silent,
        "dropped.too_long": train.too_long + validation.too_long + replay.too_long,
    }


def _notes(train: Encoded[Example]) -> list[str]:
    if not train.split:
        return []
    tokens = sum(example.tokens for example in train.rows)
    return [
        "the model's chat template writes an answer in another way once later turns follow, so each answer is a "
        f"sequence of its own: {len(train.rows)} sequences with {tokens / train.whole_tokens:.1f} times the tokens of "
        f"{train.dialogues} whole dialogues"
    ]


def _untouched(kept_is_untrained: bool) -> list[str]:
    # Early stopping keeps the best adapter, and the first steps of the warm-up may change nothing.
    words = "the validation loss was lowest before any step had changed the adapter, so M0 is the base model: lower sft.learningRate"
    return [words] if kept_is_untrained else []


def _metrics(trainer: SupervisedTrainer) -> dict[str, float]:
    """Losses in nats a token of the supporter's turns; the validation loss is that of the kept adapter."""
    losses = [loss for _, loss in trainer.history("loss")]
    validation = trainer.kept_validation
    return {
        "train_loss_first": losses[0],
        "train_loss_last": losses[-1],
        "validation_loss": validation,
        "validation_perplexity": math.exp(validation),
    }


def _details(trainer: SupervisedTrainer) -> dict[str, object]:
    return {
        "curve": thinned(trainer.history("loss")),
        "validation": thinned(trainer.history("eval_loss")),
        "steps": trainer.state.global_step,
        "keptStep": trainer.kept_step,
        "stoppedEarly": trainer.validations.exhausted,
        "processes": trainer.ranks.count,
        "heldWeights": held_weights(trainer.model),
        "packed": trainer.layout.packed,
    }


def _nothing_left(name: str, encoded: Encoded[Example]) -> str:
    return (
        f"input {name}: no dialogue is left: {encoded.silent} have no supporter turn, and in {encoded.too_long} "
        "even the last exchange is too long; raise sft.maxLength or name more dialogues in data.seed"
    )
