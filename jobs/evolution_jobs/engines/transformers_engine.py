"""Sampling with Hugging Face transformers, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..chat.chats import Chats
from ..chat.thoughts import Thoughts, without_thoughts
from ..contract.rows import Response
from ..contract.settings import Precision
from ..models.load import load_model, load_tokenizer
from .base import Request
from .chat import prompt_tokens, stop_tokens
from .grammar import Following, Grammars
from .sampling import next_tokens
from .prefill import rounds
from .states import Hit, Prefixes, empty_cache, filled, joined, reusable

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class _BatchRow:
    """A request while it is sampled."""

    request: Request
    prompt: list[int]
    truncated_turns: int
    sampled: list[int] = field(default_factory=list)
    following: Following | None = None

    @property
    def room(self) -> int:
        return len(self.prompt) + self.request.max_new_tokens

    def accept(self, token: int) -> None:
        self.sampled.append(token)
        if self.following:
            self.following.accept(token)


class TransformersEngine:
    """An `Engine` over one model: static batches that rows leave as they end, and prefixes computed once.

    `generate` of transformers keeps a row until the last row of the batch has ended, and then drops the states. So the
    loop is our own and the forward pass is the library's. bench/generation.py measures what that saves.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_budget: int) -> None:
        """`token_budget` limits rows x (longest prompt + tokens to sample) of a batch, and the tokens of kept prefixes."""
        self._model = model
        self._tokenizer = tokenizer
        self._budget = token_budget
        config = model.config.get_text_config(decoder=True)
        self._positions: int = getattr(config, "max_position_embeddings", None) or 1 << 30
        self._chats = Chats.of(tokenizer)
        self._thoughts = Thoughts(tokenizer.backend_tokenizer)
        self._stops = stop_tokens(self._chats, tokenizer, model.generation_config)
        self._vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self._exempt = self._tensor(sorted(self._stops))
        self._grammars: Grammars | None = None
        self._prefixes = Prefixes(token_budget) if reusable(self._empty_cache()) else None

    @classmethod
    def load(
        cls, reference: Path | str, adapter: Path | None, precision: Precision, token_budget: int
    ) -> TransformersEngine:
        """An engine over a model directory or reference with its adapter. Raises as `models.load` does."""
        return cls(load_model(reference, adapter, precision), load_tokenizer(reference), token_budget)

    def batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Requests by batch, longest first: padding stays small, and memory runs out at the start or never."""
        for rows in self._batched(requests):
            yield [row.request for row in rows]

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """One response a request, as rows end. Raises PermanentError (`PromptTooLong`, `ChatTemplate`)."""
        for rows in self._batched(requests):
            yield from self._complete(rows)

    def _batched(self, requests: Iterable[Request]) -> Iterator[list[_BatchRow]]:
        rows = [_BatchRow(r, *prompt_tokens(self._chats, r, self._positions)) for r in requests]
        # All rows of a batch are sampled in the same way, and either all or none follow a schema.
        rows.sort(key=lambda row: (*_way(row), -row.room))
        for _, alike in groupby(rows, key=_way):
            batch: list[_BatchRow] = []
            for row in alike:
                if batch and batch[0].room * (len(batch) + 1) > self._budget:
                    yield batch
                    batch = []
                batch.append(row)
            yield batch

    @torch.inference_mode()
    def _complete(self, rows: list[_BatchRow]) -> Iterator[Response]:
        sampling = rows[0].request.sampling
        for row in rows:
            if row.request.schema is not None:
                row.following = self._constraints.follow(row.request.schema, row.request.max_new_tokens)
        rows, cache, logits = self._prefilled(rows)
        seen, mask = self._padded(rows)
        seeds = self._tensor([row.request.seed for row in rows])
        for step in count():
            following = [row.following for row in rows if row.following]
            if following:
                self._constraints.rule_out(logits, following)
            tokens = next_tokens(logits, seen, seeds, step, sampling, self._exempt)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                row.accept(token)
            going = [index for index, row in enumerate(rows) if not self._ended(row)]
            for index in sorted(set(range(len(rows))) - set(going)):
                if rows[index].request.extended:
                    self._keep(rows[index], rows[index].prompt + rows[index].sampled[:-1], cache, index)
                yield self._response(rows[index])
            if not going:
                return
            if len(going) < len(rows):
                kept = self._tensor(going)
                rows = [rows[index] for index in going]
                seeds, mask, seen, tokens = seeds[kept], mask[kept], seen[kept], tokens[kept]
                cache.batch_select_indices(kept)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
            seen = torch.cat([seen, tokens[:, None]], -1)
            logits = self._logits(tokens[:, None], mask, cache)

    def _prefilled(self, rows: list[_BatchRow]) -> tuple[list[_BatchRow], DynamicCache, Tensor]:
        """The rows in the cache's order, the cache of their prompts, padded on the left, and the next logits."""
        if self._prefixes is None:
            cache = self._empty_cache()
            return rows, cache, self._logits(*self._padded(rows), cache)
        order, parts, logits = [], [], []
        for groups in rounds([row.prompt for row in rows], lambda index: self._known(rows[index]).tokens):
            for group in groups:
                some = [rows[index] for index in group]
                part = self._empty_cache()
                seen, mask = self._padded(some)
                columns = filled(part, [row.prompt for row in some], [self._known(row) for row in some])
                logits.append(self._logits(seen[:, columns:], mask, part))
                order += some
                parts.append(part)
            for group, part in zip(groups, parts[-len(groups) :], strict=True):
                for place, index in enumerate(group):
                    self._keep(rows[index], rows[index].prompt, part, place)
        if len(parts) == 1:
            return order, parts[0], logits[0]
        cache = self._empty_cache()
        joined(cache, parts)
        return order, cache, torch.cat(logits)

    def _padded(self, rows: list[_BatchRow]) -> tuple[Tensor, Tensor]:
        """Tokens of the prompts, padded on the left, and their mask."""
        prompts = [row.prompt for row in rows]
        width = max(map(len, prompts))
        # Padded with a token that the row already has, so that padding does not change the repetition penalty.
        seen = self._tensor([[prompt[0]] * (width - len(prompt)) + prompt for prompt in prompts])
        return seen, self._tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def _known(self, row: _BatchRow) -> Hit:
        assert self._prefixes is not None
        return self._prefixes.longest(row.prompt)

    def _keep(self, row: _BatchRow, tokens: list[int], cache: DynamicCache, place: int) -> None:
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

    def _response(self, row: _BatchRow) -> Response:
        stopped = row.sampled[-1] in self._stops
        sampled = row.sampled[:-1] if stopped else row.sampled
        said = self._thoughts.left_out(sampled)
        text = without_thoughts(self._tokenizer.decode(said, skip_special_tokens=True))
        return Response(
            id=row.request.id,
            text=text.rest.strip(),
            finish="stop" if stopped else "length",
            tokens=len(row.sampled),
            truncated_turns=row.truncated_turns,
            thought=text.thought or len(said) < len(sampled),
        )

    def _ended(self, row: _BatchRow) -> bool:
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


def _way(row: _BatchRow) -> tuple[bool, float, float, int, float]:
    sampling = row.request.sampling
    drawing = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty)
    return (row.request.schema is not None, *drawing)
