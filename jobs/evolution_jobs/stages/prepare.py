"""prepare: fetch every data source once, check and preprocess it, split by conversation, refuse leaks, pin the model.

All later keys depend on its outputs, so the outputs depend only on the sources' content, the settings and the seed
(arXiv 2505.16610, section 3: preprocessing, the 9:1 split, contexts with at least 3 turns of history).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ..contract.document import Document
from ..contract.errors import PermanentError
from ..contract.rows import Dialogue, Instruction, Turn
from ..contract.settings import PrepareSettings
from ..contract.workspace import Result, Workspace
from ..data.contexts import contexts, positions
from ..data.leaks import groups, leaks
from ..data.load import Loader
from ..data.split import split
from ..models.resolve import resolve
from .jsonl import write_rows

LISTED_LEAKS = 10

SEED, REPLAY, CONTEXTS, TEST = "data.seed", "data.replay", "data.contexts", "data.test"


def run(workspace: Workspace) -> Result:
    """Outputs `train`, `validation`, `replay` (if the run has any), `contexts`, `test` and `model`.

    Raises PermanentError `DataMissing`, `DataMalformed`, `DataEmpty`, `DataLeak`, `ChecksumMismatch` and those of
    models.resolve, store.data_sources and models.hub; TransientError if a source cannot be reached now.
    """
    spec = workspace.spec
    settings = spec.settings
    assert isinstance(settings, PrepareSettings)
    steps = _Steps(workspace, settings)
    loader = Loader(
        spec.storage,
        workspace.scratch,
        spec.seed,
        skip_bad_rows=settings.on_bad_row == "skip",
        check_stop=workspace.check_stop,
        loaded=steps.done,
    )
    counts = loader.counts
    seed_data = loader.dialogues("seed", settings.seed)
    replay = loader.instructions("replay", settings.replay) if settings.replay else []
    context_data = loader.dialogues("contexts", settings.contexts) if settings.contexts else []
    test = loader.dialogues("test", settings.test) if settings.test else []

    train, validation = _split(seed_data, settings, spec.seed, counts)
    _check_held_out(train, validation, context_data, replay, test)
    least = settings.min_history_turns
    asked = contexts(
        _long_enough(CONTEXTS if context_data else SEED, context_data or train, least, counts),
        least,
        settings.contexts_per_dialogue,
        settings.context_samples,
        spec.seed,
    )
    tested = contexts(_long_enough(TEST if test else SEED, test or validation, least, counts), least)
    steps.done()
    model = resolve(settings.base_model, spec.storage, workspace.scratch)
    workspace.check_stop()

    rows: dict[str, Iterable[Document]] = {"train": train, "validation": validation}
    if replay:
        rows["replay"] = replay
    rows |= {"contexts": asked, "test": tested}
    outputs = {name: workspace.scratch / f"{name}.jsonl" for name in rows}
    counts.update({name: write_rows(outputs[name], each) for name, each in rows.items()})
    steps.done()
    return Result(
        outputs=outputs | ({"model": model.files} if model.files else {}),
        references={"model": model.reference} if model.reference else {},
        copied_models=frozenset() if model.reference else frozenset({"model"}),
        counts=counts,
        details={
            "sources": loader.sources,
            "badRows": loader.bad_rows,
            "contextsFrom": CONTEXTS if context_data else f"the training dialogues of {SEED}",
            "testFrom": TEST if test else f"the validation dialogues of {SEED}, which early stopping has seen",
            "model": {"uri": settings.base_model.uri, "reference": model.reference},
        },
    )


class _Steps:
    """Progress: each source, then the model, then the files."""

    def __init__(self, workspace: Workspace, settings: PrepareSettings) -> None:
        self._workspace = workspace
        sources = (settings.seed, settings.replay, settings.contexts, settings.test)
        self._total = sum(map(len, sources)) + 2
        self._done = 0

    def done(self) -> None:
        self._done += 1
        self._workspace.progress(self._done, self._total, "parts")


def _split(
    dialogues: Sequence[Dialogue], settings: PrepareSettings, seed: int, counts: Counter[str]
) -> tuple[list[Dialogue], list[Dialogue]]:
    group = groups(dialogues)
    if near := len(dialogues) - len(set(group.values())):
        counts["seed.nearDuplicates"] = near
    try:
        return split(dialogues, settings.validation_fraction, seed, group)
    except ValueError as error:
        raise PermanentError("DataEmpty", f"{SEED}: {error}, one to train on and one to validate with") from error


def _check_held_out(
    train: Sequence[Dialogue],
    validation: Sequence[Dialogue],
    context_data: Sequence[Dialogue],
    replay: Sequence[Instruction],
    test: Sequence[Dialogue],
) -> None:
    """Raise PermanentError `DataLeak` if the dialogues that Mt is tested on are also trained on."""
    others: dict[str, Sequence[Dialogue]] = {CONTEXTS: context_data, REPLAY: [_exchange(sample) for sample in replay]}
    if test:
        _refuse_leaks(TEST, test, {SEED: [*train, *validation], **others})
    else:
        # `split` keeps near-duplicates of one set together, so only other sets can have them.
        _refuse_leaks(f"the validation dialogues of {SEED}, which stand in for {TEST},", validation, others)


def _refuse_leaks(held: str, test: Sequence[Dialogue], training: dict[str, Sequence[Dialogue]]) -> None:
    """Raise PermanentError `DataLeak` if Mt would be tested on a conversation that it was trained on."""
    roles = {each.id: role for role, dialogues in training.items() for each in dialogues}
    distinct = {each.id: each for dialogues in training.values() for each in dialogues}
    found = leaks(test, list(distinct.values()))
    if not found:
        return
    pairs = [
        f"{match.left.source} is {match.right.source} of {roles[match.right.id]} ({match.shared:.0%} shared)"
        for match in found[:LISTED_LEAKS]
    ]
    more = f"; and {len(found) - LISTED_LEAKS} more" if len(found) > LISTED_LEAKS else ""
    count = len({match.left.id for match in found})
    raise PermanentError(
        "DataLeak",
        f"{held} hold {count} of {len(test)} conversations that the run trains on, word for word or nearly: "
        f"{'; '.join(pairs)}{more}. Remove them from one side",
    )


def _exchange(sample: Instruction) -> Dialogue:
    """A sample as a dialogue for the leak check: its prompt may contain a conversation."""
    turns = [Turn(role="seeker", text=sample.prompt), Turn(role="supporter", text=sample.response)]
    return Dialogue(id=sample.id, source=sample.source, turns=turns)


def _long_enough(role: str, dialogues: Sequence[Dialogue], least: int, counts: Counter[str]) -> Sequence[Dialogue]:
    """The dialogues, unchanged; those without a context are counted. Raises `DataEmpty` if none has a context."""
    short = sum(not positions(each, least) for each in dialogues)
    if short == len(dialogues):
        raise PermanentError(
            "DataEmpty",
            f"{role}: none of {short} dialogues has a supporter turn after {least} other turns: use longer ones, "
            "or lower data.minHistoryTurns",
        )
    if short:
        counts["dropped.short_history"] += short
    return dialogues
