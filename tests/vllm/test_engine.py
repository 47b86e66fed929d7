"""vLLM on the small model with an adapter: what it samples, and its likelihoods beside those of transformers."""

import collections
from types import SimpleNamespace

import pytest
import torch
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.engines.base import Request, Sampling, row_seed
from evolution_jobs.engines.sampling import penalised
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.engines.vllm_arguments import CLOSE_AT, QUOTES, UNPENALISED
from evolution_jobs.engines.vllm_logits import ForNewerRunner, ForOlderRunner
from evolution_jobs.preference.reflection import ProfileError, ProfileForm
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate

FORM = ProfileForm()
PAPER = Sampling(temperature=0.9, top_p=0.8, top_k=50, repetition_penalty=1.2)
GREEDY = Sampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1)
SPOKEN = [
    "I lost my job last week.",
    "That is hard. How long had you worked there?",
    "Seven years. I do not know what to tell my family, and I cannot sleep.",
    "What do you fear they would say?",
    "That I let them down.",
    "They may surprise you.",
]


def chat(*texts):
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return [{"role": "system", "content": "You are kind."}, *turns]


def request(id_, turns=1, sampling=PAPER, **options):
    options = {"max_new_tokens": 24, "max_prompt_tokens": 512, **options}
    return Request(id_, chat(*SPOKEN[:turns]), sampling, row_seed(0, id_, "test"), **options)


REQUESTS = [request(f"{turns}-{place}", turns) for turns in (1, 3, 5) for place in range(4)]


def texts(engine, requests, **options):
    return {response.id: response.text for response in engine.generate(requests, **options)}


def test_the_same_seed_says_the_same_and_another_one_something_else(vllm_engine):
    said = texts(vllm_engine, REQUESTS)
    assert set(said) == {each.id for each in REQUESTS}
    assert texts(vllm_engine, REQUESTS) == said
    for turns in (1, 3, 5):
        assert len({said[f"{turns}-{place}"] for place in range(4)}) == 4


def test_greedy_is_what_transformers_says(vllm_engine, transformers_engine):
    rows = [request(f"{turns}", turns, GREEDY) for turns in (1, 3, 5)]
    assert texts(vllm_engine, rows) == texts(transformers_engine, rows)


def test_an_answer_extends_to_the_next_prompt(vllm_engine):
    def follow(response):
        later = request(f"{response.id}-again", 1)
        return None if "again" in response.id else later

    said = texts(vllm_engine, [request("first"), request("second")], follow=follow)
    assert set(said) == {"first", "second", "first-again", "second-again"}


def test_both_engines_count_and_cut_alike(vllm_engine, transformers_engine):
    rows = [request(f"{limit}", 5, GREEDY, max_new_tokens=limit, max_prompt_tokens=60) for limit in (1, 40)]
    found = [sorted(map(repr, engine.generate(rows))) for engine in (vllm_engine, transformers_engine)]
    assert found[0] == found[1]
    assert "truncated_turns=4" in found[0][0]


def test_a_prompt_that_does_not_fit_is_an_error(vllm_engine):
    with pytest.raises(PermanentError, match="raise maxPromptTokens"):
        texts(vllm_engine, [request("long", max_prompt_tokens=8)])
    assert texts(vllm_engine, [request("short")])


def test_answers_end_as_often_as_in_transformers(vllm_engine, transformers_engine):
    rows = [request(f"{turns}-{place}", turns, max_new_tokens=48) for turns in (1, 3, 5) for place in range(12)]
    ends = [
        collections.Counter(response.finish for response in engine.generate(rows))
        for engine in (vllm_engine, transformers_engine)
    ]
    print(ends)
    # With the stop tokens penalised, hardly any answer of this model ends: test_the_penalty_leaves_stop_tokens_alone.
    assert ends[0]["stop"] > 0
    assert abs(ends[0]["stop"] - ends[1]["stop"]) <= len(rows) // 3


CONFIG = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=8), additional_config={QUOTES: [6, 7]})


@pytest.mark.parametrize("runner", ["older", "newer"])
def test_the_penalty_leaves_stop_tokens_alone(runner):
    torch.manual_seed(0)
    logits = torch.randn(3, 50)
    prompts = torch.tensor([[1, 2, 3, 9], [4, 4, 4, 9], [5, 6, 7, 8]])
    stops = torch.tensor([2, 9])
    parameters = [
        SamplingParams(repetition_penalty=1.3, extra_args={UNPENALISED: [each for each in (2, 9) if each in prompt]})
        for prompt in prompts.tolist()
    ]
    expected = penalised(logits, prompts, 1.3, stops)
    everything = torch.tensor([], dtype=torch.long)
    if runner == "older":
        process = ForOlderRunner(CONFIG, "cpu", False)
        added = [(row, each, prompts[row].tolist(), []) for row, each in enumerate(parameters)]
        process.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
        found = penalised(process.apply(logits.clone()), prompts, 1.3, everything)
    else:
        process = ForNewerRunner(CONFIG, SimpleNamespace(max_num_reqs=8, device="cpu"))
        for place, each in zip((5, 0, 3), parameters, strict=True):
            process.add_request(place, each)
        process.apply_staged_writes()
        context = SimpleNamespace(expanded_idx_mapping=torch.tensor([5, 0, 3]), pos=torch.tensor([7, 7, 7]))
        found = process.apply(penalised(logits, prompts, 1.3, everything), context)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, penalised(logits, prompts, 1.3, everything))


@pytest.mark.parametrize("runner", ["older", "newer"])
def test_an_object_is_closed_before_its_tokens_run_out(runner):
    # Three rows with prompts of 4 tokens; the second must close at its fifth token, the third follows no schema.
    parameters = [SamplingParams(extra_args=extra) for extra in ({CLOSE_AT: 10}, {CLOSE_AT: 8}, None)]
    written = [[1, 2, 3, 4] for _ in parameters]
    logits = torch.zeros(3, 9)
    logits[1, 7] = -torch.inf  # the grammar forbids one of the tokens that would close it
    expected = logits.clone()
    expected[1, 6] += 1e4
    if runner == "older":
        process = ForOlderRunner(CONFIG, "cpu", False)
        added = [(row, each, [0] * 4, written[row]) for row, each in enumerate(parameters)]
        process.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
        found = process.apply(logits.clone())
    else:
        process = ForNewerRunner(CONFIG, SimpleNamespace(max_num_reqs=8, device="cpu"))
        for place, each in zip((5, 0, 3), parameters, strict=True):
            process.add_request(place, each)
        process.apply_staged_writes()
        context = SimpleNamespace(expanded_idx_mapping=torch.tensor([5, 0, 3]), pos=torch.tensor([7, 7, 7]))
        found = process.apply(logits.clone(), context)
    torch.testing.assert_close(found, expected)


def test_profiles_follow_their_schema(vllm_engine):
    rows = [
        request(f"{place}", 5, Sampling(0.9, 0.8, 50, 1), max_new_tokens=96, schema=FORM.schema) for place in range(6)
    ]
    parsed = cut = 0
    for response in vllm_engine.generate(rows):
        assert response.text.startswith('{"personality":"')
        assert "\n" not in response.text
        try:
            FORM.parse(response.text)
            parsed += 1
        except ProfileError:
            assert response.finish == "length"
            cut += 1
    print(parsed, "profiles,", cut, "cut")
    # Most would be cut at so few tokens if they were not closed.
    assert parsed >= 5


def test_likelihoods_are_those_of_transformers(vllm_engine, transformers_engine, small_model):
    chats = vllm_engine.chats
    passages = [chats.passage(chat(*SPOKEN[:turns]), SPOKEN[turns]) for turns in (1, 3, 5)]
    passages.append(chats.passage(chat("My cat died."), "I am sorry. What was it called?"))
    found, expected = (dict(each.answer_losses(passages)) for each in (vllm_engine, transformers_engine))
    bare = dict(TransformersEngine.load(small_model, None, "float32", 4096).answer_losses(passages))
    for place, passage in enumerate(passages):
        assert abs(found[place] - expected[place]) < 1e-3 * len(passage.answer)
    assert sum(abs(found[place] - bare[place]) for place in found) > 0.1, "the adapter changes nothing"


def test_it_stops_between_steps(vllm_engine, monkeypatch):
    def stop():
        raise Terminated

    monkeypatch.setattr(vllm_engine, "_check_stop", stop)
    with pytest.raises(Terminated):
        texts(vllm_engine, REQUESTS)
    monkeypatch.undo()
    assert set(texts(vllm_engine, REQUESTS)) == {each.id for each in REQUESTS}
