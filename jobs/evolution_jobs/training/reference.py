"""DPO's reference is M(t-1), nothing else: checked before the first update and after the last (arXiv 2505.16610).

The reference of chained LoRA training goes wrong silently: training then pulls towards the base model, or towards a
moving target, and its losses look healthy. Before the first update policy and reference are one model, so every reward
is 0 and the sigmoid term is ln 2; and the reference's tensors are those of M(t-1)'s file, bit by bit, throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback

from ..contract.errors import PermanentError
from .adapter import Tensors, adapter_tensors, same_tensors
from .ranks import Ranks

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerControl, TrainerState, TrainingArguments

REFERENCE = "ref"
"""The name under which trl keeps the frozen copy of the adapter that it is given."""

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Most that a reward or the sigmoid term may be off through rounding, by the base model's arithmetic."""


@dataclass
class FirstStep:
    """Log-probabilities of the first step's answers, under the policy and under the reference."""

    beta: float
    policy: list[Tensor] = field(default_factory=list)
    reference: list[Tensor] = field(default_factory=list)

    def record(self, model: PeftModel, _arguments: Any, output: Any) -> None:
        """A forward hook of the whole model: one entry a pass, (2 x pairs,), chosen first."""
        passes = self.reference if model.active_adapter == REFERENCE else self.policy
        passes.append(output.log_probs.detach().float().sum(1))

    @property
    def rewards(self) -> tuple[Tensor, Tensor]:
        """The log-ratio times beta of every chosen and of every rejected answer."""
        ratios = [(policy - reference).chunk(2) for policy, reference in zip(self.policy, self.reference, strict=True)]
        chosen, rejected = (torch.cat(side) for side in zip(*ratios, strict=True))
        return self.beta * chosen, self.beta * rejected

    def figures(self, ranks: Ranks) -> dict[str, float]:
        """Over the pairs of all ranks: sigmoid term and mean rewards, and the largest reward without its sign.

        Empty if the reference has run on no rank.
        """
        found = [each for each in ranks.gathered(self._own()) if each]
        pairs = sum(each["pairs"] for each in found)
        if not pairs:
            return {}
        means = ("sigmoid", "rewardsChosen", "rewardsRejected")
        figures = {name: sum(each[name] * each["pairs"] for each in found) / pairs for name in means}
        return {**figures, "largest": max(each["largest"] for each in found)}

    def _own(self) -> dict[str, float]:
        """The figures of this rank's pairs; empty if it has computed none."""
        if not self.reference:
            return {}
        chosen, rejected = self.rewards
        return {
            "pairs": len(chosen),
            "sigmoid": float(-logsigmoid(chosen - rejected).mean()),
            "rewardsChosen": float(chosen.mean()),
            "rewardsRejected": float(rejected.mean()),
            "largest": float(torch.cat(self.rewards).abs().max()),
        }


class ReferenceGuard(TrainerCallback):  # type: ignore[misc]
    """Raises PermanentError (`WrongReference`) unless the reference is M(t-1) from the first step to the last."""

    def __init__(self, model: PeftModel, input_adapter: Tensors, beta: float) -> None:
        self._model = model
        self._input_adapter = input_adapter
        self._first = FirstStep(beta)
        self._hook = model.register_forward_hook(self._first.record)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A fresh start has both adapters equal to M(t-1)'s file; a resumed one has at least the reference."""
        self.check_tensors()
        if state.global_step:
            self._hook.remove()
        elif not same_tensors(adapter_tensors(self._model), self._cast(self._input_adapter)):
            raise _wrong("the policy does not start from the input adapter")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the first update: the losses say that policy and reference are one model."""
        if state.global_step:
            return
        self._hook.remove()
        self.check_tensors()
        figures, tolerance = self._first.figures(Ranks()), TOLERANCE[self._model.dtype]
        if not figures:
            raise _wrong("the reference model did not run in the first step")
        largest = figures.pop("largest")
        off = max(largest, abs(figures["sigmoid"] - math.log(2)))
        if not off <= tolerance:
            raise _wrong(
                f"in the first step the sigmoid term is {figures['sigmoid']:.6f}, not ln 2 = {math.log(2):.6f}, and the "
                f"largest reward {largest:.6f}, not 0"
            )
        state.log_history.append({"step": 0, "first_step": figures})

    def check_tensors(self) -> None:
        """The reference's tensors are the input adapter's, bit by bit, and frozen."""
        if REFERENCE not in self._model.peft_config:
            raise _wrong("trl has made no frozen copy of the input adapter")
        if not same_tensors(adapter_tensors(self._model, REFERENCE), self._cast(self._input_adapter)):
            raise _wrong("the reference's weights differ from the input adapter's")
        if any(weight.requires_grad for name, weight in self._model.named_parameters() if f".{REFERENCE}." in name):
            raise _wrong("the reference is being trained")

    def _cast(self, tensors: Tensors) -> Tensors:
        """In the precision of the model's adapters: float32, whatever the file has."""
        kinds = {key: value.dtype for key, value in adapter_tensors(self._model).items()}
        return {key: value.to(kinds.get(key, value.dtype)) for key, value in tensors.items()}


def _wrong(found: str) -> PermanentError:
    return PermanentError(
        "WrongReference", f"DPO's reference is not M(t-1): {found}; the installed versions of trl or peft do not fit"
    )
