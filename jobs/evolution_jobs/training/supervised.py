"""SFT on whole dialogues: trl's SFTTrainer, with a validation loss that decides when to stop and what to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..contract.settings import SftSettings
from ..contract.workspace import Workspace
from .adapter import Tensors, adapter_tensors
from .encoding import Example
from .forward import Layout, spare_forward
from .passes import arguments, layout_of
from .schedule import Validations, evaluation_interval, optimiser_steps, training_order
from .trainer import Resumable, whole_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments


TRIED_ROWS, TRIED_TOKENS = 2, 96
"""Sequences, and tokens of each, with which layouts are tried."""


class SupervisedTrainer(Resumable, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on token ids and labels."""

    validation: Dataset
    interval: int
    """Optimiser steps between two validations."""
    patience: int
    layout: Layout

    @property
    def validations(self) -> Validations:
        """Every validation so far."""
        return Validations(self.history("eval_loss"), self.patience)

    @property
    def kept_step(self) -> int:
        """The step of the adapter to keep: with early stopping the one of lowest validation loss, else the last."""
        best = self.validations.best_step
        return best if self.patience and best is not None else self.state.global_step

    @property
    def kept_validation(self) -> float:
        """The validation loss of the adapter to keep, in nats a token."""
        return dict(self.history("eval_loss"))[self.kept_step]

    @property
    def trained(self) -> Tensors:
        """The weights of the adapter to keep."""
        return self.best if self.patience and self.best is not None else adapter_tensors(self.model)

    def resume(self) -> None:
        """Train and validate to the end; raises what `Resumable.resume` does."""
        super().resume()
        self.validate_if_due()

    def validate_if_due(self) -> None:
        """Measure the validation loss of the last step's adapter, unless that is done or not yet due.

        It is measured as the next step begins, not as the last one ends: a checkpoint in between leaves it to the
        resumed process.
        """
        step = self.state.global_step
        due = step and (step % self.interval == 0 or step == self.state.max_steps)
        if not due or self.validations.measured(step) or self.validations.exhausted:
            return
        lowest = self.validations.lowest
        loss = self._validation_loss()
        self.log({"eval_loss": loss})
        if lowest is None or loss < lowest:
            self.best = adapter_tensors(self.model)

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Nats a learnt token over the whole validation set; a mean over batches would depend on their size."""
        loss, tokens = 0.0, 0.0
        self.model.eval()
        batches = self.get_eval_dataloader(self.validation)
        for place, batch in enumerate(batches):
            if place % self.ranks.count == 0:
                self.stop_if_asked()
            own = self.ranks.own(place)
            if not own and not self.ranks.spare(place, len(batches)):
                continue
            with self.compute_loss_context_manager():
                output = self.model(**self._prepare_inputs(batch), use_cache=False, fused_lm_head=True)
            if own:
                loss -= float(output.log_probs.sum())
                tokens += int(output.label_mask.sum())
        loss, tokens = self.ranks.summed([loss, tokens])
        return loss / tokens


class _Validation(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: SupervisedTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.validate_if_due()
        self._stop(control)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        if self._trainer.validations.exhausted:
            control.should_training_stop = True


def supervised_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SftSettings,
    seed: int,
    train: Sequence[Example],
    validation: Sequence[Example],
    workspace: Workspace,
) -> SupervisedTrainer:
    """A trainer that is ready to `resume`. Neither list of examples is empty."""
    order = training_order([example.tokens for example in train], settings.epochs, settings.batch_size, seed)
    tokens = [train[row].tokens for row in order]
    layout = layout_of(model, settings, workspace, *_tried(train[:TRIED_ROWS]), pairs=False)
    base = model.get_base_model()
    with whole_adapter(base):
        trainer = SupervisedTrainer(
            model=model,
            args=SFTConfig(
                **arguments(settings, seed, workspace.scratch, layout, packed=tokens, padded=tokens),
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=_dataset(train).select(order),
            processing_class=tokenizer,
        )
    trainer.layout = layout
    spare_forward(base, layout)
    steps = optimiser_steps(len(order), settings.batch_size, settings.gradient_accumulation)
    trainer.validation = _dataset(sorted(validation, key=lambda example: example.tokens))
    trainer.interval = evaluation_interval(steps, settings.epochs, settings.evaluations_per_epoch)
    trainer.patience = settings.early_stopping_patience
    trainer.add_callback(_Validation(trainer))
    trainer.attach(workspace, tokens)
    return trainer


def _dataset(examples: Sequence[Example]) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [example.input_ids for example in examples], "labels": [example.labels for example in examples]}
    )


def _tried(examples: Sequence[Example]) -> tuple[list[list[int]], list[list[int]]]:
    """The ends of the sequences, which are learnt, as token ids and labels."""
    return (
        [example.input_ids[-TRIED_TOKENS:] for example in examples],
        [example.labels[-TRIED_TOKENS:] for example in examples],
    )
