"""How the rows of a batch stand in the tensors that a model reads: as trees, side by side or one after the other.

A tree is a dialogue, or a preference pair whose answers branch from one prompt. Side by side, each tree is a row padded
to the longest. One after the other (packed), all trees stand in one row without padding. Positions count within a tree,
and a token sees its own tree only, so that the model computes the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.utils.rnn import pad_sequence

from .encoding import IGNORED

BLOCK = 128
"""Tokens of a block of FlexAttention's mask. A packed row is filled up to whole blocks."""

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Whether a token sees another, from (row, head, the one's place, the other's place): the mask function of FlexAttention."""


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
    rows: dict[int, int]
    """The batch's rows whose labels these are, one after the other, and how many labels each has."""


@dataclass(frozen=True)
class Placed:
    """Trees as tensors of one batch."""

    ids: Tensor
    """(rows, tokens)"""
    positions: Tensor
    """(rows, tokens)"""
    trees: Tensor
    """(rows, tokens): the tree's number in its row, -1 for padding."""
    branches: Tensor
    """(rows, tokens)"""
    sources: Tensor
    """(labels,): places in the flattened (rows x tokens)."""
    targets: Tensor
    """(labels,)"""

    @property
    def causal(self) -> bool:
        """Whether a causal mask is enough: one tree a row, no branches, padding on the right."""
        return bool((self.trees <= 0).all()) and not bool(self.branches.any())

    def to(self, device: torch.device) -> Placed:
        """The same on a device."""
        return Placed(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    @property
    def visible(self) -> Visible:
        """A token sees those before it in its tree's trunk and in its own branch."""
        trees, branches = self.trees, self.branches

        def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            in_trunk = branches[row, key] == 0
            in_branch = branches[row, key] == branches[row, query]
            return (key <= query) & (trees[row, key] == trees[row, query]) & (in_trunk | in_branch)

        return visible

    def dense_mask(self) -> Tensor:
        """(rows, 1, tokens, tokens), True where a token sees another."""
        rows, tokens = self.ids.shape
        place = torch.arange(tokens, device=self.ids.device)
        row = torch.arange(rows, device=self.ids.device)[:, None, None]
        return self.visible(row, row, place[:, None], place)[:, None]

    def block_mask(self) -> BlockMask:
        """The same for FlexAttention, which skips the blocks that nobody sees."""
        rows, tokens = self.ids.shape
        return create_block_mask(
            self.visible, rows, None, tokens, tokens, device=str(self.ids.device), BLOCK_SIZE=BLOCK
        )


def straight(input_ids: Tensor, labels: Tensor) -> list[TokenTree]:
    """Every row with a label as a tree of its own, up to the token before its last label."""
    trees = []
    for row, (ids, wanted) in enumerate(zip(input_ids, labels, strict=True)):
        places = (wanted[1:] != IGNORED).nonzero().squeeze(1)
        if len(places):
            length = int(places[-1]) + 1
            positions = torch.arange(length, device=ids.device)
            rows = {row: len(places)}
            trees.append(
                TokenTree(ids[:length], positions, torch.zeros_like(positions), places, wanted[places + 1], rows)
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
        lengths = {side: len(completion) for side, completion in zip(rows, completions, strict=True)}
        trees.append(TokenTree(torch.cat(read), positions, branches, sources, torch.cat(completions), lengths))
    return trees


def side_by_side(trees: Sequence[TokenTree]) -> Placed:
    """One row a tree, padded on the right."""
    ids = pad_sequence([tree.ids for tree in trees], batch_first=True)
    return Placed(
        ids,
        pad_sequence([tree.positions for tree in trees], batch_first=True),
        pad_sequence([torch.zeros_like(tree.ids) for tree in trees], batch_first=True, padding_value=-1),
        pad_sequence([tree.branches for tree in trees], batch_first=True),
        torch.cat([tree.sources + row * ids.shape[1] for row, tree in enumerate(trees)]),
        torch.cat([tree.targets for tree in trees]),
    )


def packed(trees: Sequence[TokenTree]) -> Placed:
    """One row for all trees, filled up to whole blocks."""
    starts = [0, *accumulate(len(tree.ids) for tree in trees)]

    def in_a_row(parts: Sequence[Tensor], padding: int) -> Tensor:
        return torch.cat([*parts, parts[0].new_full((-starts[-1] % BLOCK,), padding)])[None]

    return Placed(
        in_a_row([tree.ids for tree in trees], 0),
        in_a_row([tree.positions for tree in trees], 0),
        in_a_row([torch.full_like(tree.ids, number) for number, tree in enumerate(trees)], -1),
        in_a_row([tree.branches for tree in trees], 0),
        torch.cat([tree.sources + start for tree, start in zip(trees, starts, strict=False)]),
        torch.cat([tree.targets for tree in trees]),
    )
