"""Sampling and scoring with vLLM. Works with vLLM 0.19 to 0.33."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import vllm
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from ..chat.chats import Passage
from ..contract.rows import Response
from ..contract.settings import SamplingSettings
from ..metrics.perplexity import sequences
from .base import Request
from .feed import Feed
from .grammar import shortest
from .vllm_arguments import sampling_arguments, scoring_arguments
from .vllm_errors import out_of_memory
from .vllm_load import Loaded, load

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

PART = 128
"""Rows of a part. A stage makes a quarter of them durable at a time."""


class VllmEngine:
    """An `Engine` over one model in vLLM, which makes its own batches and shares the states of common prefixes."""

    def __init__(self, loaded: Loaded, block: str, check_stop: Callable[[], None] = lambda: None) -> None:
        """`block` is the stage's block of the run file; `check_stop` is called between steps and may raise."""
        self.name = f"vllm {vllm.__version__}"
        self.chats = loaded.tokens.chats
        # To score a passage, vLLM wants to sample a token after it.
        self.positions: int | None = loaded.length - 1
        self._loaded = loaded
        self._block = block
        self._check_stop = check_stop
        seats = loaded.engine.vllm_config.scheduler_config.max_num_seqs
        # Some wait in vLLM, so that no place is ever empty. Few, so that a prefix is still there when its row's turn comes.
        self._limit: int = seats + seats // 4
        self._ids = count()
        self._running: dict[str, Any] = {}
        self._feed = Feed(self)

    @classmethod
    def load(
        cls,
        reference: Path | str,
        adapter: Path | None,
        settings: SamplingSettings,
        block: str,
        *,
        scores: bool,
        others: Sequence[SamplingSettings] = (),
        check_stop: Callable[[], None] = lambda: None,
    ) -> VllmEngine:
        """An engine over a model directory or reference with its adapter. Raises as `vllm_load.load` does."""
        return cls(load(reference, adapter, settings, block, scores=scores, others=others), block, check_stop)

    def batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Requests by part, in their order: those of one dialogue follow each other and share its history's states."""
        announced = list(requests)
        self._feed.announce(announced)
        for start in range(0, len(announced), PART):
            yield announced[start : start + PART]

    def generate(
        self, requests: Iterable[Request], follow: Callable[[Response], Request | None] | None = None
    ) -> Iterator[Response]:
        """One response a request, as rows end, and one for each request that `follow` returns for a response.

        Raises PermanentError (`PromptTooLong`, `ChatTemplate`) and TransientError (`OutOfMemory`).
        """
        return self._feed.responses(requests, follow)

    def answer_losses(self, passages: Sequence[Passage]) -> Iterator[tuple[int, float]]:
        """Each passage's position and loss. Passages that begin alike are scored together, as in `metrics.perplexity`.

        To be called while no row is sampled. Raises TransientError (`OutOfMemory`).
        """
        waiting = sequences(passages)
        while waiting or self._running:
            while waiting and self.room():
                sequence = waiting.pop(0)
                self._add(sequence.tokens, scoring_arguments(), sequence.members)
            for members, output in self._step():
                for position in members:
                    prompt, answer = passages[position]
                    scored = enumerate(answer, len(prompt))
                    yield position, -sum(output.prompt_logprobs[at][token].logprob for at, token in scored)

    def close(self) -> None:
        """Give back what vLLM can. In one process it may keep part of its memory (vllm-project/vllm pull 46023)."""
        self._loaded.engine.engine_core.shutdown()
        del self._loaded, self._feed
        gc.unfreeze()  # vLLM froze what it had loaded
        gc.collect()
        torch.cuda.empty_cache()

    def room(self) -> int:
        """How many more sequences vLLM is to have now."""
        return self._limit - len(self._running)

    def start(self, request: Request) -> None:
        """Give vLLM a request."""
        prompt, truncated = self._loaded.tokens.prompt(request)
        # Twice as many as the shortest object needs: the model may spell keys in more tokens than the tokenizer.
        reserve = 2 * shortest(self._loaded.tokenizer, request.schema) + 1 if request.schema else 0
        arguments = sampling_arguments(request, prompt, self._loaded.tokens.stops, reserve)
        if request.schema is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(json=request.schema)
        self._add(prompt, arguments, (request, truncated))

    def step(self) -> list[tuple[Request, Response]]:
        """Sample a token of each row. Returns the rows that have ended."""
        return [
            (request, self._loaded.tokens.response(request, list(output.outputs[0].token_ids), truncated))
            for (request, truncated), output in self._step()
        ]

    def _add(self, tokens: list[int], arguments: dict[str, Any], subject: object) -> None:
        parameters = SamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
        id_ = str(next(self._ids))
        with self._explained():
            self._loaded.engine.add_request(
                id_, {"prompt_token_ids": tokens}, parameters, lora_request=self._loaded.adapter
            )
        self._running[id_] = subject

    def _step(self) -> list[tuple[Any, RequestOutput]]:
        self._check_stop()
        with self._explained():
            outputs = self._loaded.engine.step()
        return [(self._running.pop(output.request_id), output) for output in outputs if output.finished]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (short := out_of_memory(error, self._block)) is not None:
                raise short from error
            raise
