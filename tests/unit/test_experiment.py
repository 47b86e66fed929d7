"""Experiments: a base and variants become runs, and the arms share every stage that does not differ."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result as Output
from evolution_jobs.contract.errors import PermanentError, TransientError
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.runner import Stage
from evolution_operator.api.experiment import expand, load_experiment, load_runs, merged
from evolution_operator.api.run_file import read_document, write_documents
from evolution_operator.api.spec import EvolutionRun
from evolution_operator.api.validation import RunFileError, load_run, validated
from evolution_operator.cli.main import app
from evolution_operator.local.load import local_arms
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Run
from evolution_operator.planner.sharing import keys_before_prepare, shared_with
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.pages import masked
from tests.support.run_document import experiment_document, minimal_spec, run_document
from tests.support.shell import Shell
from tests.support.stages.fake_processes import Process, Server, compute, raising
from tests.unit.test_compare import answers, write
from tests.unit.test_load import manifest, prepare_key

EXAMPLES = Path(__file__).parents[2] / "examples"
TEACHER = {"url": "http://vllm:8000/v1", "model": "large"}
SELF: dict[str, Any] = {"name": "self"}

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_patch_is_applied_as_in_appendix_a_of_rfc_7386(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@settings(max_examples=50)
@given(VALUES, VALUES)
def test_a_patch_that_was_applied_changes_nothing_when_applied_again(target: Any, patch: Any) -> None:
    before = deepcopy((target, patch))
    once = merged(target, patch)
    assert merged(once, patch) == once
    assert (target, patch) == before, "neither is changed in place"


@settings(max_examples=50)
@given(MAPPINGS, MAPPINGS)
def test_a_patch_decides_its_own_fields_and_no_others(target: dict[str, Any], patch: dict[str, Any]) -> None:
    found = merged(target, patch)
    assert {name for name in found if name not in patch} == {name for name in target if name not in patch}
    for name, value in patch.items():
        if value is None:
            assert name not in found
        else:
            assert found[name] == merged(target.get(name), value)


def fault(*variants: Any, base: dict[str, Any] | None = None, **metadata: Any) -> list[str]:
    """What is said of an experiment with these variants."""
    experiment, found = expand(experiment_document(*variants, base=base, **metadata))
    assert (experiment is None) == bool(found)
    return [str(each) for each in found]


def test_each_variant_is_a_run_of_its_own() -> None:
    variants = (
        SELF,
        {"name": "beta-0.3", "set": {"dpo": {"beta": 0.3}}},
        {"name": "teacher", "set": {"preferenceSource": "teacher", "teacher": TEACHER, "seed": None}},
    )
    base = minimal_spec(seed=7, dpo={"learningRate": 1e-5})
    document = experiment_document(*variants, base=base, name="x", namespace="lab", labels={"team": "a"})
    experiment, found = expand(document)
    assert experiment is not None, found
    assert (experiment.namespace, experiment.name) == ("lab", "x")
    assert [arm.run.metadata.name for arm in experiment.arms] == ["x-self", "x-beta-0-3", "x-teacher"]
    one, beta, teacher = (arm.run.spec for arm in experiment.arms)
    assert one == EvolutionRun.model_validate(run_document(base)).spec
    assert (beta.dpo.beta, beta.dpo.learning_rate, beta.seed) == (0.3, 1e-5, 7)
    assert (teacher.sources, teacher.seed) == ({"teacher": 1}, 0)
    labels = {"team": "a", "evolution.run/experiment": "x", "evolution.run/variant": "beta-0.3"}
    assert experiment.arms[1].document["metadata"] == {"name": "x-beta-0-3", "namespace": "lab", "labels": labels}


def test_a_fault_is_at_the_place_where_the_user_wrote_the_field() -> None:
    assert fault(SELF, {"name": "b", "set": {"dpo": {"betaa": 0.3}}}) == [
        "spec.variants[1].set.dpo.betaa: variant b: unknown field; did you mean beta?"
    ]
    # Said once, although both arms have it.
    assert fault(SELF, {"name": "b", "set": {"seed": 1}}, base=minimal_spec(dpo={"betaa": 1})) == [
        "spec.base.dpo.betaa: unknown field; did you mean beta?"
    ]
    assert fault(SELF, {"name": "b", "set": {"preferenceSource": "mixed"}}) == [
        "spec.variants[1].set.preferenceWeights: variant b: belongs to preferenceSource: mixed, and that needs it"
    ]
    assert fault({"name": "a", "set": {"storage": None}}) == ["spec.variants[0].set.storage: variant a: is required"]
    wrong = {"name": "a", "set": {"data": {"test": [{"uri": "hf://o/d", "format": "alpaca"}]}}}
    assert fault(wrong)[0].startswith("spec.variants[0].set.data.test: variant a: takes dialogues")


def test_what_a_variant_must_remove_from_the_base_is_said() -> None:
    base = minimal_spec(preferenceSource="teacher", teacher=TEACHER)
    assert fault({"name": "teacher"}, {"name": "human", "set": {"preferenceSource": "human"}}, base=base) == [
        "spec.variants[1].set.teacher: variant human: must be set if the teacher is a preference source, and only then; "
        "it comes from the base, and null removes it"
    ]
    assert fault({"name": "human", "set": {"preferenceSource": "human", "teacher": None}}, base=base) == []


def test_a_base_may_be_completed_by_every_variant() -> None:
    base = minimal_spec(preferenceSource="mixed")
    variants = [{"name": f"w{n}", "set": {"preferenceWeights": {"self": n, "human": 1}}} for n in (1, 2)]
    assert fault(*variants, base=base) == []
    assert fault(SELF, *variants, base=base) == [
        "spec.base.preferenceWeights: belongs to preferenceSource: mixed, and that needs it"
    ]


def test_a_number_that_must_be_text_is_shown_as_the_variant_has_it(tmp_path: Path) -> None:
    text = yaml.safe_dump(experiment_document(SELF, {"name": "pinned", "set": {"baseModel": {"revision": "COMMIT"}}}))
    path = tmp_path / "x.yaml"
    path.write_text(text.replace("COMMIT", "72225e2"))
    with pytest.raises(RunFileError) as caught:
        load_experiment(path)
    assert [str(each) for each in caught.value.faults] == [
        "spec.variants[1].set.baseModel.revision: variant pinned: must be text: put 72225e2 in quotes"
    ]


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([], "spec.variants: needs at least 1 entry"),
        ([SELF, SELF], "spec.variants[1].name: another variant has this name, and their runs would both be named"),
        (
            [{"name": "a.b", "set": {"seed": 1}}, {"name": "a-b", "set": {"seed": 2}}],
            "spec.variants[1].name: variants a.b and a-b: their runs would both be named exp-a-b; choose another name",
        ),
        ([SELF, {"name": "again"}], "spec.variants[1]: variant again: is the same run as variant self; change"),
        (
            [{"name": "a", "set": {"seed": 1}}, {"name": "b", "set": {"seed": 1}}],
            "spec.variants[1]: variant b: is the same run as variant a; change or remove one",
        ),
        (
            [SELF, {"name": "default", "set": {"dpo": {"beta": 0.1}}}],
            "spec.variants[1].set: variant default: changes nothing of the base; without set, it is the base",
        ),
        (
            [SELF, {"name": "far", "set": {"storage": {"uri": "s3://other/runs"}}}],
            "spec.variants[1].set.storage: variant far: with another storage, nothing is shared: set it in the base",
        ),
        ([{"name": "n" * 37}], "spec.variants[0].name: the run would be named exp-nnn"),
        ([{"name": "Self"}], "spec.variants[0].name: must be of a-z, 0-9, - and . only"),
        ([{"name": "a", "sets": {}}], "spec.variants[0].sets: unknown field; did you mean set?"),
        ([{"set": {"seed": 1}}], "spec.variants[0].name: is required"),
        ([{"name": "a", "set": 3}], "spec.variants[0].set: must be a mapping, not 3"),
        ([None], "spec.variants[0]: must be a mapping, not null"),
    ],
)
def test_what_makes_no_experiment_is_refused(variants: list[Any], words: str) -> None:
    found = fault(*variants)
    assert len(found) == 1
    assert found[0].startswith(words)


def test_a_file_of_the_other_kind_names_the_command_for_it(tmp_path: Path) -> None:
    run, experiment = manifest(tmp_path), tmp_path / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(experiment_document(SELF)))
    with pytest.raises(RunFileError, match=r"kind: is Experiment, .*: use `evolution experiment run -f FILE`"):
        load_run(experiment)
    with pytest.raises(RunFileError, match=r"kind: is EvolutionRun, .*: use `evolution run -f FILE`"):
        load_experiment(run)
    assert load_runs(run) == load_run(run)
    assert load_runs(experiment) == load_experiment(experiment)


@given(
    st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            SCALARS
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.sampled_from(["1e5", "0o7", "yes", "y", "~", "2024-01-01"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_manifests_are_read_back_as_they_were_written(document: dict[str, Any]) -> None:
    text = write_documents([document])
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        assert read_document(Path(file.name))[0] == document


def test_manifests_are_the_runs_and_share_no_yaml_aliases(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(experiment_document(SELF, {"name": "b", "set": {"seed": 1}})))
    shown = CliRunner().invoke(app, ["experiment", "manifests", "-f", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "&" not in shown.output
    documents = list(yaml.safe_load_all(shown.output))
    assert [validated(each, {})[1] for each in documents] == [[], []]
    assert [each["metadata"]["name"] for each in documents] == ["exp-self", "exp-b"]


def test_a_file_is_validated_and_planned_by_the_commands_for_one_run(tmp_path: Path) -> None:
    path = EXAMPLES / "quickstart/experiment.yaml"
    valid = CliRunner().invoke(app, ["validate", "-f", str(path)])
    assert valid.stdout == f"{path}: valid; default/ablation, 3 runs: ablation-self, ablation-none, ablation-human\n"
    planned = CliRunner().invoke(app, ["plan", "-f", str(path), "--storage", str(tmp_path / "none"), "-o", "json"])
    arms = json.loads(planned.stdout)
    assert {arm: [row["stage"] for row in rows if row["sharedWith"]] for arm, rows in arms.items()} == {
        "self": [],
        "none": ["prepare", "sft", "generate-1", "evaluate-0"],
        "human": ["prepare", "sft", "generate-1", "evaluate-0"],
    }
    assert not (tmp_path / "none").exists(), "a plan writes nothing"


def test_the_example_is_checked_and_planned_as_the_page_shows(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with Shell(tmp_path, environment) as shell:
        shell.walk("experiments.md", "Check it", mask=masked)


def test_a_setting_that_only_prepare_checks_changes_no_later_stage(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        yaml.safe_dump(experiment_document(SELF, {"name": "x", "set": {"reflection": {"maxNewTokens": 64}}}))
    )
    contents = dict.fromkeys(("model", "train", "validation", "contexts", "test"), "digest")
    graphs = {variant: build_graph(run.spec, dict(run.pins)) for variant, run in local_arms(path).items()}
    shared = shared_with({variant: resolve_keys(graph, contents) for variant, graph in graphs.items()})
    assert set(shared["x"]) == {"sft", "generate-1", "evaluate-0"}, "and prepare is not shared"


def test_every_example_is_valid_and_the_ablation_is_that_of_the_quickstart() -> None:
    files = sorted(EXAMPLES.rglob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        load_runs(file)
    quickstart = load_run(EXAMPLES / "quickstart/evolutionrun.yaml").spec
    arms = load_experiment(EXAMPLES / "quickstart/experiment.yaml").arms
    assert {arm.variant: arm.run.spec.preference_source for arm in arms} == {n: n for n in ("self", "none", "human")}
    assert arms[0].run.spec == quickstart.model_copy(update={"iterations": 1})


def test_arms_look_at_the_hub_once_for_all_of_them(tmp_path: Path) -> None:
    base = minimal_spec(storage_uri=(tmp_path / "store").as_uri())
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(experiment_document(SELF, {"name": "b", "set": {"dpo": {"beta": 0.3}}}, base=base)))
    one, other = local_arms(path).values()
    assert prepare_key(one) == prepare_key(other)
    assert one.ref.uid != other.ref.uid, "each records what it uses"


def graph_keys(run: Run, contents: dict[str, str] | None = None) -> dict[str, str]:
    return keys_before_prepare(build_graph(run.spec, dict(run.pins)), contents)


def test_what_arms_will_share_is_known_before_prepare_has_run(tmp_path: Path) -> None:
    arms = local_arms(EXAMPLES / "quickstart/experiment.yaml", str(tmp_path))
    keys = {variant: graph_keys(run) for variant, run in arms.items()}
    shared = shared_with(keys)
    assert shared["self"] == {}
    assert set(shared["none"]) == set(shared["human"]) == {"prepare", "sft", "generate-1", "evaluate-0"}
    # The same as with the keys that follow from prepare's contents.
    contents = dict.fromkeys(("model", "train", "validation", "replay", "contexts", "test"), "digest")
    real = {v: resolve_keys(build_graph(run.spec, dict(run.pins)), contents) for v, run in arms.items()}
    assert shared_with(real) == shared
    assert set(real["self"]) == set(keys["self"])


# From here on, experiments run: by the real driver, runner and store, with plain functions as stages.

VARIANTS = (
    SELF,
    {"name": "none", "set": {"preferenceSource": "none"}},
    {"name": "beta-0.3", "set": {"dpo": {"beta": 0.3}}},
)
ALL = ("prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1")


def prepared(workspace: Workspace) -> Result:
    outputs = {}
    for name in ("train", "validation", "contexts", "test"):
        outputs[name] = workspace.scratch / f"{name}.jsonl"
        outputs[name].write_text('{"id": "1"}\n')
    return Result(outputs=outputs, references={"model": "package://model"})


def evaluated(workspace: Workspace) -> Result:
    """Answers that follow from the key, so arms that share the model have the same ones."""
    rows = answers(int(workspace.spec.key[:6], 16), dialogues=12)
    file = write(workspace.scratch / "answers.jsonl", rows)
    return Result(outputs={"answers": file, "probes": file}, metrics={"distinct2": 0.5})


def works(kind: str) -> Stage:
    return {"prepare": prepared, "evaluate": evaluated}.get(kind, compute(kind))


class Lab:
    """An experiment file, and every process that `evolution experiment run` starts for it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *variants: Any) -> None:
        (directory / "seed.jsonl").write_text("{}\n")
        spec = minimal_spec(
            model_uri="package://model", storage_uri="file://runs", seed_uri="file://seed.jsonl", iterations=1
        )
        self.file = directory / "experiment.yaml"
        self.file.write_text(yaml.safe_dump(experiment_document(*variants, base=spec), sort_keys=False))
        self.code: Callable[[Process], Callable[[str], Stage]] = lambda process: works
        self.started: list[tuple[str, str]] = []
        monkeypatch.setenv("XDG_STATE_HOME", str(directory / "state"))
        monkeypatch.setattr("evolution_operator.local.driver.LocalLauncher", lambda log: Server(self._began))

    def _began(self, process: Process) -> None:
        self.started.append((process.spec.run.name, process.spec.stage))
        process.work(self.code(process))

    def call(self, *arguments: str) -> Output:
        self.started.clear()
        return CliRunner().invoke(app, [*arguments, "-f", str(self.file)])

    def run(self) -> tuple[int, dict[str, Any]]:
        found = self.call("experiment", "run", "-o", "json")
        assert isinstance(found.exception, SystemExit | None), found.exception
        return found.exit_code, json.loads(found.stdout)


def test_a_stage_that_does_not_differ_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, *VARIANTS)
    code, document = lab.run()
    assert code == 0
    by_run = {name: [stage for run, stage in lab.started if run == name] for name, _ in lab.started}
    assert {name: set(stages) for name, stages in by_run.items()} == {
        "exp-self": set(ALL),
        "exp-none": {"reflect-1", "dpo-1", "evaluate-1"},
        "exp-beta-0-3": {"dpo-1", "evaluate-1"},
    }
    assert max(Counter(lab.started).values()) == 1
    for arm in document["arms"]:
        assert arm["phase"] == "Complete"
        computed = {stage["id"] for stage in arm["stages"] if not stage["cached"]}
        assert computed == set(by_run[arm["run"]["name"]])
        shared = {stage["id"]: stage["sharedWith"] for stage in arm["stages"] if stage["sharedWith"]}
        assert shared == dict.fromkeys(set(ALL) - computed, "self")
    assert list(document["comparison"]["values"]) == ["self:M1", "none:M1", "beta-0.3:M1"]
    assert {each["baseline"] for each in document["comparison"]["differences"]} == {"self:M1"}

    # Run again, nothing is computed; and the tables say what each arm took from another.
    again = lab.call("experiment", "run")
    assert (again.exit_code, lab.started) == (0, [])
    assert "self: 0 computed, 0 shared with an earlier arm, 7 cached before" in again.output
    assert "none: 0 computed, 4 shared with an earlier arm, 3 cached before" in again.output
    assert "24 contexts of 12 dialogues, the same for all" in again.output
    assert "beta-0.3:M1 against self:M1" in again.output

    planned = lab.call("plan")
    assert "beta-0.3: 7 cached, 0 to run" in planned.output
    compared = CliRunner().invoke(app, ["compare", str(lab.file), "-o", "json"])
    assert json.loads(compared.stdout) == document["comparison"]
    first = CliRunner().invoke(app, ["compare", f"{lab.file}:M0", "-o", "json"])
    assert {each["difference"] for each in json.loads(first.stdout)["differences"]} == {0}, "all arms have one M0"


def test_an_arm_that_fails_keeps_no_other_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, *VARIANTS)

    def fails(process: Process) -> Callable[[str], Stage]:
        broken = process.spec.run.name == "exp-none" and process.spec.kind == "reflect"
        return raising(PermanentError("NoPairs", "every row was dropped")) if broken else works

    lab.code = fails
    shown = lab.call("experiment", "run")
    assert shown.exit_code == 1
    assert "none: stage reflect-1: NoPairs: every row was dropped" in shown.output
    assert "2 of 3 arms complete; not none. Run the same command to try them again." in shown.output
    assert "beta-0.3:M1 against self:M1" in shown.output
    assert "none:M1" not in shown.output

    lab.code = lambda process: works
    code, document = lab.run()
    assert code == 0
    assert lab.started == [("exp-none", stage) for stage in ("reflect-1", "dpo-1", "evaluate-1")]
    assert list(document["comparison"]["values"]) == ["self:M1", "none:M1", "beta-0.3:M1"]


def test_a_stage_that_failed_in_one_arm_is_shared_by_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first arm's sft fails, and the second one's, of the same key, succeeds."""
    lab = Lab(tmp_path, monkeypatch, *VARIANTS)

    def fails_once(process: Process) -> Callable[[str], Stage]:
        broken = process.spec.run.name == "exp-self" and process.spec.kind == "sft"
        return raising(PermanentError("NoRows", "broken disk")) if broken else works

    lab.code = fails_once
    code, document = lab.run()
    assert code == 1
    shared = [{row["id"]: row["sharedWith"] for row in arm["stages"]} for arm in document["arms"]]
    assert [each.get("prepare") for each in shared] == [None, "self", "self"]
    assert [each.get("sft") for each in shared] == [None, None, "none"]


def test_answers_that_cannot_be_read_now_lose_no_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(runs: Any) -> Any:
        raise TransientError("StoreUnreachable", "the store does not answer")

    lab = Lab(tmp_path, monkeypatch, *VARIANTS)
    monkeypatch.setattr("evolution_operator.results.answers.answers_of_arms", unreachable)
    code, document = lab.run()
    assert (code, document["comparison"]) == (0, None)
    assert document["notCompared"] == "the store does not answer"
    assert len(document["arms"]) == 3


def test_ctrl_c_ends_all_arms_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, *VARIANTS)

    def interrupted(process: Process) -> Callable[[str], Stage]:
        if (process.spec.run.name, process.spec.kind) == ("exp-none", "dpo"):
            raise KeyboardInterrupt
        return works

    lab.code = interrupted
    shown = lab.call("experiment", "run")
    assert shown.exit_code == 130
    assert "Run the same command to continue" in shown.output
    lab.code = lambda process: works
    code, _ = lab.run()
    assert code == 0
    assert lab.started == [
        *[("exp-none", stage) for stage in ("dpo-1", "evaluate-1")],
        *[("exp-beta-0-3", stage) for stage in ("dpo-1", "evaluate-1")],
    ]


def test_arms_that_cannot_be_compared_are_complete_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Lab(tmp_path, monkeypatch, SELF).call("experiment", "run")
    assert alone.exit_code == 0
    assert "Not compared: fewer than two arms are complete" in alone.output


def test_arms_with_one_model_are_compared_as_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They differ only in how they run."""
    lab = Lab(tmp_path, monkeypatch, SELF, {"name": "pod", "set": {"pod": {"nodeSelector": {"disk": "ssd"}}}})
    code, document = lab.run()
    assert (code, len(lab.started)) == (0, len(ALL))
    verdicts = {each["verdict"] for each in document["comparison"]["differences"]}
    assert verdicts == {"the interval of the difference includes zero"}


def test_a_run_that_another_process_drives_is_said_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evolution_operator.local.driver import run_directory

    lab = Lab(tmp_path, monkeypatch, *VARIANTS)
    held = local_arms(lab.file)["none"]
    with run_directory(held.spec.storage.uri, "default", "exp-none"):
        shown = lab.call("experiment", "run")
    assert shown.exit_code == 1
    assert "none: RunBusy: another `evolution run` works on default/exp-none" in shown.output
    assert "beta-0.3: Complete" in shown.output
