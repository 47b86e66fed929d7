"""How a trained model ranks pairs that it has not learnt from, against its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..chat.chats import Passage
from ..metrics.perplexity import answer_losses
from .encoding import Preference
from .reference import REFERENCE

if TYPE_CHECKING:
    from peft import PeftModel

TOKEN_BUDGET = 8192
"""Tokens of a forward pass, padding included."""


def margins(
    model: PeftModel, pairs: Sequence[Preference], beta: float, check_stop: Callable[[], None] = lambda: None
) -> list[float]:
    """The reward of chosen less that of rejected for each pair, under the model's adapter and its reference's.

    A reward is `beta` times the log-ratio of policy and reference, as in the loss (Rafailov et al. 2023, section 4).
    `check_stop` is called after each forward pass and may raise.
    """
    model.eval()
    policy = _preferred(model, pairs, check_stop)
    model.set_adapter(REFERENCE)
    try:
        reference = _preferred(model, pairs, check_stop)
    finally:
        model.set_adapter("default")
    return [beta * (after - before) for after, before in zip(policy, reference, strict=True)]


def _preferred(model: PeftModel, pairs: Iterable[Preference], check_stop: Callable[[], None]) -> list[float]:
    """By how many nats each chosen answer is likelier than its rejected one."""
    passages = [Passage(pair.prompt_ids, answer) for pair in pairs for answer in (pair.chosen_ids, pair.rejected_ids)]
    losses = [0.0] * len(passages)
    # The whole model, not the base model in it: of a model that is spread over ranks, only the whole one gathers its weights.
    for batch in answer_losses(model, passages, TOKEN_BUDGET):
        check_stop()
        for position, nll in batch:
            losses[position] = nll
    return [rejected - chosen for chosen, rejected in zip(losses[::2], losses[1::2], strict=True)]
