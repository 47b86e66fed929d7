"""DPO from M(t-1) to Mt with trl's DPOTrainer. The loss does not depend on how a step is split into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import set_peft_model_state_dict
from torch.nn.utils.rnn import pad_sequence
from trl import DPOConfig, DPOTrainer

from ..contract.settings import DpoSettings
from ..contract.workspace import Workspace
from ..models.load import placement
from .adapter import Tensors
from .encoding import IGNORED, Preference
from .forward import Layout, best_layout, spare_forward
from .reference import REFERENCE, ReferenceGuard
from .schedule import rows_a_pass, training_order
from .trainer import Resumable, arguments, whole_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

TRIED_PAIRS, TRIED_PROMPT, TRIED_ANSWER = 2, 48, 16
"""Pairs, and tokens of each, with which layouts are tried."""


class PreferenceTrainer(Resumable, DPOTrainer):  # type: ignore[misc]
    """DPOTrainer on token ids."""

    sft_weight: float
    guard: ReferenceGuard
    layout: Layout

    def resume(self) -> None:
        """Train to the end; raises what `Resumable.resume` does, and `WrongReference`."""
        super().resume()
        self.guard.check_tensors()

    def get_batch_samples(self, *given: Any, **options: Any) -> Any:
        """One optimiser step's passes; notes how many pairs and chosen tokens they hold together."""
        passes, items = super().get_batch_samples(*given, **options)
        sizes = [_sizes(inputs) for inputs in passes]
        self._step = (len(sizes), sum(pairs for pairs, _ in sizes), sum(tokens for _, tokens in sizes))
        return passes, items

    def compute_loss(self, model: Any, inputs: Any, *given: Any, **options: Any) -> Tensor:
        """The loss of one pass as trl has it, weighted by the pass's share of the step.

        There the sigmoid term is a mean over the pass's pairs, the SFT term one over its chosen tokens, and the step's
        loss is the mean of its passes. With these weights it is the mean over all the step's pairs plus `sft_weight`
        times the mean over all its chosen tokens: 4 x 2 pairs on a GPU train as 1 x 8 on a CPU, and a smaller last pass
        counts less.
        """
        passes, pairs, tokens = self._step
        own_pairs, own_tokens = _sizes(inputs)
        self.loss_weights = [passes * own_pairs / pairs, self.sft_weight * passes * own_tokens / tokens]
        loss: Tensor = super().compute_loss(model, inputs, *given, **options)
        return loss


def preference_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: DpoSettings,
    seed: int,
    pairs: Sequence[Preference],
    input_adapter: Tensors,
    reference: Tensors,
    workspace: Workspace,
) -> PreferenceTrainer:
    """A trainer that is ready to `resume`. `model` has M(t-1)'s adapter, trainable; there is at least one pair.

    `input_adapter` is that adapter as its file has it, `reference` the adapter of the reference model.

    The reference's log-probabilities are not computed ahead: over one epoch, the paper's, that saves nothing.
    """
    order = training_order([pair.tokens for pair in pairs], settings.epochs, settings.batch_size, seed)
    rows = {name: [getattr(pair, name) for pair in pairs] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    base, sharded = model.get_base_model(), workspace.spec.ranks.sharded
    layout = best_layout(
        base,
        *_tried(pairs[:TRIED_PAIRS], placement(settings.precision)[0]),
        pairs=True,
        sharded=model if sharded else None,
    )
    with whole_adapter(base):
        trainer = PreferenceTrainer(
            model=model,
            args=DPOConfig(
                **arguments(settings, len(order), seed, workspace.scratch, _together(settings, layout, pairs, order)),
                beta=settings.beta,
                loss_type=["sigmoid", "sft"],
                loss_weights=[1.0, settings.sft_weight],
            ),
            train_dataset=Dataset.from_dict(rows).select(order),
            processing_class=tokenizer,
        )
    trainer.sft_weight, trainer.layout = settings.sft_weight, layout
    spare_forward(base, layout)
    if settings.reference != "previous":  # trl has made a copy of M(t-1)
        set_peft_model_state_dict(model, reference, adapter_name=REFERENCE)
    trainer.guard = ReferenceGuard(model, input_adapter, reference, settings.beta)
    trainer.add_callback(trainer.guard)
    trainer.attach(workspace, [pairs[row].tokens for row in order])
    return trainer


def _together(settings: DpoSettings, layout: Layout, pairs: Sequence[Preference], order: Sequence[int]) -> int:
    """Pairs that a pass may hold."""
    if not layout.packed:
        return settings.batch_size
    packed, padded = [pairs[row].tokens for row in order], [2 * pairs[row].length for row in order]
    return rows_a_pass(packed, padded, settings.batch_size, settings.gradient_accumulation)


def _sizes(inputs: Any) -> tuple[int, int]:
    """Pairs of a pass, and tokens of their chosen answers."""
    mask = inputs["completion_mask"]
    pairs = len(mask) // 2
    return pairs, int(mask[:pairs, 1:].sum())


def _tried(pairs: Sequence[Preference], device: torch.device) -> tuple[Tensor, Tensor]:
    """The ends of the prompts and the beginnings of the answers as token ids and labels, (2 x pairs, tokens)."""
    ids, labels = [], []
    for answers in ([pair.chosen_ids for pair in pairs], [pair.rejected_ids for pair in pairs]):
        for pair, answer in zip(pairs, answers, strict=True):
            prompt, answer = pair.prompt_ids[-TRIED_PROMPT:], answer[:TRIED_ANSWER]
            ids.append(torch.tensor([*prompt, *answer]))
            labels.append(torch.tensor([*[IGNORED] * len(prompt), *answer]))
    return (
        pad_sequence(ids, batch_first=True).to(device),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(device),
    )
