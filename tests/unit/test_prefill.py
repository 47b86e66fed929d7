"""Which rows are computed together, in what order, and what of them is shared. No model."""

import pytest
from evolution_jobs.engines.base import Request, Sampling
from evolution_jobs.engines.prefill import WORTH, rounds, shared_prefix
from evolution_jobs.engines.row import Row, admitted, batched, kindred
from hypothesis import given
from hypothesis import strategies as st

SAMPLING = Sampling(0, 1, 0, 1)
SYSTEM = list(range(100, 140))
SIZES = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=20)


def row(prompt, longest=8, id_="row"):
    return Row(Request(id_, [], SAMPLING, 0, longest, 512), list(prompt), 0)


def computed(prompts):
    """The rounds of a batch, and of each prompt the tokens that were not there when its round began."""
    done, order, left = [], [], {}

    def known(index):
        return max((shared_prefix(other, prompts[index][:-1]) for other in done), default=0)

    for groups in rounds(prompts, known):
        order.append(groups)
        for index in (index for group in groups for index in group):
            left[index] = len(prompts[index]) - known(index)
        done += [prompts[index] for group in groups for index in group]
    return order, left


# Few different tokens, so that prompts share prefixes.
PROMPTS = st.lists(
    st.tuples(st.integers(0, 45), st.lists(st.integers(0, 1), min_size=1, max_size=40)).map(
        lambda both: [*SYSTEM[: both[0]], *both[1]]
    ),
    min_size=1,
    max_size=8,
)


@given(PROMPTS)
def test_every_prompt_is_computed_once_with_little_padding(prompts):
    order, left = computed(prompts)
    assert sorted(index for groups in order for group in groups for index in group) == list(range(len(prompts)))
    for groups in order:
        for group in groups:
            most = max(left[index] for index in group)
            assert all(most - left[index] <= max(8, most // 8) for index in group)


@given(PROMPTS)
def test_no_prompt_computes_much_that_a_longer_one_shares(prompts):
    _, left = computed(prompts)
    for index, prompt in enumerate(prompts):
        longer = [other for other in prompts if len(other) > len(prompt)]
        best = max((shared_prefix(other, prompt[:-1]) for other in longer), default=0)
        assert left[index] < len(prompt) - best + WORTH


def test_a_dialogue_s_history_is_computed_once():
    dialogue = [*SYSTEM, *range(200, 500)]
    prompts = [dialogue[:120], dialogue, dialogue[:220], [*SYSTEM, *range(600, 700)]]
    order, left = computed(prompts)
    assert order == [[[1]], [[3], [2, 0]]]
    assert left == {1: 340, 3: 100, 0: 1, 2: 1}


@given(SIZES, st.integers(1, 400))
def test_parts_keep_the_budget_and_the_order(sizes, budget):
    rows = [row([1] * prompt, longest) for prompt, longest in sizes]
    parts = list(batched(rows, budget))
    assert [each for part in parts for each in part] == rows
    for part in parts:
        assert len(part) == 1 or max(each.room for each in part) * len(part) <= budget


@given(SIZES, SIZES, st.integers(1, 400))
def test_as_many_rows_join_a_batch_as_fit(there, waiting, budget):
    rows, queue = ([row([1] * prompt, longest) for prompt, longest in sizes] for sizes in (there, waiting))

    def fits(count):
        together = [*rows, *queue[:count]]
        return len(together) <= 1 or max(each.room for each in together) * len(together) <= budget

    count = admitted(rows, queue, budget)
    assert count == 0 or fits(count)
    assert count == len(queue) or not fits(count + 1)
    assert count > 0 or rows or not queue


@pytest.mark.parametrize("seed", range(3))
def test_contexts_of_one_dialogue_come_side_by_side_and_the_longest_first(seed):
    long, short = [*SYSTEM, *range(200, 400)], [*SYSTEM, *range(500, 560)]
    rows = [row(short[:90]), row(long[:150]), row(short), row(long), row(long[:100])]
    rows = rows[seed:] + rows[:seed]
    assert [each.prompt for each in kindred(rows)] == [long, long[:150], long[:100], short, short[:90]]
