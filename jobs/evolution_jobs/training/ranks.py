"""The ranks that train together (torch.distributed), and what they tell each other.

trl, accelerate and transformers know nothing of the other ranks (`joined` hides the variables by which they would
notice), so none of them splits or scales anything a second time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..contract.errors import TransientError

HIDDEN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""Variables of torchrun by which accelerate and transformers find other ranks."""
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: one of them may be writing a checkpoint to a slow storage."""

Answer = TypeVar("Answer")


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that torchrun has started; alone without it. Raises TransientError `RankLost` if one is missing."""
    if "RANK" not in os.environ:
        yield Ranks()
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _heard(lambda: dist.init_process_group(backend, timeout=PATIENCE, rank=rank, world_size=count))
    for name in HIDDEN:
        os.environ.pop(name, None)
    try:
        yield Ranks()
    except RuntimeError as error:
        # Inside a sharded model's forward pass it is the library that talks to the others.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise _lost() from error
        raise


class Ranks:
    """The processes that train together, seen from one of them. Every method that returns no plain value of this rank
    must be called by all.
    """

    def __init__(self, lockstep: bool = False) -> None:
        """`lockstep`: all must run the model at the same time, because each has only a part of it."""
        self.lockstep = lockstep
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @property
    def first(self) -> bool:
        """Whether this rank writes what all have computed."""
        return self.rank == 0

    def own(self, place: int) -> bool:
        """Whether this rank computes the pass, or the batch, at this place."""
        return place % self.count == self.rank

    def spare(self, place: int, places: int) -> bool:
        """Whether this rank must run the last of so many passes beside the rank whose turn it is, and discard it.

        That is so in lockstep if the last round leaves it without a pass of its own.
        """
        return self.lockstep and place == places - 1 and 0 < places % self.count <= self.rank

    def share(self, rows: int, batch: int) -> int:
        """Rows of one pass: at most `batch`, divides the `rows` of a step, and leaves a pass for every rank."""
        most = min(batch, max(1, rows // self.count))
        return next(size for size in range(most, 0, -1) if rows % size == 0)

    def agreed(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All learn it at the same place, so none goes on alone."""
        return bool(self.summed([float(flag)])[0])

    def summed(self, values: Sequence[float]) -> list[float]:
        """Each value, added up over the ranks."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        _heard(lambda: dist.all_reduce(total))
        return [float(value) for value in total]

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Add up the gradients of all trainable weights, in place. A rank without a pass in this step adds nothing."""
        if self.count == 1:
            return
        trained = [weight for weight in weights if weight.requires_grad]
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        together = torch.cat([gradient.reshape(-1) for gradient in gradients])
        _heard(lambda: dist.all_reduce(together))
        for weight, part in zip(trained, torch.split(together, [each.numel() for each in trained]), strict=True):
            weight.grad = part.view_as(weight).clone()

    def gathered(self, document: Any) -> list[Any]:
        """Every rank's JSON document, by rank. As JSON, because pickle could run what another process sends."""
        if self.count == 1:
            return [document]
        mine = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        lengths = [int(length) for length in self._gathered(torch.tensor([len(mine)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(mine)] = mine
        found = zip(self._gathered(padded), lengths, strict=True)
        return [json.loads(bytes(text[:length].tolist())) for text, length in found]

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        found = [torch.empty_like(mine) for _ in range(self.count)]
        _heard(lambda: dist.all_gather(found, mine))
        return found

    def same_directory(self, directory: Path | None, target: Path) -> Path | None:
        """The first rank's directory of files on every rank, below `target` on the others; None if it has none.

        So all resume from one checkpoint, whatever each could read by itself. `directory` counts on the first rank only.
        """
        if self.count == 1:
            return directory
        files = sorted(directory.iterdir()) if self.first and directory is not None else []
        described = [[file.name, file.stat().st_size] for file in files] if self.first and directory else None
        listed: list[tuple[str, int]] | None = self.gathered(described)[0]
        if listed is None:
            return None
        for name, size in listed:
            content = torch.zeros(size, dtype=torch.uint8)
            if self.first and directory is not None and size:
                content = torch.frombuffer(bytearray((directory / name).read_bytes()), dtype=torch.uint8)
            _heard(lambda content=content: dist.broadcast(content, 0))  # type: ignore[misc]
            if not self.first:
                target.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(content.numpy().tobytes())
        return directory if self.first else target

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.summed([0.0])


def _heard(act: Callable[[], Answer]) -> Answer:
    """What `act` gives. Raises TransientError `RankLost` if another rank does not answer."""
    try:
        return act()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _lost() from error


def _lost() -> TransientError:
    return TransientError(
        "RankLost", "another process of this training has ended or does not answer, so this one ends, too"
    )
