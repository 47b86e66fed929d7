"""Sampling with Hugging Face transformers, in this process."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor

from ..chat.chats import Passage
from ..contract.locations import Quantization
from ..contract.rows import Response
from ..contract.settings import Precision
from ..metrics.perplexity import answer_losses
from ..models.load import load_model, load_tokenizer
from ..models.positions import longest
from .base import Follow, Request, Sampling, Watch
from .batch import Batch, merged
from .chat import ChatTokens
from .grammar import Grammars
from .prefill import rounds
from .row import Row, admitted, batched, kindred, padded
from .sampling import next_tokens
from .states import Hit, Prefixes, empty_cache, filled, reusable

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


PART = 4
"""How many times the token budget the requests of a part have. The batch runs empty only at the end of a part."""

REGROUPED = 4
"""A batch is regrouped once one row in so many has ended or can join it: each time, its states are copied."""


class TransformersEngine:
    """An `Engine` over one model: rows leave the batch as they end, others take their place, prefixes are computed once.

    `generate` of transformers keeps a row until the last row of the batch has ended, and then drops the states. Its
    continuous batching has no repetition penalty. So the loop is our own and the forward pass is the library's.
    bench/generation.py measures what that saves.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_budget: int) -> None:
        """`token_budget` limits rows x (longest prompt + tokens to sample) sampled at a time, and the tokens of kept prefixes."""
        self.name = f"transformers {transformers.__version__}"
        self.positions = longest(model.config.to_dict())
        self._model = model
        self._tokenizer = tokenizer
        self._budget = token_budget
        self._tokens = ChatTokens(tokenizer, model.generation_config, self.positions)
        self.chats = self._tokens.chats
        self._stops = self._tokens.stops
        self._vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self._exempt = self._tensor(sorted(self._stops))
        self._grammars: Grammars | None = None
        self._prefixes = Prefixes(token_budget) if reusable(self._empty_cache()) else None

    @classmethod
    def load(
        cls,
        reference: Path | str,
        adapter: Path | None,
        precision: Precision,
        token_budget: int,
        quantization: Quantization | None = None,
    ) -> TransformersEngine:
        """An engine over a model directory or reference with its adapter. Raises as `models.load` does."""
        model = load_model(reference, adapter, precision, quantization=quantization)
        return cls(model, load_tokenizer(reference), token_budget)

    def batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Requests by part, longest first, and those that share a history together: little is padding or computed twice."""
        for rows in batched(kindred(map(self._row, requests)), PART * self._budget):
            yield [row.request for row in rows]

    def answer_losses(self, passages: Sequence[Passage]) -> Iterator[tuple[int, float]]:
        """Each passage's position and loss, as `metrics.perplexity.answer_losses` gives them."""
        for batch in answer_losses(self._model, passages, self._budget):
            yield from batch

    def close(self) -> None:
        """Give back the model's memory and that of kept prefixes."""
        del self._model
        self._prefixes = None
        gc.collect()
        torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(
        self, requests: Iterable[Request], follow: Follow | None = None, watch: Watch | None = None
    ) -> Iterator[Response]:
        """One response a request, as rows end. Raises PermanentError (`PromptTooLong`, `ChatTemplate`)."""
        waiting = deque(kindred(map(self._row, requests)))
        batch = self._empty_batch()
        while waiting or batch.going:
            if (joining := self._joining(batch, waiting)) is not None:
                batch = self._regrouped(batch, [waiting.popleft() for _ in range(joining)])
            tokens = self._sampled(batch)
            for place, (row, token) in enumerate(zip(batch.rows, tokens.tolist(), strict=True)):
                if row.ended:
                    continue
                row.accept(token)
                row.ended = self._ends(row)
                if row.ended:
                    if row.request.extended:
                        self._keep(row.tokens[:-1], batch.cache, place)
                    response = self._response(row)
                    if follow and (request := follow(response)):
                        waiting.appendleft(self._row(request))
                    yield response
                elif watch:
                    watch(self._response(row))
            if batch.going:
                batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], -1)
                batch.seen = torch.cat([batch.seen, tokens[:, None]], -1)
                batch.logits = self._logits(tokens[:, None], batch.mask, batch.cache)

    def _row(self, request: Request) -> Row:
        return Row(request, *self._tokens.prompt(request))

    def _response(self, row: Row) -> Response:
        return self._tokens.response(row.request, row.sampled, row.truncated_turns)

    def _joining(self, batch: Batch, waiting: Iterable[Row]) -> int | None:
        """The number of rows that join the batch if it is regrouped now; None if it goes on as it is."""
        going = [batch.rows[place] for place in batch.going]
        # States that cannot be copied row by row stay in the batch that they were computed in.
        joining = 0 if self._prefixes is None and going else admitted(going, waiting, self._budget)
        changed = max(joining, len(batch.rows) - len(going))
        return joining if not going or changed >= max(1, len(going) // REGROUPED) else None

    def _regrouped(self, batch: Batch, joining: list[Row]) -> Batch:
        """The batch without the rows that have ended and with others."""
        for row in joining:
            if row.request.schema is not None:
                row.following = self._constraints.follow(row.request.schema, row.request.max_new_tokens)
        if self._prefixes is None:
            return batch.without_ended() if batch.going else self._computed(joining)
        parts = self._prefilled(joining)
        if not batch.going and len(parts) == 1:
            return parts[0]
        return merged([batch, *parts], self._empty_cache())

    def _sampled(self, batch: Batch) -> Tensor:
        """The next token of every row, (rows,); of a row that has ended, any token."""
        tokens = batch.seen[:, -1].clone()
        ways: dict[Sampling, list[int]] = {}
        for place in batch.going:
            ways.setdefault(batch.rows[place].request.sampling, []).append(place)
        for sampling, places in ways.items():
            rows, logits = [batch.rows[place] for place in places], batch.logits[places]
            if following := [(index, row.following) for index, row in enumerate(rows) if row.following]:
                self._constraints.rule_out(logits, following)
            seeds = self._tensor([row.request.seed for row in rows])
            steps = self._tensor([len(row.sampled) for row in rows])
            tokens[places] = next_tokens(logits, batch.seen[places], seeds, steps, sampling, self._exempt)
        return tokens

    def _prefilled(self, rows: list[Row]) -> list[Batch]:
        """The rows as batches of their prompts."""
        parts = []
        for groups in rounds([row.prompt for row in rows], lambda index: self._known(rows[index]).tokens):
            computed = [self._computed([rows[index] for index in group]) for group in groups]
            for part in computed:
                for place, row in enumerate(part.rows):
                    self._keep(row.prompt, part.cache, place)
            parts += computed
        return parts

    def _computed(self, rows: list[Row]) -> Batch:
        """A batch of prompts; of each, the longest prefix whose states are kept is not computed again."""
        cache = self._empty_cache()
        seen, mask = (values.to(self._model.device) for values in padded(rows))
        known = [self._known(row) for row in rows] if self._prefixes else []
        columns = filled(cache, [row.prompt for row in rows], known) if known else 0
        return Batch(rows, cache, seen, mask, self._logits(seen[:, columns:], mask, cache))

    def _empty_batch(self) -> Batch:
        nothing = torch.empty(0, 0)
        return Batch([], self._empty_cache(), nothing, nothing, nothing)

    def _known(self, row: Row) -> Hit:
        assert self._prefixes is not None
        return self._prefixes.longest(row.prompt)

    def _keep(self, tokens: list[int], cache: DynamicCache, place: int) -> None:
        if self._prefixes:
            self._prefixes.add(tokens, cache, place)

    def _logits(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits after the last column, (rows, vocabulary) in float32."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self._model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _ends(self, row: Row) -> bool:
        return row.sampled[-1] in self._stops or len(row.sampled) == row.request.max_new_tokens

    @property
    def _constraints(self) -> Grammars:
        if self._grammars is None:
            self._grammars = Grammars(self._tokenizer, self._vocabulary, self._stops)
        return self._grammars

    def _empty_cache(self) -> DynamicCache:
        return empty_cache(self._model.config)

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, device=self._model.device)
