"""An optimiser step on several ranks: which passes a rank computes, and the update that all of them make.

Every rank goes through the same rows in the same order and counts the same steps, but computes only every N-th pass of
a step. Before the update, gradients are added up over the ranks. Each pass is weighted by its share of the whole step
already (transformers counts a step's labels, `PreferenceTrainer` its pairs and chosen tokens, over all passes of the
step), so the sum is what one process computes. torch's DistributedDataParallel gives the mean over ranks of what each
rank weights by its own part: with 2, 2 and 1 pass on three ranks, or answers of different lengths, that is another
loss. An adapter is small, so one sum a step costs as much as its overlap with the backward pass would save.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class SharesSteps:
    """Mixed into a trl trainer, before it: each rank computes its own passes of a step, and all make the same update.

    Needs `ranks`. Methods have the names that transformers calls.
    """

    def get_batch_samples(self: Any, *given: Any, **options: Any) -> Any:
        """One optimiser step's passes, those of other ranks included, so that counts are of the whole step."""
        passes, items = super().get_batch_samples(*given, **options)  # type: ignore[misc]
        self._passes, self._place, self._own_loss = len(passes), 0, 0.0
        return passes, items

    def training_step(self: Any, model: Any, *given: Any, **options: Any) -> Tensor:
        """One pass: computed if it is this rank's, else of loss 0. The last one adds up gradients, loss and figures."""
        place = self._place
        self._place += 1
        # Dropout: one process draws a step's numbers pass after pass, which ranks at work side by side cannot.
        seed = self.args.seed * 1_000_003 + self.state.global_step
        if self.ranks.count > 1:
            torch.manual_seed(seed * 4099 + place)
        elif place == 0:
            torch.manual_seed(seed)
        loss = torch.zeros((), device=self.args.device)
        if self.ranks.own(place):
            loss = super().training_step(model, *given, **options)  # type: ignore[misc]
            self._own_loss += loss.detach().double()
        elif self.ranks.spare(place, self._passes):
            with _discarded(model, self._metrics["train"]):
                super().training_step(model, *given, **options)  # type: ignore[misc]
        if self._place == self._passes and self.ranks.count > 1:
            self.ranks.sum_gradients(model.parameters())
            own = float(self._own_loss)
            [whole] = self.ranks.summed([own])
            loss = loss + (whole - own)
            self._metrics["train"] = _merged(self.ranks.gathered(self._metrics["train"]))
        return loss

    @property
    def round_over(self: Any) -> bool:
        """Whether every rank has had its turn: here all may talk to each other without one waiting for another's pass."""
        return bool(self._place % self.ranks.count == 0)


@contextmanager
def _discarded(model: Any, figures: dict[str, list[float]]) -> Iterator[None]:
    """Run a pass without its effect on gradients and figures."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    gradients, before = [weight.grad for weight in trained], {name: list(each) for name, each in figures.items()}
    for weight in trained:
        weight.grad = None
    yield
    for weight, gradient in zip(trained, gradients, strict=True):
        weight.grad = gradient
    figures.clear()
    figures.update(before)


def _merged(figures: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The passes' figures in the order of the passes, as one process has them."""
    names = dict.fromkeys(name for each in figures for name in each)
    longest = {name: max(len(each.get(name, ())) for each in figures) for name in names}
    return _Figures(
        {
            name: [each[name][at] for at in range(longest[name]) for each in figures if at < len(each.get(name, ()))]
            for name in names
        }
    )


class _Figures(dict[str, list[float]]):
    """As trl's own: a list for every name."""

    def __missing__(self, name: str) -> list[float]:
        return self.setdefault(name, [])
