"""What a stage's key is made of: all that decides its result, and nothing else."""

import copy
import json
from pathlib import Path

import pytest
from evolution_jobs.contract import keys as contract_keys
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import canonical_digest, content_digest
from evolution_jobs.contract.settings import JudgeSettings, PairwiseJudge, TeacherSettings
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.planner.graph import build_graph
from hypothesis import given
from hypothesis import strategies as st

from tests.support.run_document import minimal_spec

CONTENTS = {name: name[0] * 64 for name in ("model", "train", "validation", "contexts", "test", "replay")}
SPEC = minimal_spec(seed_uri="file:///data/esconv.jsonl", iterations=2)


MAPPING = {"turns": "dialog", "speaker": "who", "text": "said", "seeker": ["user"], "supporter": ["helper"]}


def keys_of(changes=(), contents=CONTENTS, pins=None):
    spec = copy.deepcopy(SPEC)
    for path, value in changes:
        place = spec
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return resolve_keys(build_graph(EvolutionRunSpec.model_validate(spec), pins or {}), contents)


KEYS = keys_of()
ALL = set(KEYS)
DPO_AND_LATER = {"dpo-1", "evaluate-1", "generate-2", "reflect-2", "dpo-2", "evaluate-2"}
ROUNDS = DPO_AND_LATER | {"generate-1", "reflect-1"}
EVALUATIONS = {"evaluate-0", "evaluate-1", "evaluate-2"}


def changed(keys):
    return {stage for stage in KEYS if keys[stage] != KEYS[stage]}


# How a result is made, where it goes and what becomes of the run decides no result.
NEUTRAL = [
    (("generation", "shards"), st.integers(1, 1000)),
    (("reflection", "shards"), st.integers(1, 1000)),
    (("evaluation", "shards"), st.integers(1, 1000)),
    (("generation", "tokenBudget"), st.integers(128, 10_000_000)),
    (("reflection", "tokenBudget"), st.integers(128, 10_000_000)),
    (("evaluation", "tokenBudget"), st.integers(128, 10_000_000)),
    (("sft", "checkpointSteps"), st.integers(1, 100_000)),
    (("dpo", "checkpointSteps"), st.integers(1, 100_000)),
    (("storage", "uri"), st.sampled_from(["file:///elsewhere", "s3://other/prefix"])),
    (("storage", "region"), st.sampled_from(["eu-central-1", "us-west-2"])),
    (("pod", "image"), st.text(min_size=1, max_size=20)),
    (("sft", "pod"), st.fixed_dictionaries({"priorityClassName": st.just("high")})),
    (("prepare", "pod"), st.fixed_dictionaries({"nodeSelector": st.just({"disk": "ssd"})})),
    (("retry", "maxAttempts"), st.integers(1, 100)),
    (("activeDeadlineSeconds",), st.integers(1, 1000)),
    (("ttlSecondsAfterFinished",), st.integers(0, 1000)),
    (("evaluation", "championMetric"), st.sampled_from(["bleu_sacre", "perplexity"])),
    (("evaluation", "championRule"), st.just("best")),
    (("stopping",), st.just({"lengthRatio": 2})),
    (("queueName",), st.just("research")),
    (("suspend",), st.booleans()),
]
neutral = st.lists(st.sampled_from(NEUTRAL), unique_by=lambda place: place[0]).flatmap(
    lambda places: st.tuples(*(st.tuples(st.just(path), values) for path, values in places))
)


def region_needs_s3(changes):
    paths = dict(changes)
    return ("storage", "region") in paths and str(paths.get(("storage", "uri"), "s3")).startswith("file")


@given(neutral.filter(lambda changes: not region_needs_s3(changes)))
def test_what_decides_no_result_is_in_no_key(changes):
    assert keys_of(changes) == KEYS


DECIDING = [
    (("dpo", "beta"), 0.2, DPO_AND_LATER),
    (("dpo", "sftWeight"), 0.5, DPO_AND_LATER),
    (("dpo", "learningRate"), 1e-6, DPO_AND_LATER),
    (("reflection", "maxLengthRatio"), 3.0, DPO_AND_LATER | {"reflect-1"}),
    (("reflection", "fields"), [{"name": "goal"}], DPO_AND_LATER | {"reflect-1"}),
    (("preferenceSource",), "none", DPO_AND_LATER | {"reflect-1"}),
    (("generation", "temperature"), 0.5, ROUNDS),
    (("sft", "lora"), {"r": 16}, ALL - {"prepare"}),
    (("sft", "epochs"), 3, ALL - {"prepare"}),
    # prepare looks these up in the model.
    (("sft", "lora"), {"targetModules": ["q_proj"]}, ALL),
    (("sft", "maxLength"), 1024, ALL),
    (("dpo", "maxLength"), 1024, DPO_AND_LATER | {"prepare"}),
    (("generation", "maxNewTokens"), 100, ROUNDS | {"prepare"}),
    (("evaluation", "samples"), 10, EVALUATIONS),
    (("evaluation", "topK"), 1, EVALUATIONS),
    (("evaluation", "optionalFigures"), ["meteor"], EVALUATIONS),
    (("evaluation", "profile"), {}, EVALUATIONS | {"prepare"}),
    (("seed",), 1, ALL),
    # Prepare is asked again; if it finds the same contents, nothing else is.
    (("baseModel", "uri"), "hf://owner/other", {"prepare"}),
    (("data", "validationFraction"), 0.2, {"prepare"}),
]


@pytest.mark.parametrize(("path", "value", "expected"), DECIDING)
def test_what_decides_a_result_is_in_its_key_and_in_those_that_read_it(path, value, expected):
    assert changed(keys_of([(path, value)])) == expected


TEACHER = {"url": "http://teacher:8000/v1", "model": "large"}
HOW_A_TEACHER_IS_ASKED = {
    "url": "https://elsewhere/v1",
    "apiKeySecret": "other",
    "concurrency": 64,
    "requestsPerMinute": 10,
    "timeoutSeconds": 9,
    "maxAttempts": 1,
    "pricePerMillionInputTokens": 1.5,
    "pricePerMillionOutputTokens": 3,
    "tokenLimitField": "max_completion_tokens",
}
WHAT_A_TEACHER_SAYS = {"model": "larger", "temperature": 0.5, "topP": 0.9, "maxTokens": 99}


def taught(**changes):
    return keys_of([(("preferenceSource",), "teacher"), (("teacher",), {**TEACHER, **changes})])


def test_of_a_teacher_only_what_decides_its_answers_is_in_a_key():
    assert set(HOW_A_TEACHER_IS_ASKED) | set(WHAT_A_TEACHER_SAYS) == {
        field.alias for field in TeacherSettings.model_fields.values()
    }
    keys = taught()
    for field, value in HOW_A_TEACHER_IS_ASKED.items():
        assert taught(**{field: value}) == keys, field
    for field, value in WHAT_A_TEACHER_SAYS.items():
        changed_keys = taught(**{field: value})
        assert {stage for stage in keys if keys[stage] != changed_keys[stage]} == DPO_AND_LATER | {"reflect-1"}, field


JUDGE = {"url": "http://judge:8000/v1", "model": "large"}
WHAT_A_JUDGE_SAYS = {"model": "larger", "temperature": 0.5, "maxTokens": 99, "samples": 7, "seed": 3}


def judged(**changes):
    return keys_of([(("judge",), {**JUDGE, **changes})])


def test_of_a_judge_only_what_decides_its_verdicts_is_in_its_key():
    assert set(HOW_A_TEACHER_IS_ASKED) | set(WHAT_A_JUDGE_SAYS) == {
        field.alias for field in JudgeSettings.model_fields.values()
    }
    keys = judged()
    assert keys.keys() - KEYS.keys() == {f"judge-{t}" for t in range(3)}
    assert KEYS.items() <= keys.items()
    for field, value in {**HOW_A_TEACHER_IS_ASKED, "shards": 3}.items():
        assert judged(**{field: value}) == keys, field
    for field, value in WHAT_A_JUDGE_SAYS.items():
        other = judged(**{field: value})
        assert {stage for stage in keys if keys[stage] != other[stage]} == {f"judge-{t}" for t in range(3)}, field


REWARD = {"model": {"uri": "hf://owner/reward"}}
SCORED = {**CONTENTS, "reward-model": "d" * 64}


def rewarded(contents=SCORED, **changes):
    return keys_of([(("preferenceSource",), "reward"), (("reward",), {**REWARD, **changes})], contents)


def test_a_reward_model_counts_by_its_content_and_only_where_it_is_read():
    keys = rewarded()

    def changed_by(**changes):
        other = rewarded(**changes)
        return {stage for stage in keys if keys[stage] != other[stage]}

    assert changed_by(model={"uri": "s3://bucket/reward"}) == {"prepare"}
    assert changed_by(contents={**CONTENTS, "reward-model": "e" * 64}) == DPO_AND_LATER | {"reflect-1"}
    for field, value in {"candidates": 3, "refine": False, "margin": 0.5}.items():
        assert changed_by(**{field: value}) == DPO_AND_LATER | {"reflect-1"}, field
    assert changed_by(maxLength=999) == DPO_AND_LATER | {"reflect-1", "prepare"}
    assert changed_by(batchSize=1) == set()
    assert set(rewarded(contents=CONTENTS)) == {"prepare", "sft", "generate-1", "evaluate-0"}


def test_a_sentence_model_counts_by_its_content_and_only_for_evaluations():
    setting = ("evaluation", "sentenceModel")
    contents = {**CONTENTS, "sentence-model": "d" * 64}
    keys = keys_of([(setting, {"uri": "package://one"})], contents)
    assert changed(keys) == EVALUATIONS | {"prepare"}
    other = keys_of([(setting, {"uri": "package://two"})], contents)
    assert {stage for stage in keys if keys[stage] != other[stage]} == {"prepare"}
    other = keys_of([(setting, {"uri": "package://one"})], {**CONTENTS, "sentence-model": "e" * 64})
    assert {stage for stage in keys if keys[stage] != other[stage]} == EVALUATIONS


def test_of_a_judge_that_ranks_only_what_decides_its_verdicts_is_in_the_key_of_reflect():
    def ranked(**changes):
        return keys_of([(("preferenceSource",), "reward"), (("reward",), {"judge": {**JUDGE, **changes}})])

    said = {"model": "larger", "temperature": 0.5, "maxTokens": 99}
    assert set(HOW_A_TEACHER_IS_ASKED) | set(said) == {field.alias for field in PairwiseJudge.model_fields.values()}
    keys = ranked()
    assert changed(keys) == DPO_AND_LATER | {"reflect-1"}
    for field, value in HOW_A_TEACHER_IS_ASKED.items():
        assert ranked(**{field: value}) == keys, field
    for field, value in said.items():
        other = ranked(**{field: value})
        assert {stage for stage in keys if keys[stage] != other[stage]} == DPO_AND_LATER | {"reflect-1"}, field


def test_weights_are_in_the_keys_of_mixed_pairs():
    mixes = [
        keys_of([(("preferenceSource",), "mixed"), (("preferenceWeights",), weights)])["reflect-1"]
        for weights in ({"self": 3, "human": 1}, {"self": 1, "human": 3}, {"self": 3, "none": 1})
    ]
    assert len({*mixes, KEYS["reflect-1"]}) == 4


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("test", EVALUATIONS),
        ("contexts", ROUNDS),
        ("train", ALL - {"prepare"}),
        ("validation", ALL - {"prepare"}),
        ("model", ALL - {"prepare"}),
        ("replay", set()),  # this run has none
    ],
)
def test_contents_change_only_what_reads_them(output, expected):
    assert changed(keys_of(contents={**CONTENTS, output: "f" * 64})) == expected


@given(st.integers(0, 6), st.integers(0, 6))
def test_more_iterations_keep_every_key(fewer, more):
    fewer, more = sorted((fewer, more))
    before, after = (keys_of([(("iterations",), count)]) for count in (fewer, more))
    assert before.items() <= after.items()
    assert len(after) == 3 + 4 * more
    assert len(set(after.values())) == len(after)


def test_before_prepare_has_run_only_its_own_key_is_known():
    assert keys_of(contents=None) == {"prepare": KEYS["prepare"]}


def test_what_prepare_does_not_list_leaves_its_readers_without_a_key():
    contents = {name: digest for name, digest in CONTENTS.items() if name != "contexts"}
    assert set(keys_of(contents=contents)) == {"prepare", "sft", "evaluate-0"}


@pytest.mark.parametrize(
    ("kind", "expected"), [("dpo", DPO_AND_LATER), ("evaluate", EVALUATIONS), ("prepare", {"prepare"})]
)
def test_a_new_code_version_makes_its_stages_again(monkeypatch, kind, expected):
    monkeypatch.setitem(contract_keys.CODE_VERSIONS, kind, 1000)
    assert changed(keys_of()) == expected


def test_a_replayed_set_is_part_of_sft_only_where_it_is_read():
    replay = [(("data", "replay"), [{"uri": "file:///data/a.json", "format": "alpaca"}])]
    assert changed(keys_of(replay)) == ALL
    other = keys_of(replay, {**CONTENTS, "replay": "f" * 64})
    assert {stage for stage, key in keys_of(replay).items() if key != other[stage]} == ALL - {"prepare"}


def test_keys_are_those_that_finished_results_are_stored_under():
    """Results in users' stores have these keys.

    Write the file again only for a raised `CODE_VERSIONS`, or for a new setting of prepare, which is cheap to repeat.
    """
    rich = [
        (("seed",), 7),
        (("baseModel",), {"uri": "hf://owner/model", "revision": "main"}),
        (("data", "replay"), [{"uri": "hf://owner/alpaca", "format": "alpaca", "samples": 500, "split": "train"}]),
        (("data", "contexts"), [{"uri": "file:///c.json", "format": "mapping", "mapping": MAPPING}]),
        (("data", "contextsPerDialogue"), 2),
        (("sft",), {"epochs": 3, "learningRate": 1, "lora": {"r": 4, "dropout": 0, "targetModules": ["q_proj"]}}),
        (("generation",), {"temperature": 1, "shards": 3}),
        (("reflection",), {"maxLengthRatio": 3, "maxAttempts": 1}),
        (("dpo",), {"beta": 1, "sftWeight": 2, "warmupRatio": 0}),
        (("evaluation",), {"samples": 10, "repetitionPenalty": 1}),
        (("preferenceSource",), "none"),
    ]
    keys = {"least": KEYS, "rich": keys_of(rich, pins={"run": "uid"})}
    assert keys == json.loads((Path(__file__).parent / "golden" / "keys.json").read_text())


# ---- digests

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def reordered(value):
    if isinstance(value, dict):
        return {name: reordered(value[name]) for name in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_a_digest_does_not_depend_on_the_order_of_keys_or_on_a_trip_over_the_wire(value):
    assert canonical_digest(value) == canonical_digest(reordered(value))
    assert canonical_digest(value) == canonical_digest(json.loads(json.dumps(value)))


@given(values, values)
def test_equal_digests_mean_equal_values(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical_digest(one) == canonical_digest(other)) == same


def test_a_digest_is_the_same_on_every_machine():
    assert canonical_digest({"b": [1, 2.5, None], "a": "é"}) == (
        "d764fee2563da33e3d57334755404e635da33c995824b0adfabc4b6e1af4f608"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_cannot_say_has_no_digest(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_digest(value)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=6), st.randoms())
def test_a_set_of_files_has_one_digest_in_any_order(files, random):
    shuffled = random.sample(files, len(files))
    assert content_digest(shuffled) == content_digest(files)
