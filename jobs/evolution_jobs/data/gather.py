"""From a run's sources to the rows of every later stage: read, split by conversation, leaks refused, contexts drawn.

Pure but for reading the sources (arXiv 2505.16610, section 3: preprocessing, the 9:1 split, contexts with at least 3
turns of history).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from ..contract.locations import Storage
from ..contract.rows import Context, Dialogue, Instruction, Turn
from ..contract.settings import DataSettings
from .contexts import contexts, positions
from .leaks import groups, leaks
from .load import Loader
from .split import split
from .unseen import never_trained_on

LISTED_LEAKS = 10
TURN_TOKENS = 4
"""Fewest tokens of a turn, those of the chat template included."""

SEED, REPLAY, CONTEXTS, TEST = "data.seed", "data.replay", "data.contexts", "data.test"


@dataclass(frozen=True)
class Gathered:
    """The rows of a run, and what was counted on the way."""

    train: list[Dialogue]
    validation: list[Dialogue]
    replay: list[Instruction]
    asked: Iterable[Context]
    """Contexts that the model answers in each iteration. Read once: the prefixes of long dialogues are long together."""
    tested: Iterable[Context]
    """Contexts that every Mt is tested on. Read once."""
    texts: Callable[[], Iterable[str]]
    """The words of every turn and sample."""
    counts: Counter[str]
    details: dict[str, Any]


def gather(
    settings: DataSettings,
    storage: Storage,
    directory: Path,
    seed: int,
    check_stop: Callable[[], None],
    loaded: Callable[[], None],
    longest_prompt: int | None = None,
    labels: Sequence[str] = (),
    optional_labels: Sequence[str] = (),
) -> Gathered:
    """Read every source of a run. Downloads go below `directory`; `loaded` is called after each source. Contexts have no
    more turns than a prompt of `longest_prompt` tokens can hold. `labels` are paths of the labels that test contexts are to
    have, `optional_labels` of those that need not be there.

    Raises PermanentError `DataMissing`, `DataMalformed`, `DataEmpty`, `DataLeak`, `LabelsMissing`, `ChecksumMismatch` and those of
    store.data_sources and models.hub; TransientError if a source cannot be reached now.
    """
    skip, all_labels = settings.on_bad_row == "skip", [*labels, *optional_labels]
    loader = Loader(storage, directory, seed, skip, check_stop, loaded, asked_labels=all_labels)
    counts = loader.counts
    seed_data = loader.dialogues("seed", settings.seed)
    replay = loader.instructions("replay", settings.replay) if settings.replay else []
    context_data = loader.dialogues("contexts", settings.contexts) if settings.contexts else []
    test = loader.dialogues("test", settings.test) if settings.test else []

    train, validation = _split(seed_data, settings, seed, counts)
    _check_held_out(train, validation, context_data, replay, test)
    least = settings.min_history_turns
    longest = max(longest_prompt // TURN_TOKENS, least + 1) if longest_prompt else None
    asked = contexts(
        _long_enough(CONTEXTS if context_data else SEED, context_data or train, least, counts),
        least,
        settings.contexts_per_dialogue,
        settings.context_samples,
        seed,
        longest,
    )
    held_out = _long_enough(TEST if test else SEED, test or validation, least, counts)
    _check_labelled(held_out, labels, loader.labels, counts, TEST if test else SEED)
    counts.update({f"labelled.{label}": _labelled(held_out, label, loader.labels) for label in optional_labels})
    # Leaks have been refused above, so no conversation of these sets is trained on under another address either.
    unseen = never_trained_on(settings)
    tested = contexts(
        held_out,
        least,
        longest=longest,
        sets=loader.names if test else None,
        unseen=unseen,
        labels=loader.labels if all_labels else None,
    )
    return Gathered(
        train=train,
        validation=validation,
        replay=replay,
        asked=asked,
        tested=tested,
        texts=lambda: _texts([*seed_data, *context_data, *test], replay),
        counts=counts,
        details={
            "sources": loader.sources,
            "badRows": loader.bad_rows,
            "contextsFrom": CONTEXTS if context_data else f"the training dialogues of {SEED}",
            "testFrom": TEST if test else f"the validation dialogues of {SEED}, which early stopping has seen",
            **({"neverTrainedOn": unseen} if unseen else {}),
        },
    )


def _check_labelled(
    dialogues: Sequence[Dialogue],
    asked: Sequence[str],
    labels: Mapping[str, Mapping[str, str]],
    counts: Counter[str],
    role: str,
) -> None:
    """Count the test dialogues with each label. Raises PermanentError `LabelsMissing` if none has one of them."""
    for label in asked:
        counts[f"labelled.{label}"] = found = _labelled(dialogues, label, labels)
        if not found:
            raise PermanentError(
                "LabelsMissing",
                f"{role}: none of {len(dialogues)} test dialogues has the label {label!r}, with which "
                "evaluation.profile compares profiles; correct its path in compare, name labelled dialogues in data.test, "
                "or remove evaluation.profile",
            )


def _labelled(dialogues: Sequence[Dialogue], label: str, labels: Mapping[str, Mapping[str, str]]) -> int:
    return sum(label in labels.get(each.id, ()) for each in dialogues)


def _texts(dialogues: Iterable[Dialogue], replay: Iterable[Instruction]) -> Iterable[str]:
    yield from (turn.text for dialogue in dialogues for turn in dialogue.turns)
    for sample in replay:
        yield from (sample.prompt, sample.response)


def _split(
    dialogues: Sequence[Dialogue], settings: DataSettings, seed: int, counts: Counter[str]
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
