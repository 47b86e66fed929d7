"""Likelihood of the human answers under a model, given the context.

Only the answer's own tokens count, its end-of-turn token included. The prompt does not, nor does the text that a chat
template writes after the turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from ..chat.chats import Passage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGIT_BYTES = 256 * 2**20
"""Approximate limit for the logits of a batch in float32: a vocabulary of 49,152 takes 192 KiB a token."""


class ScoredSequence(NamedTuple):
    """Tokens that are scored in one forward pass."""

    tokens: list[int]
    members: list[int]
    """Positions of the passages that are a prefix of this sequence."""


@torch.inference_mode()
def answer_losses(
    model: PreTrainedModel, passages: Sequence[Passage], token_budget: int
) -> Iterator[list[tuple[int, float]]]:
    """Each passage's position and the summed negative log-likelihood of its answer, in nats, batch by batch.

    A passage that is a prefix of another one (an earlier turn of the same dialogue) is scored in the other's forward
    pass (`sequences`).

    A batch has at most `token_budget` tokens, padding included, and fewer if its logits would take too much memory; a
    longer passage is a batch of its own.
    """
    budget = min(token_budget, LOGIT_BYTES // (4 * model.config.get_text_config().vocab_size))
    for batch in _batches(sequences(passages), budget):
        yield _losses(model, passages, batch)


def sequences(passages: Sequence[Passage]) -> list[ScoredSequence]:
    """The passages that are no prefix of another one, longest first, each with its prefixes.

    A causal model gives a prefix's tokens the same probabilities, so a dialogue of n answers costs one pass and not n.
    """
    found: list[ScoredSequence] = []
    # In this order, a prefix follows its sequence directly, or follows another prefix of it.
    for position in sorted(range(len(passages)), key=lambda position: passages[position].tokens, reverse=True):
        tokens = passages[position].tokens
        if found and found[-1].tokens[: len(tokens)] == tokens:
            found[-1].members.append(position)
        else:
            found.append(ScoredSequence(tokens, [position]))
    return sorted(found, key=lambda sequence: len(sequence.tokens), reverse=True)


def _batches(sequences: Sequence[ScoredSequence], budget: int) -> Iterator[Sequence[ScoredSequence]]:
    start = 0
    while start < len(sequences):
        rows = max(1, budget // len(sequences[start].tokens))
        yield sequences[start : start + rows]
        start += rows


def _losses(
    model: PreTrainedModel, passages: Sequence[Passage], batch: Sequence[ScoredSequence]
) -> list[tuple[int, float]]:
    longest = len(batch[0].tokens)
    # Padding on the right: a causal model never attends to it, so neither a mask nor position ids are needed.
    ids = torch.tensor([[*tokens, *([0] * (longest - len(tokens)))] for tokens, _ in batch], device=model.device)
    spans = [
        (row, position, range(len(passages[position].prompt) - 1, len(passages[position].tokens) - 1))
        for row, (_, members) in enumerate(batch)
        for position in members
    ]
    # Logits at a token predict the next one. They are computed only where an answer needs them.
    kept = sorted({at for _, _, span in spans for at in span})
    column = {at: index for index, at in enumerate(kept)}
    output = model(input_ids=ids, logits_to_keep=torch.tensor(kept, device=model.device), use_cache=False)
    losses = []
    for row, position, span in spans:
        logits = output.logits[row, column[span[0]] : column[span[0]] + len(span)].float()
        target = ids[row, span.start + 1 : span.stop + 1]
        losses.append((position, float(cross_entropy(logits, target, reduction="sum"))))
    return losses
