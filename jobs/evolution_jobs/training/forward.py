"""A cheaper forward pass for the trainers: no logits without a label, and no prompt computed twice.

trl calls `model(input_ids, attention_mask, labels, fused_lm_head=True)` on a padded batch and wants the log-probability
of each label (trl.trainer.utils.add_fused_lm_head). On a CPU it then projects every position to the vocabulary, and the
prompt of a preference pair, most of its tokens, goes through the model once with `chosen` and once with `rejected`.
Here the same figures come from hidden states at labelled positions alone, and from each pair as one sequence that
branches after its prompt. The loss stays trl's.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .encoding import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")
"""What trl reads of the output: one value a label, 0 where there is none."""


@dataclass(frozen=True)
class TokenTree:
    """One sequence as the model reads it: a trunk, and branches that see the trunk but not each other."""

    ids: Tensor
    """(tokens,)"""
    positions: Tensor
    """(tokens,): every branch goes on where the trunk ends."""
    branches: Tensor
    """(tokens,): 0 in the trunk, else the branch's number."""
    sources: Tensor
    """(labels,): the token after whose hidden state each label is expected."""
    targets: Tensor
    """(labels,)"""
    rows: tuple[int, ...]
    """The batch's rows whose labels these are, one after the other."""


def straight(input_ids: Tensor, labels: Tensor) -> list[TokenTree]:
    """Every row with a label as a tree of its own, up to the token before its last label."""
    trees = []
    for row, (ids, wanted) in enumerate(zip(input_ids, labels, strict=True)):
        places = (wanted[1:] != IGNORED).nonzero().squeeze(1)
        if len(places):
            length = int(places[-1]) + 1
            positions = torch.arange(length, device=ids.device)
            trees.append(
                TokenTree(ids[:length], positions, torch.zeros_like(positions), places, wanted[places + 1], (row,))
            )
    return trees


def branched(input_ids: Tensor, labels: Tensor) -> list[TokenTree]:
    """Row i and row i + half as one tree: their common prompt, then the completion of each as a branch.

    The first half of the batch is `chosen`, the second `rejected`; the labels of a row are its completion.
    """
    half = len(input_ids) // 2
    trees = []
    for row in range(half):
        rows = (row, row + half)
        prompt_length = min(int((labels[side] != IGNORED).nonzero()[0]) for side in rows)
        prompt = input_ids[row, :prompt_length]
        if not torch.equal(prompt, input_ids[row + half, :prompt_length]):
            raise ValueError("chosen and rejected of a pair have different prompts")
        completions = [labels[side][labels[side] != IGNORED] for side in rows]
        # The last token of a completion is only predicted, never read.
        read = [prompt, *(completion[:-1] for completion in completions)]
        branches = torch.cat([torch.full_like(part, number) for number, part in enumerate(read)])
        starts = [0, prompt_length, prompt_length]
        positions = torch.cat([torch.arange(len(part)).to(part) + at for part, at in zip(read, starts, strict=True)])
        last = torch.tensor([prompt_length - 1]).to(prompt)
        sources = torch.cat([torch.cat([last, (branches == number).nonzero().squeeze(1)]) for number in (1, 2)])
        trees.append(TokenTree(torch.cat(read), positions, branches, sources, torch.cat(completions), rows))
    return trees


def spare_forward(model: PreTrainedModel, *, share_prompts: bool) -> None:
    """Make the model, to which trl has given its fused head, compute only what the loss needs.

    `share_prompts` is for batches of preference pairs, on models that `shares_prompts` finds fit.
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
        trees = (branched if share_prompts else straight)(input_ids, labels)
        return _scattered(_run(self, fused, trees, arguments), trees, labels[:, 1:] != IGNORED)

    model.forward = types.MethodType(forward, model)


def _run(model: PreTrainedModel, fused: Any, trees: Sequence[TokenTree], arguments: dict[str, Any]) -> Any:
    """What trl gives for the labels of the trees, one after the other: each field is (1, labels)."""

    def at_labels(_module: torch.nn.Module, _arguments: Any, output: Any) -> Any:
        hidden = output.last_hidden_state
        output.last_hidden_state = torch.cat([hidden[row, tree.sources] for row, tree in enumerate(trees)])[None]
        return output

    with model.base_model.register_forward_hook(at_labels):
        return fused(
            **arguments,
            input_ids=pad_sequence([tree.ids for tree in trees], batch_first=True),
            position_ids=pad_sequence([tree.positions for tree in trees], batch_first=True),
            attention_mask=_mask(trees),
            shift_labels=torch.cat([tree.targets for tree in trees])[None],
            fused_lm_head=True,
        )


def _mask(trees: Sequence[TokenTree]) -> Tensor | None:
    """(trees, 1, tokens, tokens), True where a token may look; None is causal, which right padding does not disturb."""
    if not any(bool(tree.branches.any()) for tree in trees):
        return None
    branches = pad_sequence([tree.branches for tree in trees], batch_first=True)
    seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return seen.tril()[:, None]


def _scattered(output: Any, trees: Sequence[TokenTree], labelled: Tensor) -> Any:
    """The output in the batch's shape, (rows, tokens - 1)."""
    order = [row for tree in trees for row in tree.rows]
    lengths = [int(count) for count in labelled.sum(1)[order]]
    fields: dict[str, Any] = {"label_mask": labelled}
    for name in FIELDS:
        if (values := getattr(output, name)) is not None:
            by_row = dict(zip(order, values[0].split(lengths), strict=True))
            placed = torch.cat([by_row[row] for row in sorted(by_row)])
            fields[name] = placed.new_zeros(labelled.shape).masked_scatter(labelled, placed)
    return type(output)(loss=output.loss, **fields)


def shares_prompts(model: PreTrainedModel, input_ids: Tensor, labels: Tensor) -> bool:
    """Whether branches of one sequence come out as separate sequences do, tried on a pair; before `spare_forward`.

    Only models with rotary positions, full attention and PyTorch's own attention function are tried: a recurrent layer
    would carry one branch into the other, and a sliding window is measured in places of the one sequence.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    fit = getattr(config, "rope_parameters", None) and not getattr(config, "sliding_window", None)
    if not fit or layers != {"full_attention"} or model.config._attn_implementation != "sdpa":
        return False
    with torch.no_grad():
        apart, shared = (
            _scattered(_run(model, model.forward, trees, {}), trees, labels[:, 1:] != IGNORED).log_probs
            for trees in (straight(input_ids, labels), branched(input_ids, labels))
        )
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return bool((apart - shared).abs().mean() < tolerance)
