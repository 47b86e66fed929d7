"""What SFT and DPO share around trl's trainers: checkpoints, progress, stopping."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import transformers
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from ..contract.errors import PermanentError, Terminated
from ..contract.workspace import Workspace
from .adapter import Tensors
from .checkpoint import read_adapter, read_best, read_optimizer, write_checkpoint
from .ranks import Ranks
from .steps import SharesSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

CURVE_POINTS = 200
"""Most points of a curve in a manifest."""


class Resumable(SharesSteps):
    """Mixed into a trl trainer: it saves through the workspace, and a resumed training ends as an uninterrupted one does.

    Rows come in the order of the data set, and every step seeds its own random numbers, so the step alone says
    where training continues. Methods that trl or transformers call have the names from there.
    """

    def attach(self: Any, workspace: Workspace, row_tokens: Sequence[int]) -> None:
        """Report and save through `workspace`. Call it before `train`. `row_tokens` are the rows' lengths, in order."""
        self.workspace = workspace
        self.ranks = Ranks(lockstep=workspace.spec.ranks.sharded)
        self.row_tokens = row_tokens
        self.best: Tensors | None = None
        """SFT: the adapter with the lowest validation loss so far."""
        self.saved_step = 0
        """Step of the newest checkpoint."""
        self.remove_callback(PrinterCallback)  # it prints on standard output
        self.add_callback(_Steps(self))

    def resume(self: Any) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises Terminated if the process is asked to stop, with a checkpoint saved; PermanentError `TrainingDiverged` if
        a loss or gradient is not a finite number.
        """
        found = self.workspace.checkpoints.latest() if self.ranks.first else None
        latest = self.ranks.same_directory(found, self.workspace.scratch / "resumed")
        self.train(resume_from_checkpoint=str(latest) if latest else None)

    def stop_if_asked(self: Any) -> None:
        """Save and raise Terminated if any rank is asked to stop. Only between steps, or inside one before its update.

        All ranks must call it at the same place.
        """
        if self.ranks.agreed(self.workspace.stopping):
            if self.state.global_step != self.saved_step:
                self._save_checkpoint(self.model, None)
            raise Terminated

    @property
    def trained_tokens(self: Any) -> int:
        """Tokens trained on so far, without padding. The prompt of a pair counts once."""
        rows = self.state.global_step * self.args.train_batch_size * self.args.gradient_accumulation_steps
        return sum(self.row_tokens[:rows])

    def history(self: Any, name: str) -> list[tuple[int, float]]:
        """(step, value) of a logged figure from the first step on, even if this process has only resumed."""
        return [(entry["step"], entry[name]) for entry in self.state.log_history if name in entry]

    def _send_telemetry(self) -> None:
        """Do nothing. By default, trl calls the hub at every start."""

    def _prepare_dataset(self, dataset: Any, *_arguments: Any, **_options: Any) -> Any:
        return dataset  # tokens already

    def _save_checkpoint(self: Any, _model: Any, _trial: Any) -> None:
        step = self.state.global_step
        if self.ranks.first:
            directory = self.workspace.scratch / "saved"
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            write_checkpoint(directory, self.model, self.best, self.optimizer, self.lr_scheduler)
            self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
            self.workspace.checkpoints.save(directory, step)
        # A rank that ends while another saves would have that one ended, too.
        self.ranks.wait()
        self.saved_step = step

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        read_adapter(Path(resume_from_checkpoint), self.model)
        self.best = read_best(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            read_optimizer(Path(checkpoint), self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Every step seeds its own."""


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Reports every step, checks its figures, and stops where it is asked to."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.saved_step = state.global_step
        self._trainer.workspace.loaded()
        self._trainer.workspace.progress(state.global_step, state.max_steps, "steps")

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.stop_if_asked()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # A step can take a minute on a CPU, longer than the grace that a stopping process has.
        if self._trainer.round_over:
            self._trainer.stop_if_asked()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.workspace.progress(state.global_step, state.max_steps, "steps")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float],
        **_: Any,
    ) -> None:
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise PermanentError(
                    "TrainingDiverged",
                    f"{name} is {logs[name]} at step {state.global_step} of {state.max_steps}: lower learningRate",
                )


@contextmanager
def whole_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Keep trl from rounding the adapter of a quantised model to bfloat16 while it makes its trainer.

    Most of a DPO update (learning rate 5e-6) is smaller than half a unit in the last place of a bfloat16 weight, and the
    policy would no longer begin as M(t-1).
    """
    quantised = getattr(model, "is_loaded_in_4bit", False)
    if quantised:
        model.is_loaded_in_4bit = False
    yield
    if quantised:
        model.is_loaded_in_4bit = True


def quiet() -> None:
    """Let the libraries print only errors: the runner uses standard output, and the workspace reports progress."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("trl").setLevel(logging.ERROR)


def thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The curve reduced to evenly spaced points, its first and last included, with values of five digits."""
    stride = max(1, math.ceil((len(curve) - 1) / (CURVE_POINTS - 1))) if len(curve) > 1 else 1
    kept = curve[::stride] + ([curve[-1]] if curve and (len(curve) - 1) % stride else [])
    return [(step, float(f"{value:.5g}")) for step, value in kept]
