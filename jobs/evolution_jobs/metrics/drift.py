"""The divergence of a model from M0, from the likelihoods of texts that M0 has sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contract.figures import Figure
from ..contract.manifest import canonical_digest
from ..contract.rows import Probe
from .bootstrap import bootstrap, ratio
from .figure import figure_of

METHOD = (
    "KL(M0 || Mt) in nats a token: mean of log M0(text) - log Mt(text) over texts that M0 sampled from its whole "
    "distribution, divided by their mean number of tokens"
)


def divergence(rows: Sequence[tuple[Probe, float]]) -> list[Figure]:
    """The figure `kl_m0` from probes and the model's negative log-likelihoods of them, in nats; empty without rows.

    An estimate of a small divergence can be below zero.
    """
    if not rows:
        return []
    sums = np.array([(nll - (probe.nll or 0), probe.nll_tokens) for probe, nll in rows], float)
    probes = [probe for probe, _ in rows]
    estimate = bootstrap(sums, ratio, [probe.dialogue for probe in probes])
    return [
        figure_of(
            "kl_m0",
            estimate,
            rows=len(rows),
            row_set=canonical_digest([[probe.id, probe.text] for probe in probes]),
            method=METHOD,
        )
    ]
