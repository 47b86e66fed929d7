"""What the transformers engine does to logits and vLLM does not: stop tokens without a penalty, objects that are closed.

vLLM penalises every token of the prompt, and the prompt has the tokens that end turns (`sampling.penalised` says why they
must be left alone). A penalty keeps the sign of a logit, so the same step undoes it before or after: multiply if positive,
divide if negative. And vLLM cuts an object that runs out of tokens (`grammar.Grammars.rule_out`).

vLLM has two interfaces for changes of logits, both called after its grammar. Its older model runner calls them before the
penalty, its newer one (`use_v2_model_runner`) after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from .grammar import PREFERRED
from .vllm_arguments import CLOSE_AT, QUOTES, UNPENALISED

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as NewLogitsProcessor
except ImportError:  # an older version, whose newer runner is not the default
    NewLogitsProcessor = object

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

Exempt = tuple[float, tuple[int, ...]]
"""A row's penalty, and the tokens of its prompt that it must not reach."""


def exempt(parameters: SamplingParams) -> Exempt | None:
    """What a request says of its penalty; None if nothing has to be undone."""
    tokens = (parameters.extra_args or {}).get(UNPENALISED)
    return (parameters.repetition_penalty, tuple(tokens)) if tokens else None


def close_at(parameters: SamplingParams) -> int | None:
    """Tokens of prompt and text from which on a request's object is to be closed; None if it follows no schema."""
    found: int | None = (parameters.extra_args or {}).get(CLOSE_AT)
    return found


def processor(config: VllmConfig) -> str:
    """The processor for the model runner that vLLM will use, as `<module>:<class>`."""
    # Where the newer runner takes no processors, vLLM takes the older one as soon as it is given one.
    newer = NewLogitsProcessor is not object and getattr(config, "use_v2_model_runner", False)
    return f"{__name__}:{(ForNewerRunner if newer else ForOlderRunner).__name__}"


class Factors:
    """By how much the penalty of each row must be undone for each token."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows: dict[int, Exempt] = {}
        self._count = rows
        self._device = device
        self.changed()

    def changed(self) -> None:
        """To be called after a change of `rows`."""
        self._tokens = sorted({token for _, tokens in self.rows.values() for token in tokens})
        factors = torch.ones(self._count, len(self._tokens))
        for row, (penalty, tokens) in self.rows.items():
            factors[row, [self._tokens.index(token) for token in tokens]] = penalty
        self._factors = factors.to(self._device)
        self._columns = torch.tensor(self._tokens, dtype=torch.long, device=self._device)

    def undo(self, logits: Tensor, rows: Tensor | slice) -> None:
        """Change the logits (rows, vocabulary) in place; `rows` says which row each of them is."""
        if self._tokens:
            values, factors = logits[:, self._columns], self._factors[rows]
            logits[:, self._columns] = torch.where(values > 0, values * factors, values / factors).to(logits.dtype)


class ForOlderRunner(LogitsProcessor):  # type: ignore[misc]
    """For the older model runner, whose logits are in the order of its batch."""

    def __init__(self, config: VllmConfig, device: torch.device, _pinned: bool) -> None:
        self._factors = Factors(config.scheduler_config.max_num_seqs, device)
        self._quotes = torch.tensor(config.additional_config[QUOTES], dtype=torch.long, device=device)
        self._closing: dict[int, tuple[int, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """A penalty can change which token is the likeliest."""
        return False

    def update_state(self, update: Any) -> None:
        """Follow rows that come, go and move."""

        def closing(parameters: SamplingParams, prompt: list[int], text: list[int]) -> tuple[int, list[int]] | None:
            # vLLM appends to the text as it samples.
            return (at - len(prompt), text) if (at := close_at(parameters)) is not None else None

        process_dict_updates(self._closing, update, closing)
        if process_dict_updates(self._factors.rows, update, lambda parameters, *_: exempt(parameters)):
            self._factors.changed()

    def apply(self, logits: Tensor) -> Tensor:
        """Undo the penalty that follows, and close objects."""
        self._factors.undo(logits, slice(len(logits)))
        for row, (limit, text) in self._closing.items():
            if len(text) >= limit:
                logits[row, self._quotes] += PREFERRED
        return logits


class ForNewerRunner(NewLogitsProcessor):  # type: ignore[misc]
    """For the newer model runner, where a row keeps its place and logits come in any order."""

    def __init__(self, config: VllmConfig, states: Any) -> None:
        self._factors = Factors(states.max_num_reqs, states.device)
        self._quotes = torch.tensor(config.additional_config[QUOTES], dtype=torch.long, device=states.device)
        self._closing: dict[int, int] = {}
        self._limits: Tensor | None = None
        self._stale = True
        self._places, self._device = states.max_num_reqs, states.device

    def add_request(self, place: int, parameters: SamplingParams) -> bool:
        """A row takes a place, where another may have been."""
        self._stale = True
        for rows, found in ((self._factors.rows, exempt(parameters)), (self._closing, close_at(parameters))):
            rows.pop(place, None)
            if found is not None:
                rows[place] = found  # type: ignore[assignment]
        return place in self._factors.rows or place in self._closing

    def apply_staged_writes(self) -> None:
        """Called once a step, before the forward pass."""
        if self._stale:
            self._factors.changed()
            limits = torch.full((self._places,), torch.iinfo(torch.int64).max)
            for place, limit in self._closing.items():
                limits[place] = limit
            self._limits = limits.to(self._device) if self._closing else None
            self._stale = False

    def apply(self, logits: Tensor, context: Any) -> Tensor:
        """Undo the penalty that came before, and close objects."""
        places = context.expanded_idx_mapping
        self._factors.undo(logits, places)
        if self._limits is not None:
            # `pos` is the place of the token before the one that is sampled.
            ending = context.pos + 1 >= self._limits[places]
            logits[:, self._quotes] += PREFERRED * ending[:, None].to(logits.dtype)
        return logits
