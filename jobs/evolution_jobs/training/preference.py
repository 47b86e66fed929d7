"""DPO from M(t-1) to Mt with trl's DPOTrainer. The loss does not depend on how a step is split into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from peft import set_peft_model_state_dict
from trl import DPOConfig, DPOTrainer

from ..contract.settings import DpoSettings
from ..contract.workspace import Workspace
from .adapter import Tensors
from .encoding import IGNORED, Preference
from .forward import Layout, spare_forward
from .passes import arguments, layout_of
from .reference import REFERENCE, ReferenceGuard
from .schedule import training_order
from .trainer import Resumable, whole_adapter

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
    tokens, padded = [pairs[row].tokens for row in order], [2 * pairs[row].length for row in order]
    layout = layout_of(model, settings, workspace, *_tried(pairs[:TRIED_PAIRS]), pairs=True)
    base = model.get_base_model()
    with whole_adapter(base):
        trainer = PreferenceTrainer(
            model=model,
            args=DPOConfig(
                **arguments(settings, seed, workspace.scratch, layout, packed=tokens, padded=padded),
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
    trainer.attach(workspace, tokens)
    return trainer


def _sizes(inputs: Any) -> tuple[int, int]:
    """Pairs of a pass, and tokens of their chosen answers."""
    mask = inputs["completion_mask"]
    pairs = len(mask) // 2
    return pairs, int(mask[:pairs, 1:].sum())


def _tried(pairs: Sequence[Preference]) -> tuple[list[list[int]], list[list[int]]]:
    """The ends of the prompts and the beginnings of the answers as token ids and labels, all chosen answers first."""
    prompts = [pair.prompt_ids[-TRIED_PROMPT:] for pair in pairs] * 2
    answers = [
        ids[:TRIED_ANSWER] for ids in (*(pair.chosen_ids for pair in pairs), *(pair.rejected_ids for pair in pairs))
    ]
    rows = list(zip(prompts, answers, strict=True))
    return [prompt + answer for prompt, answer in rows], [[IGNORED] * len(prompt) + answer for prompt, answer in rows]
