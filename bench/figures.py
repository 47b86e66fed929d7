"""One line of JSON for each figure: a ratio of ours to a peer, both measured in one run."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence


def device() -> str:
    """The GPU, or the cores of the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def figure(name: str, ours: Sequence[float], peer: Sequence[float], unit: str, goal: float, **more: object) -> None:
    """Print the medians over the rounds, and the median ratio. For rates: more is better, unless `better` says `less`."""
    ratio = statistics.median(own / other for own, other in zip(ours, peer, strict=True))
    line = {
        "name": name,
        "ours": float(f"{statistics.median(ours):.4g}"),
        "peer": float(f"{statistics.median(peer):.4g}"),
        "ratio": round(ratio, 3),
        "goal": goal,
        "unit": unit,
        "rounds": len(ours),
        "device": device(),
        "command": " ".join(
            ["python", "-m", f"bench.{sys.argv[0].rpartition('/')[2].removesuffix('.py')}", *sys.argv[1:]]
        ),
        **more,
    }
    print(json.dumps(line), flush=True)
