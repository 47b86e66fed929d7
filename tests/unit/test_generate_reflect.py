"""generate and reflect: shards, kills and resumption, every row a pair or a reject that says why."""

import json
from collections import Counter

import pytest
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.rows import Context, Pair, Reject, Response, Turn
from evolution_jobs.stages import generate, reflect
from evolution_jobs.stages.chunks import chunks

from tests.support.stages.scripted_engine import ScriptedEngine
from tests.support.stages.workspace import LocalWorkspace

SPOKEN = [
    "I lost my job.",
    "That is hard. What happened?",
    "They closed the shop.",
    "How do you feel about it?",
    "Lost. I was there for years.",
    "Who could you talk to?",
    "My brother, perhaps.",
    "Call him today.",
]
PROFILE = '{"personality": "loyal", "emotionalState": "lost", "situation": "jobless", "needs": "company"}'


def context(name, position):
    turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(SPOKEN[:position])]
    return Context(id=f"{name}-{position}", dialogue=name, turns=turns, human=SPOKEN[position])


CONTEXTS = [context(name, position) for name in ("aa", "bb", "cc") for position in (3, 5, 7)]
IDS = [each.id for each in CONTEXTS]
DRAFTS = {each.id: f"I hear that you have lost much, friend {place}." for place, each in enumerate(CONTEXTS)}


def write(path, rows):
    path.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows), "utf-8")
    return path


def read(path, kind):
    return [kind.model_validate_json(line) for line in path.read_text("utf-8").splitlines()]


def response(id_, text=None, finish="stop"):
    return Response(id=id_, text=DRAFTS[id_] if text is None else text, finish=finish, tokens=9)


def rewrite(request):
    """A profile where one is asked for, else a good rewrite."""
    return PROFILE if request.schema else f"What do you miss most, {request.id}?"


@pytest.fixture
def reflecting(tmp_path, monkeypatch):
    """A function that makes a workspace for reflect, its engine scripted."""

    def make(answer=rewrite, name="run", responses=None, settings=None, contexts=CONTEXTS, **options):
        engine = ScriptedEngine(answer)
        monkeypatch.setattr(reflect, "load_engine", lambda workspace, settings: engine)
        rows = [response(each.id) for each in contexts] if responses is None else responses
        inputs = {
            "contexts": write(tmp_path / "contexts.jsonl", contexts),
            "responses": write(tmp_path / "responses.jsonl", rows),
        }
        workspace = LocalWorkspace(tmp_path / name, "reflect", settings or {}, inputs=inputs, **options)
        workspace.engine = engine
        return workspace

    return make


def pairs_of(result):
    return read(result.outputs["pairs"], Pair), read(result.outputs["rejects"], Reject)


def test_every_context_becomes_a_pair_in_order(reflecting):
    result = reflect.run(reflecting())
    pairs, rejects = pairs_of(result)
    assert [pair.id for pair in pairs] == IDS
    assert rejects == []
    assert pairs[0] == Pair(
        id="aa-3",
        turns=CONTEXTS[0].turns,
        chosen="What do you miss most, aa-3?",
        rejected=DRAFTS["aa-3"],
        source="self",
        profile=json.loads(PROFILE),
        attempts=1,
    )
    assert result.counts == {"read": 9, "pairs": 9, "attempts.1": 9, "truncated": 1}
    assert result.metrics == {"chosen_words": 6.0, "rejected_words": 9.0, "pair_similarity": 21.0526}
    assert result.tokens == 9 * 10


def test_declared_fields_are_asked_for_followed_and_kept_in_the_pair(reflecting):
    fields = [{"name": "goal", "description": "what they want"}, {"name": "level", "values": ["new", "stuck"]}]
    profile = {"goal": "work", "level": "stuck"}
    workspace = reflecting(
        lambda request: json.dumps(profile) if request.schema else rewrite(request), settings={"fields": fields}
    )
    pairs, _ = pairs_of(reflect.run(workspace))
    assert [pair.profile for pair in pairs] == [profile] * len(IDS)
    asked, rewritten = (next(r for r in workspace.engine.asked if bool(r.schema) is which) for which in (True, False))
    assert "goal: what they want" in asked.messages[-1]["content"]
    assert list(asked.schema["properties"]) == ["goal", "level"]
    assert rewritten.messages[: len(asked.messages)] == asked.messages
    undeclared = reflecting(name="undeclared", settings={"fields": fields, "maxAttempts": 1})
    with pytest.raises(PermanentError, match=r"none of 9 rows became a pair \(profile_unparsed 9\)"):
        reflect.run(undeclared)


def test_a_profile_that_does_not_parse_is_asked_for_again_with_another_seed(reflecting):
    tries = Counter()
    parses_at = {"aa-3": 3, "bb-5": 4}

    def answer(request):
        if not request.schema:
            return rewrite(request)
        tries[request.id] += 1
        return PROFILE if tries[request.id] >= parses_at.get(request.id, 1) else "{"

    workspace = reflecting(answer, settings={"maxAttempts": 3})
    result = reflect.run(workspace)
    pairs, [reject] = pairs_of(result)
    assert tries == {**dict.fromkeys(IDS, 1), "aa-3": 3, "bb-5": 3}
    assert result.counts["attempts.1"] == 7
    assert result.counts["attempts.3"] == 2
    assert result.counts["dropped.profile_unparsed"] == 1
    assert {pair.id: pair.attempts for pair in pairs}["aa-3"] == 3
    assert (reject.id, reject.reason) == ("bb-5", "profile_unparsed")
    assert "JSON" in reject.detail
    assert reject.row["profile"] == "{"
    assert result.tokens == 7 * (5 + 5) + (3 * 5 + 5) + 3 * 5
    asked = workspace.engine.asked
    assert len({(request.id, request.seed) for request in asked}) == len(asked)
    assert not [request for request in asked if request.id == "bb-5" and not request.schema]


def test_greedy_profiles_are_asked_for_once(reflecting):
    workspace = reflecting(
        lambda request: "{" if request.id == "aa-3" else rewrite(request), settings={"temperature": 0}
    )
    assert reflect.run(workspace).counts["attempts.1"] == 9


def test_every_drop_is_counted_and_kept_with_all_that_is_known(reflecting):
    responses = {each: response(each) for each in IDS}
    responses["aa-3"] = response("aa-3", "")
    responses["aa-5"] = response("aa-5", "I hear you and I", finish="length")
    answers = {
        "aa-7": "  ",
        "bb-3": f'Supporter: "{DRAFTS["bb-3"].upper()}"',
        "bb-5": "Tell me more " * 10,
        "bb-7": "Tell me more about~",
        "cc-3": "Tell me more. And then~",
    }
    workspace = reflecting(
        lambda request: PROFILE if request.schema else answers.get(request.id, rewrite(request)),
        responses=list(responses.values()),
    )
    result = reflect.run(workspace)
    pairs, rejects = pairs_of(result)
    assert {reject.id: reject.reason for reject in rejects} == {
        "aa-3": "empty",
        "aa-5": "truncated",
        "aa-7": "empty",
        "bb-3": "equal",
        "bb-5": "too_long",
        "bb-7": "truncated",
    }
    assert sorted([pair.id for pair in pairs] + [reject.id for reject in rejects]) == sorted(IDS)
    assert {name: count for name, count in result.counts.items() if name.startswith("dropped.")} == {
        "dropped.empty": 2,
        "dropped.equal": 1,
        "dropped.too_long": 1,
        "dropped.truncated": 2,
    }
    known = next(reject for reject in rejects if reject.id == "bb-5").row
    assert known["chosen"] == ("Tell me more " * 10).strip()
    assert known["rejected"] == DRAFTS["bb-5"]
    assert known["profile"] == json.loads(PROFILE)
    assert known["human"] == SPOKEN[5]
    assert len(known["turns"]) == 5
    assert {pair.id: pair.chosen for pair in pairs}["cc-3"] == "Tell me more."
    # A draft that can never be rejected is not reflected on.
    assert not {"aa-3", "aa-5"} & {request.id for request in workspace.engine.asked}


def test_no_pair_at_all_says_why_and_what_to_change(reflecting):
    workspace = reflecting(lambda request: PROFILE if request.schema else "Tell me more " * 10)
    with pytest.raises(PermanentError, match=r"none of 9 rows .*too_long 9.*maxLengthRatio") as refused:
        reflect.run(workspace)
    assert refused.value.reason == "NoPairs"


def test_the_human_answer_needs_no_engine(reflecting, monkeypatch):
    workspace = reflecting(settings={"source": "human", "maxLengthRatio": 1})
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    result = reflect.run(workspace)
    pairs, rejects = pairs_of(result)
    assert {pair.chosen for pair in pairs} == {SPOKEN[3], SPOKEN[5], SPOKEN[7]}
    assert {pair.source for pair in pairs} == {"human"}
    assert len(pairs) + len(rejects) == len(CONTEXTS)
    assert result.tokens == 0


def test_without_reflection_the_answer_is_rewritten_at_once(reflecting):
    workspace = reflecting(settings={"source": "none"})
    result = reflect.run(workspace)
    pairs, _ = pairs_of(result)
    assert {(pair.source, pair.profile, pair.attempts) for pair in pairs} == {("none", None, 1)}
    assert len(workspace.engine.asked) == len(CONTEXTS)
    assert not any(request.schema for request in workspace.engine.asked)
    assert not any(name.startswith("attempts") for name in result.counts)


def test_what_is_asked_of_the_engine(reflecting):
    workspace = reflecting(settings={"maxProfileTokens": 77, "maxNewTokens": 33, "repetitionPenalty": 1.3})
    reflect.run(workspace)
    profile, rewritten = (
        next(request for request in workspace.engine.asked if request.id == "bb-5" and bool(request.schema) == asked)
        for asked in (True, False)
    )
    assert (profile.max_new_tokens, rewritten.max_new_tokens) == (77, 33)
    assert (profile.sampling.repetition_penalty, rewritten.sampling.repetition_penalty) == (1.0, 1.3)
    # The seeker's last turn and all that follows it stay when the history is too long.
    for request in (profile, rewritten):
        assert request.messages[-request.keep]["content"] == SPOKEN[4]
    assert rewritten.messages[: len(profile.messages)] == profile.messages
    assert rewritten.messages[-2]["content"] == PROFILE


@pytest.mark.parametrize("source", ["self", "none", "human"])
def test_shards_make_the_same_pairs_and_the_last_one_merges(reflecting, source):
    whole = reflect.run(reflecting(name="whole", settings={"source": source}))
    ends = [reflect.run(reflecting(name="shared", settings={"source": source}, shard=(i, 3))) for i in (1, 2, 0)]
    assert ends[:2] == [None, None]
    for output in whole.outputs:
        assert ends[2].outputs[output].read_bytes() == whole.outputs[output].read_bytes()
    assert ends[2].counts == whole.counts
    assert ends[2].tokens == whole.tokens


def test_stopped_between_batches_it_goes_on_without_doing_anything_twice(reflecting):
    whole = reflect.run(reflecting(name="whole"))
    first = reflecting(name="stopped", stop_after=3)
    with pytest.raises(Terminated):
        reflect.run(first)
    durable = set(first.rows.finished())
    assert 0 < len(durable) < len(IDS)
    second = reflecting(name="stopped")
    result = reflect.run(second)
    assert not durable & {request.id for request in second.engine.asked}
    assert result.outputs["pairs"].read_bytes() == whole.outputs["pairs"].read_bytes()
    assert result.counts == whole.counts
    assert second.reported[-1] == (9, 9, "rows")


def test_merging_finished_rows_loads_no_engine(reflecting, monkeypatch):
    result = reflect.run(reflecting(name="done"))
    again = reflecting(name="done")
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    assert reflect.run(again).counts == result.counts


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([response(id_) for id_ in IDS[1:]], "1 contexts have no response, first aa-3"),
        ([*map(response, IDS), response("aa-3").model_copy(update={"id": "zz-9"})], "1 responses have no .*zz-9"),
        ([*map(response, IDS), response("aa-3")], "'aa-3' .*twice"),
    ],
)
def test_contexts_and_responses_must_be_of_one_run(reflecting, responses, message):
    with pytest.raises(PermanentError, match=message):
        reflect.run(reflecting(responses=responses))


def test_finished_answers_need_no_model(tmp_path):
    inputs = {"contexts": write(tmp_path / "contexts.jsonl", CONTEXTS[:2])}
    workspace = LocalWorkspace(tmp_path / "run", "generate", {}, inputs=inputs)
    for id_, left_out in zip(IDS[:2], (0, 2), strict=True):
        # Another version's rows may have fields that this one does not know.
        answer = {"text": "I see.", "finish": "stop", "tokens": 3, "truncated_turns": left_out, "prompt_tokens": 9}
        workspace.rows.append([{"id": id_, **answer}])
    result = generate.run(workspace)
    assert result.counts == {"read": 2, "responses": 2, "truncated": 1, "cut": 0}
    lines = result.outputs["responses"].read_text("utf-8").splitlines()
    assert lines == [f'{{"id":"{id_}","text":"I see.","finish":"stop","tokens":3}}' for id_ in IDS[:2]]


# generate, on the real model. The budget is the smallest: a row or two a batch.
SAMPLED = {"maxNewTokens": 8, "tokenBudget": 256, "maxPromptTokens": 160}


@pytest.fixture
def generating(tmp_path, small_model):
    def make(name="run", settings=SAMPLED, contexts=CONTEXTS[:5], **options):
        inputs = {"contexts": write(tmp_path / "contexts.jsonl", contexts), "model": small_model}
        return LocalWorkspace(tmp_path / name, "generate", settings, inputs=inputs, **options)

    return make


@pytest.mark.model
def test_shards_give_the_same_responses(generating):
    whole = generate.run(generating("whole"))
    ends = [generate.run(generating("shared", shard=(i, 3))) for i in (2, 0, 1)]
    assert ends[:2] == [None, None]
    responses = read(whole.outputs["responses"], Response)
    assert [each.id for each in responses] == IDS[:5]
    assert len({each.text for each in responses}) == 5
    assert read(ends[2].outputs["responses"], Response) == responses
    assert ends[2].counts == whole.counts
    assert whole.counts["responses"] == 5
    assert whole.tokens == sum(each.tokens for each in responses)


@pytest.mark.model
def test_a_stopped_generate_answers_no_finished_row_again(generating, monkeypatch):
    whole = generate.run(generating("whole"))
    stopped = generating("stopped", stop_after=1)
    with pytest.raises(Terminated):
        generate.run(stopped)
    durable = set(stopped.rows.finished())
    assert 0 < len(durable) < 5
    chunk = stopped.rows.chunks[0].read_bytes()
    resumed = generating("stopped")
    result = generate.run(resumed)
    assert result.outputs["responses"].read_bytes() == whole.outputs["responses"].read_bytes()
    assert resumed.rows.chunks[0].read_bytes() == chunk
    later = [json.loads(line)["id"] for path in resumed.rows.chunks[1:] for line in path.read_text().splitlines()]
    assert sorted(later) == sorted(set(IDS[:5]) - durable)


@pytest.mark.model
def test_reflect_on_the_real_model_accounts_for_every_row(tmp_path, generating, small_model):
    contexts = CONTEXTS[:5]
    responses = generate.run(generating("generate", settings={**SAMPLED, "maxNewTokens": 24})).outputs["responses"]
    settings = {"maxNewTokens": 24, "maxProfileTokens": 64, "maxPromptTokens": 700, "tokenBudget": 2048}
    inputs = {"contexts": tmp_path / "contexts.jsonl", "responses": responses, "model": small_model}
    result = reflect.run(LocalWorkspace(tmp_path / "reflect", "reflect", settings, inputs=inputs))
    pairs, rejects = pairs_of(result)
    assert [each.id for each in contexts] == sorted(
        [pair.id for pair in pairs] + [reject.id for reject in rejects], key=IDS.index
    )
    drafts = {each.id: each.text for each in read(responses, Response)}
    for pair in pairs:
        assert drafts[pair.id].startswith(pair.rejected)
        assert set(pair.profile) == {"personality", "emotionalState", "situation", "needs"}
    assert sum(count for name, count in result.counts.items() if name.startswith("attempts.")) <= len(contexts)


@pytest.mark.model
def test_nothing_to_answer_is_an_error(generating):
    with pytest.raises(PermanentError, match=r"data\.contexts"):
        generate.run(generating(contexts=[]))


# Rows of reflect that generate makes ahead.


@pytest.fixture
def ahead(tmp_path, monkeypatch):
    """A function that makes a workspace of generate on a scripted engine, whose rows ahead are reflect's."""

    def make(answer=None, name="both", settings=None, reflection=None, **options):
        engine = ScriptedEngine(answer or (lambda request: DRAFTS[request.id] if first(request) else rewrite(request)))
        monkeypatch.setattr(generate, "load_engine", lambda *_, **__: engine)
        inputs = {"contexts": write(tmp_path / "contexts.jsonl", CONTEXTS)}
        workspace = LocalWorkspace(
            tmp_path / name, "generate", settings or {}, inputs=inputs, ahead=reflection or {}, **options
        )
        workspace.engine = engine
        return workspace

    return make


def first(request):
    """Whether a request is for the answer, and for no profile or rewrite."""
    return request.messages[-1]["content"] in SPOKEN


def reflected(tmp_path, responses, name, settings=None):
    """What reflect makes of these responses, over the rows in `tmp_path/name`."""
    inputs = {"contexts": tmp_path / "contexts.jsonl", "responses": responses}
    return reflect.run(LocalWorkspace(tmp_path / name, "reflect", settings or {}, inputs=inputs))


def without_ahead(counts):
    return {name: count for name, count in counts.items() if name != "ahead"}


@pytest.mark.parametrize("source", ["self", "none"])
def test_reflect_finds_its_rows_and_loads_no_engine(ahead, reflecting, monkeypatch, tmp_path, source):
    alone = reflect.run(reflecting(name="alone", settings={"source": source}))
    made = generate.run(ahead(reflection={"source": source}))
    assert made.counts["ahead"] == 9
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    found = reflected(tmp_path, made.outputs["responses"], "both/ahead", {"source": source})
    for output in alone.outputs:
        assert found.outputs[output].read_bytes() == alone.outputs[output].read_bytes()
    assert found.counts == {**alone.counts, "ahead": 9}
    assert found.tokens == alone.tokens


def test_of_mixed_sources_only_what_the_model_writes_is_made_ahead(ahead, reflecting, monkeypatch, tmp_path):
    mixed = {"source": "mixed", "weights": {"self": 2, "none": 2, "human": 3}}
    alone = reflect.run(reflecting(name="alone", settings=mixed))
    made = generate.run(ahead(reflection=mixed))
    assert set(alone.counts) >= {"pairs.self", "pairs.none", "pairs.human"}
    assert made.counts["ahead"] == alone.counts["pairs.self"] + alone.counts["pairs.none"]
    assert made.counts["responses"] == 9
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    found = reflected(tmp_path, made.outputs["responses"], "both/ahead", mixed)
    for output in alone.outputs:
        assert found.outputs[output].read_bytes() == alone.outputs[output].read_bytes()
    assert found.counts == {**alone.counts, "ahead": made.counts["ahead"]}


@pytest.mark.parametrize("stop_after", range(1, 10))
def test_stopped_at_any_time_generate_and_reflect_end_with_the_same_pairs(
    ahead, reflecting, monkeypatch, tmp_path, stop_after
):
    whole = reflect.run(reflecting(name="alone"))
    with pytest.raises(Terminated):
        generate.run(ahead(stop_after=stop_after))
    resumed = ahead()
    durable = resumed.rows.finished().keys()
    assert {id_.split(".")[0] for id_ in resumed.rows_ahead.finished()} == durable
    made = generate.run(resumed)
    assert not durable & {request.id for request in resumed.engine.asked}
    done = [done for done, _, _ in resumed.reported]
    assert done == sorted(done)
    assert done[-1:] == ([9] if len(durable) < 9 else [])
    assert made.counts["ahead"] == 9
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    found = reflected(tmp_path, made.outputs["responses"], "both/ahead")
    assert found.outputs["pairs"].read_bytes() == whole.outputs["pairs"].read_bytes()


def test_an_answer_whose_row_ahead_is_there_is_not_rewritten_again(ahead, monkeypatch):
    """Killed after the rows ahead were saved and before the answers were."""
    killed = ahead()
    monkeypatch.setattr(killed.rows, "append", lambda _: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        generate.run(killed)
    rewritten = {id_.split(".")[0] for id_ in killed.rows_ahead.finished()}
    assert rewritten
    resumed = ahead()
    assert generate.run(resumed).counts["ahead"] == 9
    assert {request.id for request in resumed.engine.asked if first(request)} == set(IDS)
    assert {request.id for request in resumed.engine.asked if not first(request)} == set(IDS) - rewritten


def test_answers_that_are_all_there_are_left_to_reflect(ahead, monkeypatch):
    workspace = ahead()
    workspace.rows.append({"id": id_, "text": DRAFTS[id_], "finish": "stop", "tokens": 5} for id_ in IDS)
    monkeypatch.setattr(generate, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    assert generate.run(workspace).counts["ahead"] == 0


def test_a_fault_in_reflection_fails_reflect_alone(ahead, reflecting, tmp_path):
    def answer(request):
        if not first(request):
            raise PermanentError("PromptTooLong", "row: raise reflection.maxPromptTokens")
        return DRAFTS[request.id]

    workspace = ahead(answer)
    made = generate.run(workspace)
    assert made.counts["responses"] == 9
    assert made.counts["ahead"] == 0
    assert len([request for request in workspace.engine.asked if not first(request)]) == 1
    assert workspace.reported[-1] == (9, 9, "rows")
    with pytest.raises(PermanentError, match="maxPromptTokens"):
        reflect.run(reflecting(answer))


def test_rows_of_another_answer_are_not_used(ahead, reflecting, tmp_path):
    generate.run(ahead())
    others = [response(id_, f"{DRAFTS[id_]} Say more.") if id_ == "bb-5" else response(id_) for id_ in IDS]
    workspace = reflecting(name="both/ahead", responses=others)
    pairs, _ = pairs_of(reflect.run(workspace))
    assert {request.id for request in workspace.engine.asked} == {"bb-5"}
    assert {pair.id: pair.rejected for pair in pairs}["bb-5"].endswith("Say more.")


def test_a_batch_must_fit_both_stages(ahead, monkeypatch):
    workspace = ahead(settings={"tokenBudget": 4096}, reflection={"tokenBudget": 512, "maxPromptTokens": 900})
    asked = []

    def load(_workspace, settings, others):
        asked.append((settings.token_budget, [each.max_prompt_tokens for each in others]))
        return workspace.engine

    monkeypatch.setattr(generate, "load_engine", load)
    generate.run(workspace)
    assert asked == [(512, [900])]


class StoppingEngine(ScriptedEngine):
    """vLLM looks at a stop request itself, between two steps: here after some responses of a part."""

    def __init__(self, answer, responses):
        super().__init__(answer)
        self._left = responses

    def batches(self, requests):
        yield list(requests)

    def generate(self, requests, follow=None):
        responses = super().generate(requests, follow)
        while self._left:
            self._left -= 1
            yield next(responses)
        raise Terminated


@pytest.mark.parametrize(("responses", "durable"), [(0, 0), (2, 0), (3, 1), (5, 1), (7, 2)])
def test_what_has_ended_is_saved_where_the_engine_stops(ahead, monkeypatch, responses, durable):
    workspace = ahead()
    engine = StoppingEngine(workspace.engine.answer, responses)
    monkeypatch.setattr(generate, "load_engine", lambda *_, **__: engine)
    with pytest.raises(Terminated):
        generate.run(workspace)
    assert len(workspace.rows.finished()) == len(workspace.rows_ahead.finished()) == durable


def test_a_chunk_that_is_not_full_is_saved_where_the_engine_stops():
    def rows():
        yield from range(5)
        raise Terminated

    saved = []
    with pytest.raises(Terminated):
        saved.extend(chunks(rows(), 2))
    assert saved == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(("generating", "reflecting_"), [(1, 1), (3, 2)])
def test_shards_make_the_rows_ahead_together(ahead, reflecting, tmp_path, monkeypatch, generating, reflecting_):
    whole = reflect.run(reflecting(name="alone"))
    ends = [generate.run(ahead(shard=(index, generating))) for index in range(generating)]
    assert ends[-1].counts["ahead"] == 9
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    found = reflected(tmp_path, ends[-1].outputs["responses"], "both/ahead")
    assert found.outputs["pairs"].read_bytes() == whole.outputs["pairs"].read_bytes()
    assert without_ahead(found.counts) == whole.counts


@pytest.mark.model
def test_rows_made_ahead_on_the_real_model_are_those_of_separate_stages(tmp_path, small_model, monkeypatch):
    """The budget holds about three rows, and one attempt is stopped: the batches of the two ways differ."""
    settings = {"maxNewTokens": 24, "maxPromptTokens": 700, "tokenBudget": 700}
    reflection = {**settings, "maxProfileTokens": 48}
    inputs = {"contexts": write(tmp_path / "contexts.jsonl", CONTEXTS[:3]), "model": small_model}

    def answered(name, **options):
        return generate.run(LocalWorkspace(tmp_path / name, "generate", settings, inputs=inputs, **options))

    def paired(name, responses):
        asked = {**inputs, "responses": responses.outputs["responses"]}
        return reflect.run(LocalWorkspace(tmp_path / name, "reflect", reflection, inputs=asked))

    separate = answered("separate")
    expected = paired("reflect", separate)
    with pytest.raises(Terminated):
        answered("both", ahead=reflection, stop_after=1)
    together = answered("both", ahead=reflection)
    assert together.outputs["responses"].read_bytes() == separate.outputs["responses"].read_bytes()
    assert together.counts == {**separate.counts, "ahead": 3}
    monkeypatch.setattr(reflect, "load_engine", lambda *_, **__: pytest.fail("an engine was loaded"))
    found = paired("both/ahead", together)
    for output in expected.outputs:
        assert found.outputs[output].read_bytes() == expected.outputs[output].read_bytes()
    assert found.counts == {**expected.counts, "ahead": 3}
