"""Draw the next token of each row of a batch, each row from a random stream of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Sampling

_GOLDEN = -7046029254386353131
"""0x9E3779B97F4A7C15 as a signed 64-bit integer: the increment of SplitMix64 (Steele et al., OOPSLA 2014)."""


def next_tokens(logits: Tensor, seen: Tensor, seeds: Tensor, step: int, sampling: Sampling, exempt: Tensor) -> Tensor:
    """The next token of every row, (rows,).

    `logits` is (rows, vocabulary) in float32, -inf where a token is ruled out; `seen` (rows, length) holds the tokens
    so far, in columns that are padding any of that row's tokens; `seeds` is (rows,); `step` counts the row's tokens;
    `exempt` holds tokens that are never penalised.

    Drawn with the Gumbel-max trick: argmax of log-probability plus Gumbel noise is an exact sample. The noise of a
    token is a hash of (seed, step, token), so there is no generator whose state depends on the batch, and a rounding
    error matters only where two tokens are all but level.
    """
    logits = penalised(logits, seen, sampling.repetition_penalty, exempt)
    if sampling.temperature == 0:
        return logits.argmax(-1)
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    scores, tokens = logits.topk(kept)
    scores = scores / sampling.temperature
    probabilities = scores.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    before[:, 0] = 0  # the likeliest token stays, whatever the rounding
    scores = scores.masked_fill(before >= sampling.top_p, -torch.inf)
    drawn = (scores + gumbel(seeds, step, tokens)).argmax(-1, keepdim=True)
    return tokens.gather(-1, drawn).squeeze(-1)


def penalised(logits: Tensor, seen: Tensor, penalty: float, exempt: Tensor) -> Tensor:
    """Logits of tokens that occur in `seen` divided by the penalty where positive, multiplied where negative.

    The tokens that end a turn are to be exempt: they stand in every prompt because the template puts them there, and
    penalised they let answers ramble until the token limit.
    """
    if penalty == 1:
        return logits
    values = logits.gather(-1, seen)
    changed = logits.scatter(-1, seen, torch.where(values < 0, values * penalty, values / penalty))
    changed[:, exempt] = logits[:, exempt]
    return changed


def gumbel(seeds: Tensor, step: int, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise (rows, candidates) for candidate `tokens`, a function of (seed, step, token) alone."""
    streams = _mixed(seeds + torch.full_like(seeds, step + 1) * _GOLDEN)
    bits = _mixed(streams[:, None] + (tokens + 1) * _GOLDEN)
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52  # 52 bits: never exactly 0 or 1
    return -torch.log(-torch.log(uniform))


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64 on int64, whose products wrap."""
    z = (z ^ _shifted(z, 30)) * -4658895280553007687
    z = (z ^ _shifted(z, 27)) * -7723592293110705685
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shift to the right without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
