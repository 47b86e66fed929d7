"""Compare a training step with OpenMP threads that sleep while they wait, and with threads that spin.

    python bench/threads.py

Prints both times and their ratio, first alone on its cores and then with another busy process on one of them. That process
ends by itself.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

CORES = min(2, len(os.sched_getaffinity(0)))
STEPS = 20
ROUNDS = 3
STEP = f"""
import time, torch
torch.set_num_threads({CORES})
model = torch.nn.Sequential(*[torch.nn.Linear(576, 576) for _ in range(30)])
rows = torch.randn(256, 576)
def step():
    model(rows).pow(2).mean().backward()
step()
started = time.perf_counter()
for _ in range({STEPS}):
    step()
print((time.perf_counter() - started) / {STEPS})
"""
NEIGHBOUR = "import time\nends = time.monotonic() + 600\nwhile time.monotonic() < ends: pass"


def seconds(policy: str) -> float:
    """Seconds per step in a separate process."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    done = subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare(where: str) -> None:
    """Measure both in turn. Print the medians and their ratio."""
    pairs = [(seconds("ACTIVE"), seconds("PASSIVE")) for _ in range(ROUNDS)]
    spinning, asleep = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{where}: spinning {spinning:.3f} s, asleep {asleep:.3f} s a step: {spinning / asleep:.2f} times as long")


def main() -> None:
    """Compare alone on its cores, then next to a busy process."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    compare(f"{CORES} cores of its own")
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
    try:
        compare("a busy neighbour")
    finally:
        neighbour.kill()
        neighbour.wait()


if __name__ == "__main__":
    main()
