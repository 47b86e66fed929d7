"""The driver's counter of a real GPU."""

from __future__ import annotations

import pytest
import torch
from evolution_jobs.attempt.spent import Spent, counters, held

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
MOST_WATTS = 2000.0
"""More than any GPU draws."""


def test_a_gpu_at_work_uses_energy() -> None:
    square = torch.rand(4096, 4096, device="cuda")
    if None in (known := counters()).values() or not held(known):
        pytest.skip("these GPUs do not count their energy")
    spent = Spent()
    # The driver moves its counter only ten times a second or so; the test's own time limit ends the loop.
    while (joules := spent.joules()) is None:
        (square @ square).sum().item()
    # The first step of the counter may have begun before.
    assert 0 < joules < MOST_WATTS * torch.cuda.device_count() * (spent.seconds() + 1)
