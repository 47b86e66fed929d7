"""How far Mt has moved from M0: the Kullback-Leibler divergence on texts that M0 wrote to fixed contexts.

M0 samples a text for each context from its whole distribution, and every Mt says how likely it finds that text. The mean
of log M0(text) - log Mt(text) estimates KL(M0 || Mt). It would be without bias if a text were always cut into the tokens
that were sampled; it is cut anew, for both models in the same way. In this direction, it grows when Mt no longer says what
M0 would have said: that is what the loss of diversity looks like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..contract.rows import Context, Probe
from ..contract.settings import EvaluationSettings
from ..engines.base import Request, Sampling, row_seed
from ..metrics.drift import divergence
from .direct import direct_request
from .held_out import Finished, Outcome, Reading
from .jsonl import write_rows

WHOLE = Sampling(temperature=1, top_p=1, top_k=0, repetition_penalty=1)
"""From the model's own distribution, nothing cut off: only such texts estimate a divergence."""


class Probes:
    """M0's texts, and how likely M0 finds them."""

    kinds = ("probe", "probe-likelihood")

    def __init__(self, contexts: Sequence[Context], settings: EvaluationSettings, seed: int) -> None:
        self.contexts = contexts
        self._settings = settings
        self._seed = seed

    def request(self, context: Context) -> Request:
        """A text from M0's whole distribution."""
        seed = row_seed(self._seed, context.id, "probe")
        return direct_request(context, self._settings, id=f"{context.id}/probe", seed=seed, sampling=WHOLE)

    def reading(self, context: Context, finished: Finished) -> Reading | None:
        """The text, once it is there."""
        sampled = finished.get(f"{context.id}/probe")
        if sampled is None:
            return None
        return _reading(context, sampled["text"], sampled["finish"] == "length", sampled["truncated_turns"])

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """probes.jsonl."""
        file = directory / "probes.jsonl"
        probes = [_probe(context, finished) for context in self.contexts]
        write_rows(file, probes)
        return Outcome(
            outputs={"probes": file},
            counts={"probes": len(probes), "probes.tooLong": sum(probe.nll is None for probe in probes)},
            tokens=sum(finished[f"{context.id}/probe"]["tokens"] for context in self.contexts),
        )


class Drift:
    """How likely a later model finds M0's texts."""

    kinds = ("probe-likelihood",)

    def __init__(self, contexts: Sequence[Context], probes: Mapping[str, Probe]) -> None:
        self.contexts = [context for context in contexts if context.id in probes and probes[context.id].nll is not None]
        self._probes = probes

    def request(self, context: Context) -> None:
        """Nothing is sampled."""

    def reading(self, context: Context, finished: Finished) -> Reading:
        """M0's text."""
        probe = self._probes[context.id]
        return _reading(context, probe.text, probe.finish == "length", probe.truncated_turns)

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """The divergence."""
        rows = [
            (self._probes[context.id], finished[f"{context.id}/probe-likelihood"]["nll"]) for context in self.contexts
        ]
        return Outcome(figures=divergence([(probe, nll) for probe, nll in rows if nll is not None]))


def _reading(context: Context, text: str, cut: bool, truncated_turns: int) -> Reading:
    # After the turns that the text was written to: with more of them, it would be read in another distribution.
    read = context.model_copy(update={"human": text, "turns": context.turns[truncated_turns:]})
    return Reading(f"{context.id}/probe-likelihood", read, cut)


def _probe(context: Context, finished: Finished) -> Probe:
    sampled, likelihood = finished[f"{context.id}/probe"], finished[f"{context.id}/probe-likelihood"]
    return Probe(
        id=context.id,
        dialogue=context.dialogue,
        text=sampled["text"],
        finish=sampled["finish"],
        truncated_turns=sampled["truncated_turns"],
        nll=likelihood["nll"],
        nll_tokens=likelihood["tokens"],
    )
