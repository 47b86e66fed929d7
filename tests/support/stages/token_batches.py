"""Batches of random tokens, as trl's collators give them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from evolution_jobs.training.encoding import IGNORED
from torch.nn.utils.rnn import pad_sequence


def batch(pairs: Sequence[tuple[int, int, int]]) -> dict[str, torch.Tensor]:
    """Token ids, labels and mask for (prompt, chosen, rejected) lengths; chosen answers first."""
    generator = torch.Generator().manual_seed(0)
    sides: tuple[list[tuple[torch.Tensor, torch.Tensor]], ...] = ([], [])
    for prompt, *answers in pairs:
        shared = torch.randint(5, 49000, (prompt,), generator=generator)
        for side, length in zip(sides, answers, strict=True):
            answer = torch.randint(5, 49000, (length,), generator=generator)
            side.append((torch.cat([shared, answer]), torch.cat([torch.full_like(shared, IGNORED), answer])))
    rows = [*sides[0], *sides[1]]
    return {
        "input_ids": pad_sequence([ids for ids, _ in rows], batch_first=True),
        "labels": pad_sequence([labels for _, labels in rows], batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids, _ in rows], batch_first=True),
    }
