"""`evolution init`: the file is valid, its comments are true, and the format of the data is told from its records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import BaseModelSource, Source
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.validation import load_run
from evolution_operator.cli.init import command
from evolution_operator.cli.init.answers import MACHINE_STORAGE, TRIAL_STORAGE
from evolution_operator.cli.init.manifest import Answers, manifest
from evolution_operator.cli.init.settings import CLUSTER, DATA, METHOD, known
from evolution_operator.cli.main import app
from typer.testing import CliRunner, Result

COMMENTED = re.compile(r"^( *)#(\w+: .+)$", re.MULTILINE)
"""A line that sets a field once its # is removed."""
EXAMPLE = "# an example; it is unset by default"
ESCONV = {"dialog": [{"speaker": "seeker", "content": "I am sad."}, {"speaker": "supporter", "content": "Why?"}]}
MESSAGES = {"messages": [{"role": "user", "content": "I am sad."}, {"role": "assistant", "content": "Why?"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "I am sad."}, {"from": "gpt", "value": "Why?"}]}
EXTES = {"content": [{"User": "I am sad."}, {"AI": "Why?"}]}
OWN = {"talk": [{"who": "client", "words": "I am sad."}, {"who": "coach", "words": "Why?"}]}
UNSURE = {"talk": [{"who": "anna", "words": "I am sad."}, {"who": "ben", "words": "Why?"}]}


def answers(where: Any, **more: Any) -> Answers:
    given = {
        "name": "first",
        "where": where,
        "model": BaseModelSource(uri="hf://owner/model"),
        "data": Source(uri="hf://owner/set", format="messages"),
        "storage": MACHINE_STORAGE if where == "machine" else TRIAL_STORAGE,
        "gpus": 0 if where == "machine" else 1,
    }
    return Answers(**(given | more))


CASES = [answers("machine"), answers("cluster"), answers("cluster", gpus=0)]


def loaded(text: str, directory: Path) -> EvolutionRunSpec:
    path = directory / "run.yaml"
    path.write_text(text)
    return load_run(path).spec


@pytest.mark.parametrize("given", CASES, ids=["machine", "cluster", "cluster without GPUs"])
def test_a_default_that_is_uncommented_changes_nothing_and_all_examples_are_valid(
    given: Answers, tmp_path: Path
) -> None:
    text = manifest(given)
    plain = loaded(text, tmp_path)
    shown = METHOD + DATA + (CLUSTER if given.where == "cluster" else ())
    only_defaults = "\n".join(
        line
        if line.endswith(EXAMPLE) or "tokenSecret" in line or "tolerations" in line
        else COMMENTED.sub(r"\1\2", line)
        for line in text.splitlines()
    )
    assert loaded(only_defaults, tmp_path) == plain
    everything = COMMENTED.sub(r"\1\2", text)
    spec = loaded(everything, tmp_path)
    assert spec.data.replay
    assert spec.evaluation.samples
    written = spec.wire()
    for each in shown:
        value: Any = written
        for part in each.path.split("."):
            value = value[part]
        assert value == (each.example if known(each.path)[0] in (None, []) else known(each.path)[0]), each.path


def test_what_a_comment_says_of_a_setting_is_what_the_resource_says() -> None:
    text = " ".join(line.strip(" #") for line in manifest(answers("machine")).splitlines())
    for each in METHOD + DATA:
        assert " ".join(known(each.path)[1].split()) in text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    directory = tmp_path / "Our Support Bot!"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", *arguments])


def refusal(result: Result) -> PermanentError:
    assert isinstance(result.exception, PermanentError), result.exception or result.output
    return result.exception


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ESCONV, {"format": "esconv"}),
        (MESSAGES, {"format": "messages"}),
        (SHAREGPT, {"format": "sharegpt"}),
        (EXTES, {"format": "extes"}),
        (
            OWN,
            {
                "format": "mapping",
                "mapping": {
                    "turns": "talk",
                    "speaker": "who",
                    "text": "words",
                    "seeker": ["client"],
                    "supporter": ["coach"],
                },
            },
        ),
    ],
    ids=["esconv", "messages", "sharegpt", "extes", "mapping"],
)
def test_without_a_terminal_the_only_data_file_is_taken_and_read(home: Path, record: Any, expected: Any) -> None:
    (home / "data").mkdir()
    write(home / "data" / "talks.jsonl", record, record)
    result = init()
    assert result.exception is None, result.exception
    assert "evolution run -f evolutionrun.yaml" in result.stdout
    run = load_run(home / "evolutionrun.yaml")
    assert run.metadata.name == "our-support-bot"
    assert run.spec.storage.uri == "file://runs"
    assert [source.wire() for source in run.spec.data.seed] == [{"uri": "file://data/talks.jsonl", **expected}]
    assert "is a guess" not in (home / "evolutionrun.yaml").read_text()


def test_a_guess_is_called_one(home: Path) -> None:
    write(home / "talks.jsonl", UNSURE)
    assert init("--data", "talks.jsonl").exception is None
    text = (home / "evolutionrun.yaml").read_text()
    assert "Who seeks help and who gives it is a guess: check mapping.seeker and mapping.supporter." in text
    assert load_run(home / "evolutionrun.yaml").spec.data.seed[0].format == "mapping"


def test_a_table_is_told_by_its_column(home: Path) -> None:
    (home / "talks.csv").write_text(
        'id,conversations\n1,"' + json.dumps(SHAREGPT["conversations"]).replace('"', '""') + '"\n'
    )
    assert init().exception is None
    assert load_run(home / "evolutionrun.yaml").spec.data.seed[0].format == "sharegpt"


def test_for_a_cluster_local_data_is_to_be_uploaded_beside_the_results(home: Path) -> None:
    write(home / "talks.jsonl", MESSAGES)
    result = init(
        "runs", "--where", "cluster", "--storage", "s3://mine/results", "--credentials-secret", "keys", "--name", "n1"
    )
    assert result.exception is None, result.exception
    run = load_run(home / "runs" / "evolutionrun.yaml")
    assert run.spec.data.seed[0].uri == "s3://mine/data/talks.jsonl"
    assert run.spec.storage.wire() == {"uri": "s3://mine/results", "credentialsSecret": "keys"}
    assert run.spec.pod.resources is not None
    assert run.spec.pod.resources.limits == {"nvidia.com/gpu": 1}
    assert run.spec.prepare.pod.resources is not None
    assert run.spec.prepare.pod.resources.limits == {}, "prepare must not hold a GPU"
    for line in (
        "aws s3 cp talks.jsonl s3://mine/data/talks.jsonl",
        "create secret generic keys",
        "evolution status n1",
    ):
        assert line in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--data is missing"),
        (("--data", "none.jsonl"), "--data: there is no file none.jsonl"),
        (("--data", "hf://owner/set"), "--format is missing"),
        (("--data", "gs://owner/set", "--format", "messages"), "--data: "),
        (("--data", "hf://owner/set", "--format", "jsonl"), "--data: "),
        (("--where", "moon"), "--where: 'moon' is neither machine nor cluster"),
        (("--data", "hf://o/s", "--format", "messages", "--model", "nowhere"), "--model: 'nowhere' is no directory"),
        (("--where", "cluster", "--storage", "runs"), "Pods need s3://bucket/prefix"),
        (("--endpoint", "http://minio:9000"), "--endpoint: "),
        (("--gpus", "2"), "it goes with --where cluster"),
        (("--storage", "s3:/mine"), "--storage: s3:/mine is neither"),
        (("--where", "cluster", "--endpoint", "minio"), "--endpoint: "),
        (("--where", "cluster", "--credentials-secret", "Not A Name"), "--credentials-secret: "),
    ],
)
def test_a_wrong_or_missing_answer_is_one_message_and_leaves_no_file(home: Path, arguments: Any, words: str) -> None:
    error = refusal(init(*arguments))
    assert error.reason == "InitInput"
    assert words in str(error)
    assert list(home.iterdir()) == []


def test_several_files_are_named_and_instructions_are_refused(home: Path) -> None:
    write(home / "a.jsonl", MESSAGES)
    write(home / "b.jsonl", {"instruction": "Add.", "output": "3"})
    assert "there are a.jsonl, b.jsonl" in str(refusal(init()))
    assert "put this one into data.replay" in str(refusal(init("--data", "b.jsonl")))
    write(home / "c.jsonl", {"x": 1})
    assert "--format is missing, and cannot be told from c.jsonl" in str(refusal(init("--data", "c.jsonl")))


def test_an_existing_file_is_kept_unless_forced_and_never_left_half_written(home: Path) -> None:
    target = home / "run.yaml"
    target.write_text("mine")
    arguments = ("run.yaml", "--data", "hf://owner/set", "--format", "messages")
    assert refusal(init(*arguments)).reason == "InitExists"
    result = init(*arguments, "--force", "--name", "Not A Name")
    assert "metadata.name" in str(result.exception)
    assert target.read_text() == "mine"
    assert list(home.iterdir()) == [target]
    assert init(*arguments, "--force").exception is None
    assert yaml.safe_load(target.read_text())["metadata"]["name"] == "our-support-bot"


def test_the_next_commands_can_be_pasted(home: Path) -> None:
    (home / "my talks.jsonl").write_text(json.dumps(MESSAGES))
    result = init("my run.yaml", "--where", "cluster", "--data", "my talks.jsonl")
    assert result.exception is None, result.exception
    assert "kubectl apply -f 'my run.yaml'" in result.stdout
    assert "aws s3 cp 'my talks.jsonl' s3://" in result.stdout
    assert (
        "port-forward -n evolution service/evo-evolution-operator-minio 9000, and name http://localhost:9000"
        in result.stdout
    )


def test_on_a_terminal_it_asks_three_questions_with_defaults(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "talks.jsonl", MESSAGES)
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    result = CliRunner().invoke(app, ["init"], input="\nowner/model\n\n")
    assert result.exception is None, result.exception
    assert result.stderr.count("[") == 3, result.stderr
    spec = load_run(home / "evolutionrun.yaml").spec
    assert (spec.base_model.uri, spec.data.seed[0].uri) == ("hf://owner/model", "file://talks.jsonl")


def test_a_fourth_question_asks_for_a_format_that_nothing_tells(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    result = CliRunner().invoke(app, ["init", "--where", "machine"], input="\nhf://owner/set\nextes\n")
    assert result.exception is None, result.exception
    assert load_run(home / "evolutionrun.yaml").spec.data.seed[0].format == "extes"
