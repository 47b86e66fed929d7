"""Sampling with Hugging Face transformers, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..chat.chats import Chats
from ..chat.thoughts import Thoughts, without_thoughts
from ..contract.rows import Response
from ..contract.settings import Precision
from ..models.load import load_model, load_tokenizer
from .base import Follow, Request, Sampling
from .chat import prompt_tokens, stop_tokens
from .grammar import Grammars
from .prefill import rounds
from .row import Row, admitted, batched, kindred, padded
from .sampling import next_tokens
from .states import Hit, Prefixes, empty_cache, filled, joined, reusable

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


PART = 4
"""How many times the token budget the requests of a part have. The batch runs empty only at the end of a part."""

REGROUPED = 4
"""A batch is regrouped once one row in so many has ended or can join it: each time, its states are copied."""


class TransformersEngine:
    """An `Engine` over one model: rows leave the batch as they end, others take their place, prefixes are computed once.

    `generate` of transformers keeps a row until the last row of the batch has ended, and then drops the states. So the
    loop is our own and the forward pass is the library's. bench/generation.py measures what that saves.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_budget: int) -> None:
        """`token_budget` limits rows x (longest prompt + tokens to sample) sampled at a time, and the tokens of kept prefixes."""
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
        """Requests by part, longest first, and those that share a history together: little is padding or computed twice."""
        for rows in batched(kindred(map(self._row, requests)), PART * self._budget):
            yield [row.request for row in rows]

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request], follow: Follow | None = None) -> Iterator[Response]:
        """One response a request, as rows end. Raises PermanentError (`PromptTooLong`, `ChatTemplate`)."""
        waiting = deque(kindred(map(self._row, requests)))
        rows: list[Row] = []
        cache, logits = self._empty_cache(), torch.empty(0)
        seen = mask = seeds = torch.empty(0, dtype=torch.long)
        while waiting or any(not row.ended for row in rows):
            if (joining := self._joining(rows, waiting)) is not None:
                added = [waiting.popleft() for _ in range(joining)]
                rows, cache, logits = self._regrouped(rows, cache, logits, added)
                seen, mask = (values.to(logits.device) for values in padded(rows))
                seeds = self._tensor([row.request.seed for row in rows])
            tokens = self._sampled(rows, logits, seen, seeds)
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                if row.ended:
                    continue
                row.accept(token)
                row.ended = self._ends(row)
                if row.ended:
                    if row.request.extended:
                        self._keep(row.tokens[:-1], cache, place)
                    response = self._response(row)
                    if follow and (request := follow(response)):
                        waiting.appendleft(self._row(request))
                    yield response
            if all(row.ended for row in rows):
                continue
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
            seen = torch.cat([seen, tokens[:, None]], -1)
            logits = self._logits(tokens[:, None], mask, cache)

    def _row(self, request: Request) -> Row:
        row = Row(request, *prompt_tokens(self._chats, request, self._positions))
        if request.schema is not None:
            row.following = self._constraints.follow(request.schema, request.max_new_tokens)
        return row

    def _joining(self, rows: list[Row], waiting: Iterable[Row]) -> int | None:
        """The number of rows that join the batch if it is regrouped now; None if it goes on as it is."""
        going = [row for row in rows if not row.ended]
        # States that cannot be copied row by row stay in the batch that they were computed in.
        fixed = self._prefixes is None and going
        joining = 0 if fixed else admitted(going, waiting, self._budget)
        changed = max(joining, len(rows) - len(going))
        return joining if not going or changed >= max(1, len(going) // REGROUPED) else None

    def _regrouped(
        self, rows: list[Row], cache: DynamicCache, logits: Tensor, added: list[Row]
    ) -> tuple[list[Row], DynamicCache, Tensor]:
        """The batch without the rows that have ended and with others: rows in the cache's order, cache, next logits."""
        going = [place for place, row in enumerate(rows) if not row.ended]
        staying = [rows[place] for place in going]
        if self._prefixes is None:
            if going:
                cache.batch_select_indices(self._tensor(going))
                return staying, cache, logits[going]
            cache = self._empty_cache()
            tokens, mask = (values.to(self._model.device) for values in padded(added))
            return added, cache, self._logits(tokens, mask, cache)
        joining, parts, first = self._prefilled(added)
        order = [*staying, *joining]
        whole = self._empty_cache()
        pieces = [
            (cache, going),
            *((part, range(len(next_logits))) for part, next_logits in zip(parts, first, strict=True)),
        ]
        joined(whole, pieces, max(len(row.tokens) for row in order))
        return order, whole, torch.cat([*([logits[going]] if going else []), *first])

    def _sampled(self, rows: list[Row], logits: Tensor, seen: Tensor, seeds: Tensor) -> Tensor:
        """The next token of every row, (rows,); of a row that has ended, any token."""
        tokens = seen[:, -1].clone()
        ways: dict[Sampling, list[int]] = {}
        for place, row in enumerate(rows):
            if not row.ended:
                ways.setdefault(row.request.sampling, []).append(place)
        for sampling, places in ways.items():
            some = logits[places]
            following = [(place, each) for place, row in enumerate(places) if (each := rows[row].following)]
            if following:
                self._constraints.rule_out(some, following)
            steps = self._tensor([len(rows[place].sampled) for place in places])
            tokens[places] = next_tokens(some, seen[places], seeds[places], steps, sampling, self._exempt)
        return tokens

    def _prefilled(self, rows: list[Row]) -> tuple[list[Row], list[DynamicCache], list[Tensor]]:
        """The rows in the order of the caches, the caches of their prompts, and the next logits of each."""
        order, parts, logits = [], [], []
        for groups in rounds([row.prompt for row in rows], lambda index: self._known(rows[index]).tokens):
            computed = []
            for group in groups:
                some = [rows[index] for index in group]
                part = self._empty_cache()
                tokens, mask = (values.to(self._model.device) for values in padded(some))
                columns = filled(part, [row.prompt for row in some], [self._known(row) for row in some])
                logits.append(self._logits(tokens[:, columns:], mask, part))
                order += some
                computed.append(part)
            for group, part in zip(groups, computed, strict=True):
                for place, index in enumerate(group):
                    self._keep(rows[index].prompt, part, place)
            parts += computed
        return order, parts, logits

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

    def _response(self, row: Row) -> Response:
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
