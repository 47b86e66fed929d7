"""The split by conversation, and the draws behind it."""

import pytest
from evolution_jobs.contract.rows import Dialogue, Turn
from evolution_jobs.data.draw import draw, rank
from evolution_jobs.data.preprocess import dialogue
from evolution_jobs.data.split import split
from hypothesis import given
from hypothesis import strategies as st

names = st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda numbers: len(set(numbers)) > 1)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 1000)


def some(number: int, source: str = "x") -> Dialogue:
    return dialogue([Turn(role="seeker", text=f"trouble {number}"), Turn(role="supporter", text="why?")], source)


@given(names, fractions, seeds)
def test_every_dialogue_is_on_one_side_in_order_and_equal_ones_on_the_same(
    numbers: list[int], fraction: float, seed: int
) -> None:
    dialogues = [some(number, f"line {line}") for line, number in enumerate(numbers)]
    train, validation = split(dialogues, fraction, seed)
    assert train
    assert validation
    assert not {each.id for each in train} & {each.id for each in validation}
    assert sorted([*train, *validation], key=lambda each: int(each.source[5:])) == dialogues
    for side in (train, validation):
        lines = [int(each.source[5:]) for each in side]
        assert lines == sorted(lines)


@given(st.integers(2, 200), fractions, seeds)
def test_validation_has_its_share_of_different_dialogues(count: int, fraction: float, seed: int) -> None:
    _, validation = split([some(number) for number in range(count)], fraction, seed)
    assert len(validation) == min(max(1, round(fraction * count)), count - 1)


@given(names, fractions, seeds, st.integers(1, 4))
def test_a_group_is_never_parted(numbers: list[int], fraction: float, seed: int, size: int) -> None:
    dialogues = [some(number) for number in sorted(set(numbers))]
    group = {each.id: str(position // size) for position, each in enumerate(dialogues)}
    if len(set(group.values())) < 2:
        with pytest.raises(ValueError, match="at least two"):
            split(dialogues, fraction, seed, group)
        return
    train, validation = split(dialogues, fraction, seed, group)
    assert not {group[each.id] for each in train} & {group[each.id] for each in validation}


def test_the_seed_decides() -> None:
    dialogues = [some(number) for number in range(100)]
    assert split(dialogues, 0.1, 7) == split(dialogues, 0.1, 7)
    assert split(dialogues, 0.1, 7) != split(dialogues, 0.1, 8)


@pytest.mark.parametrize("dialogues", [[], [some(1)], [some(1), some(1)]])
def test_one_dialogue_cannot_be_split(dialogues: list[Dialogue]) -> None:
    with pytest.raises(ValueError, match="at least two different dialogues"):
        split(dialogues, 0.1, 0)


@given(st.sets(st.text(max_size=4)), st.none() | st.integers(0, 8), seeds)
def test_a_draw_keeps_the_order_and_its_size(items: set[str], count: int | None, seed: int) -> None:
    ordered = sorted(items)
    drawn = draw(ordered, count, seed, str)
    assert len(drawn) == (len(items) if count is None else min(count, len(items)))
    assert drawn == sorted(drawn)


@given(st.sets(st.text(max_size=4), min_size=2), st.integers(1, 8), seeds)
def test_a_rows_luck_does_not_change_when_another_row_goes(items: set[str], count: int, seed: int) -> None:
    drawn = draw(sorted(items), count, seed, str)
    without = min(items, key=lambda item: rank(seed, item))
    later = draw(sorted(items - {without}), count, seed, str)
    assert set(drawn) - {without} <= set(later)
