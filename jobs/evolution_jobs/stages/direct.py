"""The request for a direct answer to a context: the prompt that generate, evaluate and inference share."""

from __future__ import annotations

from ..contract.rows import Context
from ..contract.settings import SamplingSettings
from ..engines.base import Request, Sampling
from ..preference.prompts import answer_messages


def direct_request(
    context: Context,
    settings: SamplingSettings,
    *,
    id: str,
    seed: int,
    sampling: Sampling | None = None,
    extended: bool = True,
) -> Request:
    """The model answers the context as at inference, by default sampled as `settings` say; `id` names the response."""
    return Request(
        id=id,
        messages=answer_messages(context.turns),
        sampling=sampling or Sampling.of(settings),
        seed=seed,
        max_new_tokens=settings.max_new_tokens,
        max_prompt_tokens=settings.max_prompt_tokens,
        extended=extended,
    )
