"""Rows that are sampled together: their states, tokens and next logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .row import Row, padded
from .states import joined

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass
class Batch:
    """Rows in the cache's order. Rows that have ended stay until the batch is regrouped; nothing of them is used."""

    rows: list[Row]
    cache: DynamicCache
    seen: Tensor
    """(rows, columns), the tokens so far, padded on the left."""
    mask: Tensor
    """(rows, columns), 0 for padding."""
    logits: Tensor
    """(rows, vocabulary) in float32, after the last column."""

    @property
    def going(self) -> list[int]:
        """Places of the rows that have not ended."""
        return [place for place, row in enumerate(self.rows) if not row.ended]

    def without_ended(self) -> Batch:
        """The batch without the rows that have ended, over the same cache."""
        kept = torch.tensor(self.going, device=self.seen.device)
        self.cache.batch_select_indices(kept)
        rows = [self.rows[place] for place in self.going]
        return Batch(rows, self.cache, self.seen[kept], self.mask[kept], self.logits[kept])


def merged(batches: Sequence[Batch], cache: DynamicCache) -> Batch:
    """One batch of the rows of others that have not ended, over an empty cache. Empties the others' caches."""
    parts = [(batch, batch.going) for batch in batches if batch.going]
    rows = [batch.rows[place] for batch, going in parts for place in going]
    seen, mask = (values.to(parts[0][0].seen.device) for values in padded(rows))
    joined(cache, [(batch.cache, going) for batch, going in parts], seen.shape[1])
    return Batch(rows, cache, seen, mask, torch.cat([batch.logits[going] for batch, going in parts]))
