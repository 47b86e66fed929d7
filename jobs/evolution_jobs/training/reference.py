"""DPO's reference is the declared model, nothing else: checked before the first update and after the last.

The paper's reference is M(t-1) (arXiv 2505.16610); M0 and the base model are choices of the spec. The reference of
chained LoRA training goes wrong silently: training then pulls towards another model, or towards a moving target, and its
losses look healthy. So the reference's tensors must be those of its file, bit by bit, throughout. And before the first
update the reference must give the same log-probabilities as the policy with those tensors: every reward is 0, and the
sigmoid term is ln 2. With M(t-1) that is the first step as it stands; else the policy takes the reference's tensors for
a moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from peft import set_peft_model_state_dict
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
    asked: list[dict[str, Any]] = field(default_factory=list)
    """What the reference was called with."""

    def record(self, model: PeftModel, _arguments: Any, asked: dict[str, Any], output: Any) -> None:
        """A forward hook of the whole model: one entry a pass, (2 x pairs,), chosen first."""
        if model.active_adapter == REFERENCE:
            self.reference.append(_answers(output))
            self.asked.append(asked)
        else:
            self.policy.append(_answers(output))

    @torch.no_grad()
    def repeat(self, model: PeftModel) -> None:
        """Put the policy's log-probabilities of what the reference was asked in place of the recorded ones."""
        self.policy = [_answers(model(**asked)) for asked in self.asked]

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


def _answers(output: Any) -> Tensor:
    answers: Tensor = output.log_probs.detach().float().sum(1)
    return answers


def without_effect(adapter: Tensors) -> Tensors:
    """An adapter of the same shape that changes nothing, so the model with it is the base model."""
    return {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in adapter.items()}


class ReferenceGuard(TrainerCallback):  # type: ignore[misc]
    """Raises PermanentError (`WrongReference`) unless the reference is the declared one from the first step to the last."""

    def __init__(self, model: PeftModel, input_adapter: Tensors, reference: Tensors, beta: float) -> None:
        """`input_adapter` is M(t-1)'s, `reference` the declared reference's."""
        self._model = model
        self._input_adapter = input_adapter
        self._reference = reference
        self._first = FirstStep(beta)
        self._hook = model.register_forward_hook(self._first.record, with_kwargs=True)

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
        """Before the first update: the losses say that the reference is the policy with the declared weights."""
        if state.global_step:
            return
        self._hook.remove()
        self.check_tensors()
        if not same_tensors(self._reference, self._input_adapter):
            self._repeat_as_reference()
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
        """The reference's tensors are the declared ones, bit by bit, and frozen."""
        if REFERENCE not in self._model.peft_config:
            raise _wrong("trl has made no frozen copy of the input adapter")
        if not same_tensors(adapter_tensors(self._model, REFERENCE), self._cast(self._reference)):
            raise _wrong("the reference's weights are not those of its adapter")
        if any(weight.requires_grad for name, weight in self._model.named_parameters() if f".{REFERENCE}." in name):
            raise _wrong("the reference is being trained")

    def _repeat_as_reference(self) -> None:
        """Run the first step's answers again through the policy with the reference's weights."""
        policy = adapter_tensors(self._model)
        set_peft_model_state_dict(self._model, self._cast(self._reference), adapter_name="default")
        self._first.repeat(self._model)
        set_peft_model_state_dict(self._model, policy, adapter_name="default")

    def _cast(self, tensors: Tensors) -> Tensors:
        """In the precision of the model's adapters: float32, whatever the file has."""
        kinds = {key: value.dtype for key, value in adapter_tensors(self._model).items()}
        return {key: value.to(kinds.get(key, value.dtype)) for key, value in tensors.items()}


def _wrong(found: str) -> PermanentError:
    return PermanentError(
        "WrongReference",
        f"DPO's reference is not the declared model: {found}; the installed versions of trl or peft do not fit",
    )
