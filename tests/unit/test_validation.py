import contextlib
import copy
import functools
import itertools
import json
import operator
import string
from pathlib import Path

import pytest
import yaml
from evolution_operator.api.messages import PATTERNS
from evolution_operator.api.spec import EvolutionRun
from evolution_operator.api.validation import RunFileError, faults, load_run, resolve_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.run_document import minimal_spec, run_document

LEAST = run_document(minimal_spec(seed_uri="file:///data/esconv.jsonl"))
ABSENT = object()


def changed(path, value):
    """The least manifest with one place in it changed, added or (ABSENT) taken away."""
    document = copy.deepcopy(LEAST)
    place = document
    for part in path[:-1]:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def found(document):
    return [str(fault) for fault in faults(document)]


def source(**fields):
    return {"uri": "file:///data/x.json", "format": "esconv", **fields}


MAPPING = {"turns": "t", "speaker": "s", "text": "x", "seeker": ["u"], "supporter": ["a"]}

RIGHT = [
    (("spec", "iterations"), 0),
    (("spec", "sft"), None),
    (("spec", "sft", "learningRate"), 1),
    (("spec", "sft"), {"processes": 4, "nodes": 2, "sharding": "full"}),
    (("spec", "sft", "lora", "targetModules"), ["q_proj", "v_proj"]),
    (("spec", "pod", "resources", "limits"), {"nvidia.com/gpu": 1, "memory": "48Gi"}),
    (("spec", "pod", "affinity"), {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": None}}),
    (("spec", "data", "seed", 0), source(format="mapping", mapping=MAPPING)),
    (("spec", "data", "test"), [{"uri": "hf://o/d", "format": "esconv", "split": "test", "revision": "main"}]),
    (("spec", "data", "replay"), [source(format="alpaca", samples=500)]),
    (("spec", "storage"), {"uri": "s3://bucket/runs", "endpoint": "http://[fd00::1]:9000"}),
    (("metadata", "labels"), {"app.kubernetes.io/part-of": "study"}),
    (("status",), {"phase": "Running"}),
]


@pytest.mark.parametrize(("path", "value"), RIGHT)
def test_a_right_manifest_has_no_faults(path, value):
    assert found(changed(path, value)) == []


WRONG = [
    # what the document is
    (("apiVersion",), "evolution.run/v1", "apiVersion: must be 'evolution.run/v1alpha1', not 'evolution.run/v1'"),
    (("kind",), "Evolution", "kind: must be 'EvolutionRun', not 'Evolution'"),
    (("spec",), ABSENT, "spec: is required"),
    (("spec",), None, "spec: is required"),
    (("spec", "data", "seed", 0, "format"), ABSENT, "spec.data.seed[0].format: is required"),
    (
        ("metadata", "name"),
        "My_Run",
        "metadata.name: must be of a-z, 0-9 and - only, and start and end with a letter or digit, not 'My_Run'",
    ),
    (("metadata", "name"), "x" * 41, "metadata.name: takes at most 40 characters"),
    # unknown fields
    (("spec", "dpo", "betta"), 0.2, "spec.dpo.betta: unknown field; did you mean beta?"),
    (("spec", "base_model"), {}, "spec.base_model: unknown field; did you mean baseModel?"),
    (("spec", "Iterations"), 2, "spec.Iterations: unknown field; did you mean iterations?"),
    (
        ("spec", "retry", "colour"),
        None,
        "spec.retry.colour: unknown field; remove it (known here: maxAttempts, backoffSeconds, maxBackoffSeconds)",
    ),
    (("spec", "data", "seed", 0, "url"), "x", "spec.data.seed[0].url: unknown field; did you mean uri?"),
    (("spec", "pod", "resources", "limit"), {}, "spec.pod.resources.limit: unknown field; did you mean limits?"),
    # types
    (("spec", "iterations"), "2", "spec.iterations: must be a whole number, not '2'"),
    (("spec", "iterations"), 1.5, "spec.iterations: must be a whole number, not 1.5"),
    (("spec", "iterations"), True, "spec.iterations: must be a whole number, not true"),
    (("spec", "suspend"), "no", "spec.suspend: must be true or false, not 'no'"),
    (("spec", "dpo", "beta"), "0.1", "spec.dpo.beta: must be a number, not '0.1'"),
    (("spec", "dpo", "beta"), float("inf"), "spec.dpo.beta: must be a finite number, not inf"),
    (("spec", "sft"), [], "spec.sft: must be a mapping, not a list"),
    (("spec", "data", "seed"), {"uri": "x"}, "spec.data.seed: must be a list, not a mapping"),
    (("spec", "data", "seed", 0), "file:///x", "spec.data.seed[0]: must be a mapping, not 'file:///x'"),
    (("spec", "pod", "nodeSelector"), {"a/b": 1}, 'spec.pod.nodeSelector["a/b"]: must be text: put 1 in quotes'),
    (
        ("spec", "pod", "resources", "limits"),
        {"cpu": 1.5},
        "spec.pod.resources.limits.cpu: must be text or a whole number: put 1.5 in quotes",
    ),
    (
        ("spec", "sft", "lora", "targetModules"),
        "all",
        "spec.sft.lora.targetModules: must be a list, not 'all'",
    ),
    (
        ("spec", "sft", "lora", "targetModules"),
        ["q", 3],
        "spec.sft.lora.targetModules[1]: must be text: put 3 in quotes",
    ),
    # bounds and enums
    (("spec", "iterations"), 101, "spec.iterations: must be at most 100, not 101"),
    (("spec", "generation", "shards"), 0, "spec.generation.shards: must be at least 1, not 0"),
    (("spec", "dpo", "beta"), 0, "spec.dpo.beta: must be more than 0, not 0"),
    (("spec", "data", "validationFraction"), 1, "spec.data.validationFraction: must be less than 1, not 1"),
    (("spec", "data", "seed"), [], "spec.data.seed: needs at least 1 entry"),
    (("spec", "data", "onBadRow"), "drop", "spec.data.onBadRow: must be 'fail' or 'skip', not 'drop'"),
    (("spec", "storage", "uri"), "/runs", "spec.storage.uri: must start with file:// or s3://, not '/runs'"),
    # rules across fields
    (
        ("spec", "data", "seed", 0),
        source(format="mapping", mapping=MAPPING | {"supporter": ["a", "u"]}),
        "spec.data.seed[0].mapping.supporter: shares a value with seeker: each speaker value must mean only one of them",
    ),
    (
        ("spec", "data", "seed", 0),
        source(format="mapping"),
        "spec.data.seed[0].mapping: is needed with format: mapping, and only then; "
        "say where turns, speaker and text are, or remove it",
    ),
    (("spec", "data", "seed", 0), source(split="x"), "spec.data.seed[0].split: applies to hf:// only; remove it"),
    (("spec", "storage", "region"), "x", None),
    (
        ("spec", "storage"),
        {"uri": "file:///runs", "region": "x"},
        "spec.storage.region: applies to s3:// only; remove it",
    ),
    (
        ("spec", "data", "replay"),
        [source()],
        "spec.data.replay: takes general instruction samples: give each source format: alpaca",
    ),
    (
        ("spec", "sft"),
        {"processes": 4, "nodes": 3},
        "spec.sft.processes: times nodes exceeds batchSize times gradientAccumulation, the rows of an optimiser step: each "
        "process needs a row",
    ),
    (
        ("spec", "baseModel"),
        {"uri": "hf://o/m", "quantization": "int8"},
        "spec.baseModel.quantization: must be 'nf4', not 'int8'",
    ),
    (
        ("spec", "dpo"),
        {"sharding": "full"},
        "spec.dpo.sharding: full spreads the base model over several processes: set processes or nodes",
    ),
    (
        ("spec", "data", "test"),
        [source(), source(format="alpaca")],
        "spec.data.test: takes dialogues: format alpaca has none, so move the source to replay",
    ),
]


def test_4_bits_exclude_sharding():
    document = changed(("spec", "dpo"), {"processes": 2, "sharding": "full"})
    document["spec"]["baseModel"]["quantization"] = "nf4"
    assert found(document) == [
        "spec.baseModel: quantization cannot be combined with sharding: full; use one of them for a model that is larger "
        "than a GPU"
    ]


@pytest.mark.parametrize("block", ["generation", "reflection", "evaluation"])
def test_4_bits_exclude_vllm(block):
    document = changed(("spec", block), {"engine": "vllm"})
    assert found(document) == []
    document["spec"]["baseModel"]["quantization"] = "nf4"
    assert found(document) == [
        "spec.baseModel: quantization cannot be combined with engine: vllm; set engine: transformers or auto"
    ]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_each_fault_has_its_path_and_says_what_to_do(path, value, expected):
    assert found(changed(path, value)) == ([expected] if expected else [])


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_a_document_that_is_no_mapping(document):
    assert found(document) == ["must be a mapping with apiVersion, kind, metadata and spec"]


def test_all_faults_are_listed_at_once():
    document = changed(("spec", "iterations"), "two")
    document["kind"] = "Evolution"
    spec = document["spec"]
    spec["dpo"] = {"betta": 1}
    spec["baseModel"] = {"uri": "s3://models/a", "revision": "main"}
    spec["data"] = {
        "seed": [source(format="esconf", sha256="0" * 64, endpoint="http://s3"), source(format="alpaca")],
        "replay": [source(format="extes")],
        "contexts": [source(format="mapping")],
        "validationFraction": 2,
    }
    assert {fault.path for fault in faults(document)} == {
        "kind",
        "spec.iterations",
        "spec.dpo.betta",
        "spec.baseModel.revision",
        "spec.data.seed[0].format",
        "spec.data.seed[0].endpoint",  # a rule of a document with another fault
        "spec.data.replay",  # rules of the document around it
        "spec.data.contexts[0].mapping",
        "spec.data.validationFraction",
    }


def test_a_rule_is_left_undecided_where_a_field_that_it_reads_is_wrong():
    document = changed(("spec", "storage"), {"uri": "ftp://x", "region": "eu"})
    assert [fault.path for fault in faults(document)] == ["spec.storage.uri"]


def test_a_value_that_may_be_a_secret_is_not_repeated():
    document = changed(("spec", "storage", "credentialsSecret"), "wJalr/K7MDENG+bPx")
    assert "wJalr" not in " ".join(found(document))
    assert [fault.path for fault in faults(document)] == ["spec.storage.credentialsSecret"]


def test_every_pattern_of_the_resource_is_explained_in_words():
    def patterns(schema):
        if isinstance(schema, dict):
            if isinstance(schema.get("pattern"), str):
                yield schema["pattern"]
            schema = list(schema.values())
        if isinstance(schema, list):
            for part in schema:
                yield from patterns(part)

    assert set(patterns(EvolutionRun.model_json_schema())) == set(PATTERNS)


# ---- files

TEXT = yaml.safe_dump(LEAST)


def refused(tmp_path, data):
    path = tmp_path / "run.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(RunFileError) as error:
        load_run(path)
    assert str(error.value).splitlines() == [f"{path}: {fault}" for fault in error.value.faults]
    return [str(fault) for fault in error.value.faults]


def test_a_right_file_is_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"# comment\n---\n{TEXT}\n---\n# nothing more\n")
    assert load_run(path).spec.iterations == 2


def test_numbers_and_dates_are_read_as_kubectl_reads_them(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(TEXT + "  sft: {learningRate: 1e-4}\n  queueName: 2026-01-01\n")
    spec = load_run(path).spec
    assert (spec.sft.learning_rate, spec.queue_name) == (1e-4, "2026-01-01")


FILES = [
    ("empty", "", ["is empty: write one EvolutionRun or Experiment"]),
    ("comment", "# nothing\n---\n", ["is empty: write one EvolutionRun or Experiment"]),
    ("list", "- 1\n", ["must be a mapping with apiVersion, kind, metadata and spec"]),
    (
        "two documents",
        f"---\n{TEXT}---\n{TEXT}",
        ["holds 2 documents (at lines 2, 16): keep one EvolutionRun or Experiment"],
    ),
    (
        "latin-1",
        TEXT.encode() + "# caf\xe9".encode("latin-1"),
        ["line 14 is not UTF-8: save the file in that encoding"],
    ),
    (
        "syntax",
        "spec:\n  a: 1\n b: 2\n",
        ["line 3, column 2: not YAML: expected <block end>, but found '<block mapping start>'"],
    ),
    ("tab", "spec:\n\ta: 1\n", ["line 2, column 1: not YAML: found character '\\t' that cannot start any token"]),
    ("control", "a: 1\nb: \x00\n", ["line 2: not YAML: character U+0000 is not allowed"]),
    (
        "python object",
        "a: !!python/object/apply:os.getcwd []\n",
        [
            "line 1, column 4: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'"
        ],
    ),
    ("deep", "[" * 2000, ["is nested too deeply: this is neither an EvolutionRun nor an Experiment"]),
    ("large", "#" * (1 << 21), ["is larger than 1 MiB: this is neither an EvolutionRun nor an Experiment"]),
    (
        "bomb",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcdefghi")),
        ["holds more than 10000 values once its aliases are followed"],
    ),
    ("recursion", "a: &a [*a]\n", ["holds more than 10000 values once its aliases are followed"]),
]


@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_file_that_cannot_be_used(tmp_path, data, expected):
    assert refused(tmp_path, data) == expected


def test_a_number_too_long_to_be_read_is_a_fault_of_its_field(tmp_path):
    text = TEXT + f"  seed: {'9' * 5000}\n  retry: {{maxAttempts: 0}}\n"
    assert refused(tmp_path, text) == [
        "spec.seed: line 14: the number has too many digits",
        "spec.retry.maxAttempts: must be at least 1, not 0",
    ]


def test_keys_written_twice_and_keys_that_are_no_text_are_faults_beside_the_others(tmp_path):
    text = TEXT + "  iterations: 1\n  iterations: 2\n  pod: {labels: {on: a, 3: b}}\n  retry: {maxAttempts: 0}\n"
    assert refused(tmp_path, text) == [
        "spec.iterations: is written twice, on lines 14 and 15: remove one",
        "spec.pod.labels.on: the key on line 16 is not text: write it in quotes",
        'spec.pod.labels["3"]: the key on line 16 is not text: write it in quotes',
        "spec.retry.maxAttempts: must be at least 1, not 0",
    ]


def test_an_unknown_field_whose_key_is_no_text_has_one_fault(tmp_path):
    (fault,) = refused(tmp_path, TEXT + "  3: 1\n")
    assert fault.startswith('spec["3"]: unknown field; remove it')


def test_files_that_cannot_be_opened(tmp_path):
    for path, reason in ((tmp_path / "missing.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RunFileError) as error:
            load_run(path)
        assert str(error.value) == f"{path}: cannot be read: {reason}"


# ---- hostile and unlucky input never ends in anything but a RunFileError

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, part))


FULL = json.loads(EvolutionRun.model_validate(LEAST).model_dump_json(by_alias=True))
FULL["spec"]["data"]["contexts"] = [source(format="mapping", mapping=MAPPING)]
PLACES = [path for path in places(FULL) if path]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PLACES), junk), min_size=1, max_size=4))
def test_any_change_is_either_right_or_explained(tmp_path_factory, changes):
    document = copy.deepcopy(FULL)
    for path, value in changes:
        with contextlib.suppress(LookupError, TypeError):  # an earlier change has taken the place away
            functools.reduce(operator.getitem, path[:-1], document)[path[-1]] = value
    problems = faults(document)
    assert all(fault.message and "Input should" not in fault.message for fault in problems)
    assert len(set(problems)) == len(problems)
    if not problems:
        path = tmp_path_factory.mktemp("any") / "run.yaml"
        path.write_text(yaml.safe_dump(document))
        assert load_run(path).spec


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet=string.printable, max_size=200).map(str.encode))
def test_any_file_is_either_read_or_explained(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "run.yaml"
    path.write_bytes(data)
    with pytest.raises(RunFileError) as error:
        load_run(path)
    assert error.value.faults


# ---- relative paths


def test_relative_paths_start_at_the_manifest(tmp_path):
    document = copy.deepcopy(LEAST)
    document["spec"]["storage"]["uri"] = "file://../runs"
    document["spec"]["baseModel"]["uri"] = "file://models/small"
    document["spec"]["data"] = {
        "seed": [{"uri": "file://esconv.jsonl", "format": "esconv"}],
        "contexts": [source()],
        "test": [{"uri": "hf://o/d", "format": "esconv"}],
        "replay": [source(uri="file://./replay.jsonl", format="alpaca")],
    }
    document["spec"]["evaluation"] = {"sentenceModel": {"uri": "file://models/sentences"}}
    run = EvolutionRun.model_validate(document)
    directory = Path("/my runs/quickstart")
    spec = resolve_paths(run, directory).spec
    assert spec.storage.uri == "file:///my%20runs/runs"
    assert spec.base_model.uri == "file:///my%20runs/quickstart/models/small"
    assert spec.evaluation.sentence_model.uri == "file:///my%20runs/quickstart/models/sentences"
    assert [s.uri for s in spec.data.seed] == ["file:///my%20runs/quickstart/esconv.jsonl"]
    assert [s.uri for s in spec.data.replay] == ["file:///my%20runs/quickstart/replay.jsonl"]
    assert [s.uri for s in spec.data.contexts] == ["file:///data/x.json"]
    assert [s.uri for s in spec.data.test] == ["hf://o/d"]
    assert resolve_paths(EvolutionRun.model_validate(LEAST), tmp_path) == EvolutionRun.model_validate(LEAST)
