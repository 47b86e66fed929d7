"""Tokens are drawn exactly, and from the row's own stream; a cache with room holds what transformers' own holds."""

import pytest
import torch
from evolution_jobs.engines.base import Sampling, row_seed
from evolution_jobs.engines.sampling import gumbel, next_tokens, penalised
from evolution_jobs.engines.states import RoomyLayer
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

PLAIN = Sampling(temperature=1, top_p=1, top_k=0, repetition_penalty=1)
NONE = torch.tensor([], dtype=torch.long)


def logits_of(rows, vocabulary=40, seed=0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def draw(logits, seeds, step=0, sampling=PLAIN, seen=None):
    seen = torch.zeros(len(logits), 1, dtype=torch.long) if seen is None else seen
    steps = torch.full((len(logits),), step)
    return next_tokens(logits, seen, torch.tensor(seeds), steps, sampling, NONE)


def chi_square(logits, sampling, expected):
    """Pearson's statistic over 20,000 seeds, and its degrees of freedom; seeds are fixed, so it never varies."""
    drawn = draw(logits.expand(20_000, -1), [row_seed(0, str(row), "test") for row in range(20_000)], 5, sampling)
    counts = torch.bincount(drawn, minlength=logits.shape[-1])
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    wanted = expected[kept] * 20_000
    return float(((counts[kept] - wanted) ** 2 / wanted).sum()), int(kept.sum()) - 1


def test_gumbel_noise_samples_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0]])
    statistic, freedom = chi_square(logits, PLAIN, logits.softmax(-1)[0])
    assert freedom == 5
    assert statistic < 20.5  # 99.9 % of chi-square with 5 degrees of freedom


def test_the_paper_s_sampling_is_that_of_transformers():
    logits = logits_of(1, 12) / 4
    warped = logits
    for warper in (TemperatureLogitsWarper(0.9), TopKLogitsWarper(8), TopPLogitsWarper(0.8)):
        warped = warper(NONE, warped)
    statistic, freedom = chi_square(logits, Sampling(0.9, 0.8, 8, 1), warped.softmax(-1)[0])
    assert freedom >= 2
    assert statistic < 10.8 + 4 * freedom


@given(st.integers(0, 1000), st.floats(0.1, 2), st.integers(1, 50), st.floats(0.05, 1))
def test_what_transformers_rules_out_is_never_drawn(seed, temperature, top_k, top_p):
    logits = logits_of(4, seed=seed)
    warped = logits
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        warped = warper(NONE, warped)
    drawn = draw(logits, [seed, seed + 1, seed + 2, seed + 3], sampling=Sampling(temperature, top_p, top_k, 1))
    assert warped.gather(-1, drawn[:, None]).isfinite().all()


@given(st.integers(0, 2**63 - 1), st.integers(0, 8192), st.integers(1, 6))
def test_a_row_draws_the_same_alone_and_in_any_batch(seed, step, others):
    logits = logits_of(others + 1)
    alone = draw(logits[-1:], [seed], step)
    among = draw(logits, [*range(others), seed], step)
    assert among[-1] == alone[0]


def test_zero_temperature_takes_the_likeliest_token():
    logits = logits_of(3)
    assert draw(logits, [1, 2, 3], sampling=Sampling(0, 0.5, 3, 1)).tolist() == logits.argmax(-1).tolist()


def test_a_token_that_is_ruled_out_is_not_drawn_even_where_fewer_than_k_are_left():
    logits = torch.full((200, 40), -torch.inf)
    logits[:, 7] = logits[:, 9] = 0
    assert set(draw(logits, list(range(200)), sampling=Sampling(0.9, 0.8, 20, 1.2)).tolist()) == {7, 9}


@given(st.floats(1, 3), st.integers(0, 100))
def test_the_penalty_is_that_of_transformers(penalty, seed):
    logits = logits_of(3, seed=seed)
    seen = torch.randint(0, 40, (3, 10), generator=torch.Generator().manual_seed(seed))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    assert torch.equal(penalised(logits, seen, penalty, NONE), expected)
    stops = torch.tensor([3, 5])
    spared = penalised(logits, seen, penalty, stops)
    assert torch.equal(spared[:, stops], logits[:, stops])


def test_noise_differs_by_seed_step_and_token_and_its_mean_is_euler_s_constant():
    seeds, tokens = torch.arange(500), torch.arange(50).expand(500, -1)
    noise = torch.stack([gumbel(seeds, torch.full_like(seeds, step), tokens) for step in range(4)])
    assert noise.unique().numel() == noise.numel()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)
    across = torch.corrcoef(noise.flatten(1))
    assert (across - torch.eye(4)).abs().max() < 0.02


def test_seeds_differ_by_every_part():
    parts = [(0, "a", "answer", 1), (1, "a", "answer", 1), (0, "b", "answer", 1), (0, "a", "profile", 1)]
    seeds = {row_seed(*each) for each in [*parts, (0, "a", "answer", 2)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


STEPS = st.lists(st.integers(1, 90) | st.lists(st.integers(0, 7), min_size=1, max_size=3), max_size=12)


@given(STEPS)
def test_a_layer_with_room_holds_what_transformers_own_holds(steps):
    """An integer appends so many columns, a list selects rows."""
    layers = RoomyLayer(), DynamicLayer()
    rows, generator = 4, torch.Generator().manual_seed(0)
    for step in [3, *steps]:
        if isinstance(step, int):
            states = torch.randn(2, rows, 2, step, 5, generator=generator)
            given = [layer.update(states[0], states[1]) for layer in layers]
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(*given, strict=True))
        else:
            kept = torch.tensor([row % rows for row in step])
            rows = len(kept)
            for layer in layers:
                layer.batch_select_indices(kept)
        assert torch.equal(layers[0].keys, layers[1].keys)
        assert torch.equal(layers[0].values, layers[1].values)
        assert layers[0].get_seq_length() == layers[1].get_seq_length()
