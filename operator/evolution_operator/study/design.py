"""Which pairs a study shows, its attention checks, and each rater's order. Pure: equal inputs give equal studies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, zip_longest

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.data.draw import rank
from evolution_jobs.unspaced import mostly_unspaced, spaced

from .records import HUMAN, SCRAMBLED, Item, Place, Sample

CHECK_WORDS = 8
"""Fewest different words of both human answers that an attention check is made from."""


def in_turn(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples in random order, so that every dialogue comes once before any comes again."""
    dialogues: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: rank(seed, f"context/{sample.id}")):
        dialogues[sample.dialogue].append(sample)
    ordered = [dialogues[name] for name in sorted(dialogues, key=lambda name: rank(seed, f"dialogue/{name}"))]
    return [sample for turn in zip_longest(*ordered) for sample in turn if sample is not None]


def draw_pairs(samples: Sequence[Sample], models: Sequence[str], count: int, seed: int) -> tuple[list[Item], int]:
    """`count` pairs of answers, and how many were passed over because both answers are the same.

    Every pair of models gets the same number of items, or one more. Raises PermanentError `StudyInput` if there are
    fewer pairs than asked for.
    """
    ordered = in_turn(samples, seed)
    pairs = list(combinations(models, 2))
    items: list[Item] = []
    equal = 0
    # Each round over the samples takes another pair of models for each.
    for turn in range(len(pairs)):
        for number, sample in enumerate(ordered):
            if len(items) == count:
                return items, equal
            first, second = pairs[(number + turn) % len(pairs)]
            if sample.answers[first].split() == sample.answers[second].split():
                equal += 1
                continue
            items.append(_item(sample, first, second))
    if len(items) < count:
        left_out = f" ({equal} more have two equal answers)" if equal else ""
        raise PermanentError(
            "StudyInput", f"--pairs {count}: there are only {len(items)} different pairs{left_out}; ask for fewer"
        )
    return items, equal


def make_checks(samples: Sequence[Sample], count: int, seed: int, used: Collection[str]) -> list[Item]:
    """Attention checks: a human answer beside the shuffled words of a human answer from another dialogue.

    Contexts that are not `used` by pairs come first. Raises PermanentError `StudyInput` if there are too few contexts.
    """
    ordered = in_turn(samples, seed)
    able = [sample for sample in ordered if _different_words(sample.answers[HUMAN]) >= CHECK_WORDS]
    able.sort(key=lambda sample: sample.id in used)
    checks: list[Item] = []
    for sample in able:
        if len(checks) == count:
            break
        others = [other for other in able if other.dialogue != sample.dialogue]
        if not others:
            continue
        donor = min(others, key=lambda other: rank(seed, f"donor/{sample.id}/{other.id}"))
        text = shuffled_words(donor.answers[HUMAN], seed)
        checks.append(
            Item(
                "check",
                sample.id,
                sample.dialogue,
                sample.turns,
                sample.earlier,
                HUMAN,
                SCRAMBLED,
                sample.answers[HUMAN],
                text,
            )
        )
    if len(checks) < count:
        raise PermanentError(
            "StudyInput",
            f"--checks {count}: only {len(checks)} contexts have a human answer of {CHECK_WORDS} different words, "
            "and another dialogue with one; ask for fewer",
        )
    return checks


def shuffled_words(text: str, seed: int) -> str:
    """The words of a text in random order, or the characters if its script has no spaces."""
    words = spaced(text).split()
    order = sorted(range(len(words)), key=lambda position: rank(seed, f"word/{position}/{text}"))
    shuffled = [words[position] for position in order]
    if shuffled == words:
        shuffled.reverse()
    return ("" if mostly_unspaced([text]) else " ").join(shuffled)


def orders(items: Sequence[Item], raters: int, seed: int) -> list[list[Place]]:
    """For each rater, every item once in an order of the rater's own, with a side for each.

    In each rater's order and for each pair of models, either model is A equally often (or once more). Two raters that
    follow one another see the sides the other way round.
    """
    return [_order(items, rater, seed) for rater in range(raters)]


def _order(items: Sequence[Item], rater: int, seed: int) -> list[Place]:
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[item.kind, item.first, item.second].append(number)
    swapped: dict[int, bool] = {}
    couple, odd = divmod(rater, 2)
    # The item that is left over in a group of odd size goes to either side in turn, so that groups even out.
    alternating = _alternate()
    for group in groups.values():
        for number in sorted(group, key=lambda number: rank(seed, f"side/{couple}/{number}")):
            swapped[number] = next(alternating) != bool(odd)
    order = sorted(range(len(items)), key=lambda number: rank(seed, f"order/{rater}/{number}"))
    return [Place(number, swapped[number]) for number in order]


def _alternate() -> Iterator[bool]:
    while True:
        yield False
        yield True


def _item(sample: Sample, first: str, second: str) -> Item:
    return Item(
        "pair",
        sample.id,
        sample.dialogue,
        sample.turns,
        sample.earlier,
        first,
        second,
        sample.answers[first],
        sample.answers[second],
    )


def _different_words(text: str) -> int:
    return len(set(spaced(text).lower().split()))
