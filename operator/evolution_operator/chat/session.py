"""The models of a chat, loaded: one with its adapter as the stages load it, or two that share the base model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from evolution_jobs.contract.rows import Context, Response, Turn
from evolution_jobs.contract.settings import SamplingSettings

from ..results.choice import BASE
from ..results.weights import Weights

if TYPE_CHECKING:
    from evolution_jobs.engines.transformers_engine import TransformersEngine
    from peft import PeftModel

Watch = Callable[[Response], None]


class Session:
    """Loaded models by name. The prompt, its truncation and the sampling are those of generate and evaluate."""

    def __init__(self, engines: Mapping[str, TransformersEngine], switch: PeftModel | None, device: str) -> None:
        """`switch` is the model whose adapters change between answers; None if there is one model."""
        self._engines = engines
        self._switch = switch
        self.device = device
        """Where the models run, and in which precision: `cpu, float32`."""

    @classmethod
    def load(cls, weights: Weights, names: Sequence[str], sampling: SamplingSettings) -> Session:
        """Load the models of these names; `base` is the base model. Raises as `models.load` does."""
        from evolution_jobs.engines.transformers_engine import TransformersEngine
        from evolution_jobs.models.load import load_model, load_tokenizer, with_adapter

        reference, quantization = weights.base()
        adapters = {name: weights.adapter(name) for name in names if name != BASE}
        tokenizer = load_tokenizer(reference)
        own: Path | None = next(iter(adapters.values()), None) if len(names) == 1 else None
        model = load_model(reference, own, sampling.precision, quantization=quantization)
        switch = None
        if len(names) > 1:
            for name, adapter in adapters.items():
                switch = with_adapter(switch or model, adapter, name=name)
            assert switch is not None
            switch.eval()
        engines = {name: TransformersEngine(switch or model, tokenizer, sampling.token_budget) for name in names}
        where = f"{model.device.type}, {str(model.dtype).removeprefix('torch.')}"
        return cls(engines, switch, where)

    def answer(
        self,
        name: str,
        turns: Sequence[Turn],
        sampling: SamplingSettings,
        seed: int,
        watch: Watch | None = None,
    ) -> Response:
        """The model's answer to these turns. `watch` sees the response so far after each token.

        Raises PermanentError (`PromptTooLong`, `ChatTemplate`), and what `watch` raises.
        """
        from evolution_jobs.stages.direct import direct_request

        context = Context(id="chat", dialogue="chat", turns=list(turns), human="")
        request = direct_request(context, sampling, id="chat", seed=seed)
        with self._speaking(name):
            (response,) = self._engines[name].generate([request], watch=watch)
        return response

    @contextmanager
    def _speaking(self, name: str) -> Iterator[None]:
        if self._switch is None:
            yield
            return
        if name != BASE:
            self._switch.set_adapter(name)
        with self._switch.disable_adapter() if name == BASE else nullcontext():
            yield
