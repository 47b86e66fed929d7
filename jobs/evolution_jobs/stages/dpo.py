"""dpo: trains M(t-1)'s adapter towards chosen and away from rejected, which gives Mt (arXiv 2505.16610, section 3).

The loss is sigmoid DPO plus the SFT loss on chosen. The reference is M(t-1), as in the paper, or what `dpo.reference`
declares; the stage refuses to train against any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from safetensors.torch import load_file

from ..contract.errors import PermanentError
from ..contract.figures import Interval
from ..contract.rows import Pair, dialogue_of
from ..contract.settings import DpoSettings, ReferenceModel
from ..contract.workspace import Result, Workspace
from ..engines.base import row_seed
from ..metrics.bootstrap import figures
from ..metrics.pairs import ranking_estimates
from ..models.load import load_model, load_tokenizer, placement
from ..models.positions import longest, require_positions
from ..store.base import file_sha256
from ..training.adapter import WEIGHTS, Tensors, adapter_tensors, require_learnt, save_adapter
from ..training.encoding import ChatEncoder, Preference
from ..training.held_out import margins
from ..training.preference import PreferenceTrainer, preference_trainer
from ..training.reference import without_effect
from ..training.sharding import held_weights, shard
from ..training.trainer import quiet, thinned
from .jsonl import read_rows
from .models import base_model, quantization

if TYPE_CHECKING:
    from peft import PeftModel


SEEDS = 2**63
"""`row_seed` is below this."""
NONE_HELD_OUT = (
    "dpo.heldOut: no dialogue with pairs is held out, so no margin is measured; raise it, or name more contexts"
)


def run(workspace: Workspace) -> Result:
    """Output `adapter`, from inputs `model`, `adapter` (M(t-1)), `pairs` and, if the reference is M0, `reference`.

    Raises PermanentError `DataEmpty` if there is no pair, `WrongReference`, and those of models.load,
    `require_positions`, `ChatEncoder`, `Resumable.resume` and `require_learnt`; Terminated once asked to stop, with a
    checkpoint saved.
    """
    settings = workspace.spec.settings
    assert isinstance(settings, DpoSettings)
    quiet()
    reference, before = base_model(workspace), workspace.input("adapter")
    tokenizer = load_tokenizer(reference)
    # The run's own seed: of every round the same dialogues are held out.
    learnt, held = _divided(
        read_rows(workspace, "pairs", Pair),
        settings.held_out or 0,
        workspace.spec.seed - (workspace.spec.iteration or 0),
    )
    encoder = ChatEncoder(tokenizer, settings.max_length, workspace.check_stop)
    encoded = encoder.pairs(learnt)
    if not encoded.rows:
        raise PermanentError(
            "DataEmpty",
            f"input pairs: none of {len(learnt)} pairs fits, and {len(held)} are held out; see why reflect dropped its "
            "rows, raise dpo.maxLength, or lower dpo.heldOut",
        )
    sharded = workspace.spec.ranks.sharded
    model = load_model(
        reference,
        before,
        settings.precision,
        trainable=True,
        to_device=not sharded,
        quantization=quantization(workspace),
    )
    require_positions("dpo.maxLength", settings.max_length, longest(model.config.to_dict()))
    if sharded:
        shard(model, placement(settings.precision)[0])
    untrained, kept_close_to = adapter_tensors(model), _reference(workspace, settings)
    trainer = preference_trainer(
        model,
        tokenizer,
        settings,
        workspace.spec.seed,
        encoded.rows,
        load_file(before / WEIGHTS),
        kept_close_to.tensors,
        workspace,
    )
    trainer.resume()
    trained = adapter_tensors(model)
    require_learnt(untrained, trained, "dpo", trainer.state.global_step)
    # Before another forward pass: the whole of a model that is spread over ranks keeps the weights that it gathers last.
    details = _details(trainer, kept_close_to)
    kept_apart = {pair.id: encoder.pairs([pair]) for pair in held}
    ranked = {id_: each.rows[0] for id_, each in kept_apart.items() if each.rows}
    values, intervals = _ranking(model, ranked, settings.beta, workspace.check_stop)
    adapter = save_adapter(model, trained, workspace.reference("model"), workspace.scratch / "adapter")
    return Result(
        outputs={"adapter": adapter},
        counts={
            "pairs": len(encoded.rows),
            "truncated": encoded.truncated + sum(each.truncated for each in kept_apart.values()),
            "dropped.too_long": encoded.too_long + len(held) - len(ranked),
            **({"heldOut": len(ranked)} if settings.held_out else {}),
        },
        metrics=_metrics(trainer) | values,
        intervals=intervals,
        details=details,
        tokens=trainer.trained_tokens,
        notes=[kept_close_to.note, *([NONE_HELD_OUT] if settings.held_out and not ranked else [])],
    )


def _ranking(
    model: PeftModel, held: Mapping[str, Preference], beta: float, check_stop: Callable[[], None]
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Figures of the held-out pairs and their intervals; none without such pairs."""
    if not held:
        return {}, {}
    return figures(ranking_estimates(list(held), margins(model, list(held.values()), beta, check_stop)))


def _divided(pairs: Mapping[str, Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and about this share of the dialogues' pairs that are held out.

    Whole dialogues are held out, because pairs of one dialogue are alike. Whether one is follows from `seed` and its id
    alone: with the run's seed, the dialogues are the same in every round, so no earlier model has learnt from them.
    """
    held = {id_ for id_ in pairs if row_seed(seed, dialogue_of(id_), "held-out") < share * SEEDS}
    return [pair for id_, pair in pairs.items() if id_ not in held], [pairs[id_] for id_ in pairs if id_ in held]


class _Reference(NamedTuple):
    """The model that the policy is kept close to."""

    kind: ReferenceModel
    name: str
    """M0, M1, ..., or the base model."""
    tensors: Tensors
    digest: str | None
    """Of the adapter's file; None for the base model."""

    @property
    def note(self) -> str:
        return f"the reference was {self.name}" + (
            f" (SHA-256 of its weights: {self.digest[:12]})" if self.digest else ""
        )


def _reference(workspace: Workspace, settings: DpoSettings) -> _Reference:
    file = workspace.input("reference" if settings.reference == "sft" else "adapter") / WEIGHTS
    if settings.reference == "base":
        return _Reference("base", "the base model", without_effect(load_file(file)), None)
    before = 0 if settings.reference == "sft" else (workspace.spec.iteration or 1) - 1
    return _Reference(settings.reference, f"M{before}", load_file(file), file_sha256(file))


def _metrics(trainer: PreferenceTrainer) -> dict[str, float]:
    """First and last loss are of one step; the others are means over the last quarter of the steps, before each update.

    A log-probability is of a whole answer, in nats; its change is relative to the reference.
    """

    def late(name: str) -> float:
        values = [value for _, value in trainer.history(name)]
        kept = values[-max(1, len(values) // 4) :]
        return sum(kept) / len(kept)

    losses = [loss for _, loss in trainer.history("loss")]
    return {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "reward_margin": late("rewards/margins"),
        "reward_accuracy": late("rewards/accuracies"),
        "logp_change_chosen": late("rewards/chosen") / trainer.beta,
        "logp_change_rejected": late("rewards/rejected") / trainer.beta,
    }


def _details(trainer: PreferenceTrainer, reference: _Reference) -> dict[str, object]:
    [(_, first_step)] = trainer.history("first_step")
    return {
        "reference": {"kind": reference.kind, "adapterDigest": reference.digest, "firstStep": first_step},
        "curve": thinned(trainer.history("loss")),
        "margins": thinned(trainer.history("rewards/margins")),
        "steps": trainer.state.global_step,
        "sharedPrompts": trainer.layout.shared,
        "packed": trainer.layout.packed,
        "processes": trainer.ranks.count,
        "heldWeights": held_weights(trainer.model),
    }
