"""Sample the next token of each row of a batch, each row with its own random stream."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Sampling

_GOLDEN = -7046029254386353131
"""0x9E3779B97F4A7C15 as a signed 64-bit integer: the increment of SplitMix64 (Steele et al., OOPSLA 2014)."""


def next_tokens(
    logits: Tensor, seen: Tensor, seeds: Tensor, steps: Tensor, sampling: Sampling, exempt: Tensor
) -> Tensor:
    """The next token of every row, (rows,).

    Args:
        logits: (rows, vocabulary) in float32, -inf for a masked token.
        seen: (rows, length), the tokens so far. Padding columns have any of that row's tokens.
        seeds: (rows,).
        steps: (rows,), the number of tokens sampled before this one.
        sampling: the same for all rows.
        exempt: tokens that are never penalised.

    Uses the Gumbel-max trick: argmax of log-probability plus Gumbel noise is an exact sample. The noise of a token is a
    hash of (seed, step, token), so there is no generator with a state that depends on the batch, and a rounding error
    matters only if two tokens are almost equally good.
    """
    logits = penalised(logits, seen, sampling.repetition_penalty, exempt)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    scores, tokens = logits.topk(kept)
    scores = scores / sampling.temperature
    probabilities = scores.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    before[:, 0] = 0  # keeps the likeliest token in spite of rounding
    scores = scores.masked_fill(before >= sampling.top_p, -torch.inf)
    drawn = (scores + gumbel(seeds, steps, tokens)).argmax(-1, keepdim=True)
    return tokens.gather(-1, drawn).squeeze(-1)


def penalised(logits: Tensor, seen: Tensor, penalty: float, exempt: Tensor) -> Tensor:
    """The logits, with those of tokens in `seen` divided by the penalty if positive and multiplied by it if negative.

    Tokens that end a turn should be exempt: the template writes them into every prompt, so a penalty on them would make
    answers run on until the token limit.
    """
    if penalty == 1:
        return logits
    values = logits.gather(-1, seen)
    changed = logits.scatter(-1, seen, torch.where(values < 0, values * penalty, values / penalty))
    changed[:, exempt] = logits[:, exempt]
    return changed


def gumbel(seeds: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise (rows, candidates) for candidate `tokens`; depends only on (seed, step, token)."""
    streams = _mixed(seeds + (steps + 1) * _GOLDEN)
    bits = _mixed(streams[:, None] + (tokens + 1) * _GOLDEN)
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52  # 52 bits: never exactly 0 or 1
    return -torch.log(-torch.log(uniform))


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64 on int64, where products wrap."""
    z = (z ^ _shifted(z, 30)) * -4658895280553007687
    z = (z ^ _shifted(z, 27)) * -7723592293110705685
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
