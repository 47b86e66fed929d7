"""Contexts: prefixes that wait for the supporter."""

from collections import Counter

from evolution_jobs.contract.rows import Dialogue, Turn
from evolution_jobs.data.contexts import contexts, positions
from evolution_jobs.data.preprocess import dialogue
from hypothesis import given
from hypothesis import strategies as st


def conversation(number: int, length: int) -> Dialogue:
    roles = ["seeker", "supporter"] * length
    return dialogue(
        [
            Turn.model_validate({"role": role, "text": f"{number}/{position}", "strategy": f"s{position}"})
            for position, role in enumerate(roles[:length])
        ],
        f"line {number}",
    )


def test_a_turn_that_is_history_only_is_no_context() -> None:
    whole = conversation(1, 8)
    marked = [turn.model_copy(update={"learnt": False}) if at == 5 else turn for at, turn in enumerate(whole.turns)]
    found = list(contexts([whole.model_copy(update={"turns": marked})], 3))
    assert [len(context.turns) for context in found] == [3, 7]
    assert found[1].turns[5].text == whole.turns[5].text


collections = st.lists(st.integers(1, 14), min_size=1, max_size=8).map(
    lambda lengths: [conversation(number, length) for number, length in enumerate(lengths)]
)


@given(collections, st.integers(1, 6))
def test_a_context_ends_with_the_seeker_and_has_enough_history(dialogues: list[Dialogue], least: int) -> None:
    found = list(contexts(dialogues, least))
    assert len({context.id for context in found}) == len(found)
    by_id = {each.id: each for each in dialogues}
    for context in found:
        whole = by_id[context.dialogue].turns
        position = len(context.turns)
        assert position >= least
        assert context.turns == whole[:position]
        assert context.turns[-1].role == "seeker"
        assert (context.human, context.strategy) == (whole[position].text, whole[position].strategy)
        assert context.id == f"{context.dialogue}-{position}"


@given(collections, st.integers(1, 6))
def test_every_supporter_turn_with_enough_history_is_one(dialogues: list[Dialogue], least: int) -> None:
    expected = sum(turn.role == "supporter" and at >= least for each in dialogues for at, turn in enumerate(each.turns))
    assert len(list(contexts(dialogues, least))) == expected


@given(
    collections, st.none() | st.integers(1, 4), st.none() | st.integers(1, 10), st.integers(0, 99), st.integers(0, 7)
)
def test_draws_keep_to_their_limits_and_to_the_seed(
    dialogues: list[Dialogue], per_dialogue: int | None, samples: int | None, seed: int, gone: int
) -> None:
    chosen = list(contexts(dialogues, 3, per_dialogue, samples, seed))
    assert chosen == list(contexts(dialogues, 3, per_dialogue, samples, seed))
    per = Counter(context.dialogue for context in chosen)
    assert all(count <= (per_dialogue or 99) for count in per.values())
    available = sum(min(len(positions(each, 3)), per_dialogue or 99) for each in dialogues)
    assert len(chosen) == min(available, samples or 10**6)
    # The draw of a context does not depend on the other dialogues.
    rest = [each for number, each in enumerate(dialogues) if number != gone]
    if samples is None:
        ids = {each.id for each in rest}
        assert [context for context in chosen if context.dialogue in ids] == list(
            contexts(rest, 3, per_dialogue, None, seed)
        )


def test_different_seeds_draw_differently() -> None:
    dialogues = [conversation(number, 20) for number in range(20)]
    assert list(contexts(dialogues, 3, 2, 10, 1)) != list(contexts(dialogues, 3, 2, 10, 2))


@given(st.integers(2, 40), st.integers(4, 12))
def test_a_long_history_keeps_its_last_turns(length: int, longest: int) -> None:
    whole = list(contexts([conversation(1, length)], 3))
    short = list(contexts([conversation(1, length)], 3, longest=longest))
    assert [(each.id, each.human) for each in short] == [(each.id, each.human) for each in whole]
    for kept, each in zip(short, whole, strict=True):
        assert kept.turns == each.turns[len(each.turns) - len(kept.turns) :]
        assert kept.turns[0].role == "seeker"
        assert longest - 1 <= len(kept.turns) <= longest or kept.turns == each.turns
