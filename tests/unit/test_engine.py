"""The transformers engine on the real small model: rows that do not depend on their neighbours, JSON that parses."""

import dataclasses
import json
from contextlib import contextmanager

import pytest
import torch
from evolution_jobs.chat.chats import Chats
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.profiles import ProfileField
from evolution_jobs.engines.base import Request, Sampling, row_seed
from evolution_jobs.engines.chat import prompt_tokens, stop_tokens
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.models.load import load_model, load_tokenizer
from evolution_jobs.preference.reflection import ProfileForm
from transformers import GenerationConfig

pytestmark = pytest.mark.model

FORM = ProfileForm()
PAPER = Sampling(temperature=0.9, top_p=0.8, top_k=50, repetition_penalty=1.2)
GREEDY = Sampling(temperature=0, top_p=1, top_k=0, repetition_penalty=1)
SYSTEM = {"role": "system", "content": "You are kind."}
SPOKEN = [
    "I lost my job last week.",
    "That is hard. How long had you worked there?",
    "Seven years. I do not know what to tell my family, and I cannot sleep.",
    "What do you fear they would say?",
    "That I let them down.",
]
OTHERS = ["My cat died.", "I cannot talk to my father any more since we quarrelled about money.", "Nobody calls me."]


@pytest.fixture(scope="module")
def tokenizer(small_model):
    return load_tokenizer(small_model)


@pytest.fixture(scope="module")
def chats(tokenizer):
    return Chats.of(tokenizer)


@pytest.fixture(scope="module")
def model(small_model):
    return load_model(small_model, None, "float32")


@pytest.fixture
def engine(model, tokenizer):
    """A fresh engine: no prefixes of another test."""
    return TransformersEngine(model, tokenizer, token_budget=4096)


def chat(*texts):
    return [
        SYSTEM,
        *({"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)),
    ]


def request(id_, messages, sampling=PAPER, **options):
    options = {"max_new_tokens": 16, "max_prompt_tokens": 512, **options}
    return Request(id_, messages, sampling, row_seed(0, id_, "test"), **options)


CHATS = [chat(*SPOKEN), chat(*SPOKEN[:3]), *(chat(text) for text in OTHERS)]
REQUESTS = [request(str(place), messages) for place, messages in enumerate(CHATS)]


def texts(engine, requests):
    return {response.id: response.text for response in engine.generate(requests)}


def test_a_row_says_the_same_alone_in_a_batch_and_in_any_share(model, tokenizer, engine):
    together = texts(engine, REQUESTS)
    assert len(set(together.values())) == len(REQUESTS)
    for row in REQUESTS:
        assert texts(TransformersEngine(model, tokenizer, 4096), [row]) == {row.id: together[row.id]}
    shares = TransformersEngine(model, tokenizer, token_budget=300)
    assert texts(shares, REQUESTS[::2]) | texts(shares, REQUESTS[1::2]) == together


def test_another_seed_says_something_else(engine):
    first = request("a", CHATS[0])
    other = dataclasses.replace(first, id="b", seed=first.seed + 1)
    said = texts(engine, [first, other])
    assert said["a"] != said["b"]


def test_greedy_is_what_generate_says(model, tokenizer, engine, chats):
    rows = [request(str(place), messages, GREEDY) for place, messages in enumerate(CHATS)]
    said = texts(engine, rows)
    for row in rows:
        prompt = torch.tensor([chats.prompt(row.messages)])
        output = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False
        )
        expected = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()
        assert said[row.id] == expected


def test_a_prompt_that_extends_an_earlier_one_is_computed_from_there_on(model, tokenizer, engine, chats):
    columns = []
    watch = model.register_forward_pre_hook(
        lambda _, __, inputs: columns.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        first = request("first", CHATS[0], GREEDY)
        answer = texts(engine, [first])["first"]
        longer = request("longer", [*CHATS[0], {"role": "assistant", "content": answer}, *chat("Why?")[1:]], GREEDY)
        columns.clear()
        reused = texts(engine, [longer])
        computed = columns[0]
        columns.clear()
        fresh = texts(TransformersEngine(model, tokenizer, 4096), [longer])
    finally:
        watch.remove()
    assert columns[0] == len(chats.prompt(longer.messages))
    assert computed <= columns[0] - len(chats.prompt(first.messages))
    assert reused == fresh


@contextmanager
def forward_passes(model):
    """The (rows, columns) of each forward pass, and how many columns its attention covers."""
    shapes = []
    watch = model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append((*inputs["input_ids"].shape, inputs["attention_mask"].shape[1])),
        with_kwargs=True,
    )
    try:
        yield shapes
    finally:
        watch.remove()


def test_rows_that_end_leave_the_batch(model, engine):
    rows = [request("short", CHATS[0], max_new_tokens=2), *REQUESTS[1:]]
    with forward_passes(model) as shapes:
        responses = list(engine.generate(rows))
    sizes = [size for size, columns, _ in shapes if columns == 1]
    full = sizes.index(len(rows))
    assert max(sizes[full + 2 :]) < len(rows)
    assert responses[0].id == "short"
    assert (responses[0].finish, responses[0].tokens) == ("length", 2)


def test_a_row_that_waits_takes_the_place_of_one_that_has_ended(model, tokenizer, chats):
    """Three rows fit. If a batch had to end first, the long row would be among the first three to end."""
    rows = [request(str(place), CHATS[2], GREEDY, max_new_tokens=6 if place else 24) for place in range(9)]
    engine = TransformersEngine(model, tokenizer, token_budget=3 * (24 + len(chats.prompt(CHATS[2]))))
    with forward_passes(model) as shapes:
        ended = [response.id for response in engine.generate(rows)]
    assert sorted(ended) == [row.id for row in rows]
    assert ended.index("0") > 3
    assert max(size for size, _, _ in shapes) == 3


def test_a_follow_up_is_taken_up_in_the_same_batch(model, tokenizer, engine, chats):
    def follow(response):
        if response.id in asked:
            return None
        messages = [*CHATS[int(response.id)], {"role": "assistant", "content": response.text}, chat("Why?")[1]]
        asked[response.id] = request(response.id, messages, GREEDY)
        return asked[response.id]

    asked = {}
    found = list(engine.generate(REQUESTS, follow))
    first = [each for place, each in enumerate(found) if each.id not in {other.id for other in found[:place]}]
    assert {each.id: each.text for each in first} == texts(TransformersEngine(model, tokenizer, 4096), REQUESTS)
    second = {each.id: each.text for each in found if each not in first}
    assert second == texts(TransformersEngine(model, tokenizer, 4096), asked.values())


@pytest.mark.parametrize("budget", [20, 100, 300])
def test_the_batch_keeps_the_budget_and_a_row_over_it_goes_alone(model, tokenizer, budget):
    with forward_passes(model) as shapes:
        assert len(texts(TransformersEngine(model, tokenizer, budget), REQUESTS)) == len(REQUESTS)
    assert all(rows == 1 or rows * covered <= budget for rows, _, covered in shapes)


def test_parts_hold_every_request_once(model, tokenizer, chats):
    engine = TransformersEngine(model, tokenizer, token_budget=100)
    parts = list(engine.batches(REQUESTS))
    assert len(parts) > 1
    assert sorted(row.id for part in parts for row in part) == [row.id for row in REQUESTS]


def test_what_prompts_share_is_computed_once(model, engine, chats):
    """Chats of one dialogue, each two turns longer, and another one: the system message is shared by all."""
    dialogue = [chat(*SPOKEN[:turns]) for turns in (1, 3, 5)]
    rows = [request(str(place), messages, max_new_tokens=1) for place, messages in enumerate([*dialogue, CHATS[3]])]
    with forward_passes(model) as shapes:
        list(engine.generate(rows))
    computed = sum(size * columns for size, columns, _ in shapes)
    longest, other = (len(chats.prompt(messages)) for messages in (dialogue[-1], CHATS[3]))
    system = len(chats.prompt(CHATS[3])) - len(chats.prompt(CHATS[2]))
    assert computed < longest + other + 16 + abs(system)


def test_states_that_cannot_be_copied_stay_in_their_batch(model, tokenizer, engine, monkeypatch):
    """As with sliding windows: no row joins, no prefix is kept, and the answers are the same."""
    expected = texts(engine, REQUESTS)
    monkeypatch.setattr("evolution_jobs.engines.transformers_engine.reusable", lambda _: False)
    assert texts(TransformersEngine(model, tokenizer, 300), REQUESTS) == expected


def test_nothing_asked_nothing_said(engine):
    assert list(engine.batches([])) == []
    assert list(engine.generate([])) == []


def test_rows_with_and_without_a_schema_may_be_mixed(model, tokenizer, engine):
    rows = [REQUESTS[0], dataclasses.replace(REQUESTS[1], schema=FORM.schema, max_new_tokens=64), REQUESTS[2]]
    mixed = texts(engine, rows)
    assert mixed == {row.id: texts(TransformersEngine(model, tokenizer, 4096), [row])[row.id] for row in rows}
    assert FORM.parse(mixed["1"])


def test_json_parses_and_ends_within_the_limit(engine):
    """Hot sampling rambles: without the limit's help its strings would run on."""
    limit = 48
    wild = Sampling(temperature=1.5, top_p=1, top_k=0, repetition_penalty=1)
    ask = {"role": "user", "content": "Describe me as JSON with personality, emotionalState, situation and needs."}
    messages = [*CHATS[0][:-1], ask]
    rows = [request(str(row), messages, wild, max_new_tokens=limit, schema=FORM.schema) for row in range(8)]
    responses = list(engine.generate(rows))
    assert {response.finish for response in responses} == {"stop"}
    for response in responses:
        assert set(json.loads(response.text)) == set(FORM.schema["properties"])
    assert sum(response.tokens > limit - 15 for response in responses) > 2


def test_a_profile_parses_under_the_paper_s_sampling(engine):
    rows = [dataclasses.replace(row, schema=FORM.schema, max_new_tokens=64) for row in REQUESTS[2:]]
    for response in engine.generate(rows):
        assert FORM.parse(response.text)


def test_declared_values_are_all_that_a_field_may_have(engine):
    """With little room, too: a value that is begun is ended, whatever its length."""
    moods = ["at ease", "angry, or worse", "in deep and lasting sorrow", "疲れた"]
    form = ProfileForm([ProfileField(name="mood", values=moods), ProfileField(name="json", values=["yes"])])
    wild = Sampling(temperature=3, top_p=1, top_k=0, repetition_penalty=1)
    rows = [
        request(f"{limit}-{row}", CHATS[1], wild, max_new_tokens=limit, schema=form.schema)
        for limit in (24, 64)
        for row in range(6)
    ]
    found = [form.parse(response.text) for response in engine.generate(rows)]
    assert len({each["mood"] for each in found}) > 1
    assert {each["json"] for each in found} == {"yes"}


def test_a_long_history_loses_its_oldest_exchanges(engine, chats):
    whole = len(chats.prompt(CHATS[0]))
    row = request("long", CHATS[0], max_prompt_tokens=whole - 1)
    tokens, dropped = prompt_tokens(chats, row, positions=8192)
    assert dropped == 2
    assert tokens == chats.prompt([SYSTEM, *CHATS[0][3:]])
    [response] = engine.generate([row])
    assert response.truncated_turns == 2
    assert prompt_tokens(chats, request("fits", CHATS[0], max_prompt_tokens=whole), 8192)[1] == 0


def test_prompt_and_answer_fit_the_model_s_positions(chats):
    whole = len(chats.prompt(CHATS[0]))
    assert prompt_tokens(chats, request("fits", CHATS[0]), positions=whole + 16)[1] == 0
    assert prompt_tokens(chats, request("long", CHATS[0]), positions=whole + 15)[1] == 2


def test_no_more_is_left_out_than_must_be(chats):
    messages = chat(*(f"Turn {place} of a long talk." for place in range(101)))
    for limit in (60, 200, 500, 900):
        tokens, dropped = prompt_tokens(chats, request("long", messages, max_prompt_tokens=limit), 8192)
        assert dropped % 2 == 0
        assert len(tokens) <= limit
        assert len(chats.prompt([SYSTEM, *messages[1 + dropped - 2 :]])) > limit


def test_the_last_messages_are_never_left_out(chats):
    row = request("a-7", CHATS[0], max_prompt_tokens=60, keep=3)
    with pytest.raises(PermanentError, match=r"row a-7: .* maxPromptTokens") as refused:
        prompt_tokens(chats, row, 8192)
    assert refused.value.reason == "PromptTooLong"


def test_every_token_that_ends_a_turn_stops(small_model, tokenizer, chats):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_tokens(chats, tokenizer, None) == {end}
    assert stop_tokens(chats, tokenizer, GenerationConfig(eos_token_id=[5, 6])) == {end, 5, 6}
    # A base model's end of sequence need not be what its template ends a turn with.
    base = load_tokenizer(small_model)
    base.eos_token = "<|endoftext|>"
    assert stop_tokens(chats, base, None) == {end, tokenizer.convert_tokens_to_ids("<|endoftext|>")}
