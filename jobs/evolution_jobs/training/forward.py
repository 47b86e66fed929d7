"""A cheaper forward pass for the trainers: no logits without a label, no prompt computed twice, and no padding.

trl calls `model(input_ids, attention_mask, labels, fused_lm_head=True)` on a padded batch and wants the log-probability
of each label (trl.trainer.utils.add_fused_lm_head). On a CPU it then projects every position to the vocabulary, and the
prompt of a preference pair, most of its tokens, goes through the model once with `chosen` and once with `rejected`.
Here the same figures come from hidden states at labelled positions alone, and from each pair as one sequence that
branches after its prompt. On a GPU all sequences of a pass stand in one row, and FlexAttention (arXiv 2412.05496) skips
what they may not see of each other (packed prefix sharing, arXiv 2410.20305). The loss stays trl's.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from .encoding import IGNORED
from .layout import Placed, TokenTree, branched, packed, side_by_side, straight
from .ranks import Ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What trl reads of the output: one value a label, 0 where there is none."""

FLEX, SDPA = "flex_attention", "sdpa"
"""Names of attention implementations in transformers."""


@dataclass(frozen=True)
class Layout:
    """How a pass is computed."""

    shared: bool = False
    """Whether the two answers of a pair branch from one prompt."""
    packed: bool = False
    """Whether all sequences stand in one row."""

    def trees(self, input_ids: Tensor, labels: Tensor) -> list[TokenTree]:
        """The rows of a batch as trees."""
        return (branched if self.shared else straight)(input_ids, labels)

    def placed(self, trees: Sequence[TokenTree]) -> Placed:
        """The trees as tensors."""
        return (packed if self.packed else side_by_side)(trees)


def spare_forward(model: PreTrainedModel, layout: Layout) -> None:
    """Make the model, to which trl has given its fused head, compute only what the loss needs.

    `layout` is one that `best_layout` has found fit for the model.
    """
    fused = model.forward

    def forward(
        self: PreTrainedModel,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        fused_lm_head: bool = False,
        **arguments: Any,
    ) -> Any:
        # The load-balancing loss of a mixture of experts counts every token, so trl's own pass computes it.
        if not fused_lm_head or input_ids is None or labels is None or arguments.get("output_router_logits"):
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **arguments}
            return fused(**given, fused_lm_head=fused_lm_head)
        return _run(self, fused, layout, input_ids, labels, arguments)

    model.forward = types.MethodType(forward, model)


def _run(
    model: PreTrainedModel, fused: Any, layout: Layout, input_ids: Tensor, labels: Tensor, arguments: dict[str, Any]
) -> Any:
    """What trl gives for a batch, each field (rows, tokens - 1)."""
    # On a GPU, each look at a tensor's values would wait for all work that is queued: one wait is enough.
    trees = layout.trees(input_ids.cpu(), labels.cpu())
    placed = layout.placed(trees)
    causal = placed.causal
    placed = placed.to(input_ids.device)

    def at_labels(_module: torch.nn.Module, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[placed.sources][None]
        return output

    with model.base_model.register_forward_hook(at_labels):
        output = fused(
            **arguments,
            input_ids=placed.ids,
            position_ids=placed.positions,
            attention_mask=None if causal and not layout.packed else _mask(model, placed),
            shift_labels=placed.targets[None],
            fused_lm_head=True,
        )
    return _scattered(output, trees, labels[:, 1:] != IGNORED)


def _mask(model: PreTrainedModel, placed: Placed) -> Any:
    return placed.block_mask() if model.config._attn_implementation == FLEX else placed.dense_mask()


def _scattered(output: Any, trees: Sequence[TokenTree], labelled: Tensor) -> Any:
    """The output, one value a label in the order of the trees, in the batch's shape, (rows, tokens - 1)."""
    lengths = {row: length for tree in trees for row, length in tree.rows.items()}
    fields: dict[str, Any] = {"label_mask": labelled}
    for name in FIELDS:
        if (values := getattr(output, name)) is not None:
            by_row = dict(zip(lengths, values[0].split(list(lengths.values())), strict=True))
            ordered = torch.cat([by_row[row] for row in sorted(by_row)])
            fields[name] = ordered.new_zeros(labelled.shape).masked_scatter(labelled, ordered)
    return type(output)(loss=output.loss, **fields)


def best_layout(
    model: PreTrainedModel, input_ids: Tensor, labels: Tensor, *, pairs: bool, sharded: Any = None
) -> Layout:
    """The fastest layout in which the model computes what it computes for separate sequences; before `spare_forward`.

    It is tried on a small batch: dialogues, or with `pairs` the chosen and then the rejected answers. For a packed
    layout the model's attention becomes FlexAttention. `sharded` is the whole of a model that is spread over ranks: it
    must be called, and is not packed, because a kernel that fails on one rank would leave the others waiting.

    Only models with rotary positions, full attention and PyTorch's own attention function are tried: a recurrent layer
    would carry one sequence into the next, and a sliding window is measured in places of the one row.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    fit = getattr(config, "rope_parameters", None) and not getattr(config, "sliding_window", None)
    if not fit or layers != {"full_attention"} or model.config._attn_implementation != SDPA:
        return Layout()
    with _fused_head(model):
        fused = sharded or model.forward
        expected = _log_probs(model, fused, Layout(), input_ids, labels)
        branches = pairs and _close(model, fused, Layout(shared=True), input_ids, labels, expected)
        # Passes are cut by the layout, so all ranks must take the same.
        shared = Layout(shared=not Ranks().agreed(not branches))
        if sharded is not None or model.device.type != "cuda" or pairs > shared.shared:
            return shared
        model.set_attn_implementation(FLEX)
        if not Ranks().agreed(not _packs(model, replace(shared, packed=True), input_ids, labels, expected)):
            return replace(shared, packed=True)
        model.set_attn_implementation(SDPA)
        return shared


@contextmanager
def _fused_head(model: PreTrainedModel) -> Iterator[None]:
    """The head that a trainer of trl will give the model."""
    own = vars(model).get("forward")
    add_fused_lm_head(model)
    try:
        yield
    finally:
        vars(model).pop("forward")
        if own is not None:
            model.forward = own


def _packs(model: PreTrainedModel, layout: Layout, input_ids: Tensor, labels: Tensor, expected: Tensor) -> bool:
    try:
        # The gradient, too: its kernel is another one.
        _run(model, model.forward, layout, input_ids, labels, {}).log_probs.sum().backward()
        return _close(model, model.forward, layout, input_ids, labels, expected)
    except Exception as error:  # noqa: BLE001 -- a compiler, a driver and a kernel can fail in many ways
        log.warning("rows are padded, not packed, because FlexAttention does not run here: %s", error)
        return False
    finally:
        model.zero_grad()


def _close(
    model: PreTrainedModel, fused: Any, layout: Layout, input_ids: Tensor, labels: Tensor, expected: Tensor
) -> bool:
    """Whether the mean difference a label is what rounding explains."""
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    difference = (_log_probs(model, fused, layout, input_ids, labels) - expected).abs().sum() / (
        labels != IGNORED
    ).sum()
    return bool(difference < tolerance)


@torch.no_grad()
def _log_probs(model: PreTrainedModel, fused: Any, layout: Layout, input_ids: Tensor, labels: Tensor) -> Tensor:
    log_probs: Tensor = _run(model, fused, layout, input_ids, labels, {}).log_probs
    return log_probs
