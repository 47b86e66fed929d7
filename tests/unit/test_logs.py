"""`evolution logs`: which logs are meant, from Pods on a cluster or from files on this machine."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.errors import PermanentError
from evolution_operator.api.status import RunStatus
from evolution_operator.cli.logs import files as log_files
from evolution_operator.cli.logs import pods as log_pods
from evolution_operator.cli.logs.choice import Source, Wanted, choose_sources, choose_stage
from evolution_operator.cli.logs.lines import lines_of
from evolution_operator.cli.main import app
from evolution_operator.local.driver import LOCK, log_directory
from typer.testing import CliRunner, Result

from tests.support.cluster.played_api import PlayedApi, played_api
from tests.support.run_document import minimal_spec, run_document

RUN = "/apis/evolution.run/v1alpha1/namespaces/team/evolutionruns/support"
PODS = "/api/v1/namespaces/team/pods"


def stage(id_: str, state: str, attempts: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": id_, "name": id_.partition("-")[0], "state": state, "attempts": attempts, **more}


def status(*stages: dict[str, Any], phase: str = "Running") -> dict[str, Any]:
    return {"phase": phase, "stages": list(stages)}


def at(minute: int) -> str:
    return datetime(2026, 1, 1, 0, minute, tzinfo=UTC).isoformat()


STAGES = [
    ("the one that runs", status(stage("sft", "Succeeded"), stage("generate-1", "Running")), "generate-1"),
    ("the critical one", status(stage("evaluate-0", "Running"), stage("generate-1", "Running")), "generate-1"),
    (
        "an evaluation that runs alone",
        status(stage("generate-1", "Succeeded"), stage("evaluate-0", "Running")),
        "evaluate-0",
    ),
    ("the failed one", status(stage("sft", "Failed"), stage("prepare", "Succeeded"), phase="Failed"), "sft"),
    ("one between attempts", status(stage("prepare", "Succeeded"), stage("sft", "Backoff", 2)), "sft"),
    (
        "the one that ended last",
        status(
            stage("sft", "Succeeded", finishedAt=at(5)),
            stage("evaluate-0", "Succeeded", finishedAt=at(9)),
            stage("generate-1", "Succeeded", finishedAt=at(7)),
            phase="Complete",
        ),
        "evaluate-0",
    ),
]


@pytest.mark.parametrize(("found", "expected"), [each[1:] for each in STAGES], ids=[each[0] for each in STAGES])
def test_without_a_stage_it_is(found: dict[str, Any], expected: str) -> None:
    assert choose_stage(RunStatus.model_validate(found), None).id == expected


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        (status(stage("sft", "Running")), "dpo-9", "no stage dpo-9; its stages: sft"),
        (
            status(stage("prepare", "Queued", 0), phase="Pending"),
            None,
            "no stage of the run has started: it is Pending",
        ),
        (
            status(stage("sft", "Succeeded", cached=True), phase="Complete"),
            None,
            "1 of 1 stages were computed by earlier runs",
        ),
    ],
)
def test_a_run_without_such_a_stage_says_what_it_has(found: dict[str, Any], wanted: str | None, words: str) -> None:
    with pytest.raises(PermanentError) as caught:
        choose_stage(RunStatus.model_validate(found), wanted)
    assert caught.value.reason == "LogsMissing"
    assert words in str(caught.value)


SOURCES = [
    Source("a0", "sft", 1, 0, "1"),
    Source("a1", "sft", 1, 1, "1"),
    Source("a2", "sft", 1, 2, "1"),
    Source("b0", "sft", 2, 0, "5"),
    Source("b1", "sft", 2, 1, "5"),
    Source("b1-again", "sft", 2, 1, "6"),
]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(), ["b0", "b1-again"]),
        (Wanted(attempt=1), ["a0", "a1", "a2"]),
        (Wanted(attempt=3), []),
        (Wanted(previous=True), ["a0", "b1"]),
        (Wanted(attempt=2, previous=True), ["b1"]),
    ],
)
def test_each_shard_has_its_newest_log_or_the_one_before(wanted: Wanted, names: list[str]) -> None:
    assert [source.name for source in choose_sources(SOURCES, wanted)] == names


def test_lines_are_whole_whatever_the_pieces_and_a_bar_leaves_its_last_drawing() -> None:
    pieces = [b"one\ntw", b"o\r\n", b" 1%\r 50%\r100%\n\nlast \xff"]
    assert list(lines_of(pieces)) == ["one", "two", "100%", "", "last \ufffd"]


def pod(name: str, stage: str, attempt: int = 1, index: int = 0, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": at(attempt),
            "labels": {
                "evolution.run/run": "support",
                "evolution.run/stage": stage,
                "evolution.run/attempt": str(attempt),
            },
            "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "stage", "state": {"running": {}}}],
            **status,
        },
    }


ENDED = {"phase": "Succeeded", "containerStatuses": [{"name": "stage", "state": {"terminated": {"exitCode": 0}}}]}
PULLING = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "stage", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    ],
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PlayedApi]:
    monkeypatch.setattr(log_pods, "LOOK_SECONDS", 0.01)
    with played_api(monkeypatch, tmp_path, "team") as api:
        yield api


def logs(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["logs", *arguments])


def refusal(result: Result) -> PermanentError:
    assert isinstance(result.exception, PermanentError), result.exception
    return result.exception


def test_shards_are_printed_one_after_the_other_each_line_with_its_index(api: PlayedApi) -> None:
    api.answers[RUN] = {"status": status(stage("generate-1", "Running"))}
    api.answers[PODS] = {
        "items": [
            pod("g-1", "generate-1", index=1),
            pod("g-0", "generate-1", index=0),
            pod("g-2", "generate-1", index=2, **PULLING),
            pod("s-0", "sft"),
        ]
    }
    api.logs = {"g-0": lambda query: iter([b"zero\n\x1b[31mred\n"]), "g-1": lambda query: iter([b"one\n"])}
    result = logs("support", "--tail", "5")
    assert result.stdout.splitlines() == ["[0] zero", "[0] \ufffd[31mred", "[1] one"], result.exception
    assert result.stderr.splitlines() == [
        "generate-1, attempt 1, Running: g-0, g-1, g-2",
        "[2] g-2 has not started: ImagePullBackOff: no such image",
    ]
    assert {path.partition("?")[2] for _, path, _ in api.asked if "/log" in path} == {"container=stage&tailLines=5"}


def test_one_pod_needs_no_prefix(api: PlayedApi) -> None:
    api.answers[RUN] = {"status": status(stage("sft", "Succeeded", 2))}
    api.answers[PODS] = {"items": [pod("s-1", "sft", 1, **ENDED), pod("s-2", "sft", 2, **ENDED)]}
    api.logs = {"s-1": lambda query: iter([b"first\n"]), "s-2": lambda query: iter([b"second\n"])}
    assert logs("support", "sft").stdout == "second\n"
    assert logs("support", "sft", "--previous").stdout == "first\n"
    assert logs("support", "sft", "--attempt", "1").stdout == "first\n"
    error = refusal(logs("support", "sft", "--attempt", "7"))
    assert str(error) == "stage sft has no log of attempt 7; there are: 1, 2"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (stage("sft", "Failed", reason="OOMKilled", message="limit 3Gi"), "no log of stage sft is left on the cluster"),
        (stage("sft", "Failed", reason="OOMKilled", message="limit 3Gi"), "it is Failed (OOMKilled: limit 3Gi)"),
        (
            stage("sft", "Queued", 0, reason="AwaitingAdmission", message="a queue"),
            "stage sft has not started: it is Queued",
        ),
        (stage("sft", "Succeeded", 0, cached=True), "computed by an earlier run"),
    ],
)
def test_without_pods_it_says_why_and_what_the_status_knows(api: PlayedApi, found: dict[str, Any], words: str) -> None:
    api.answers[RUN] = {"status": status(found)}
    api.answers[PODS] = {"items": []}
    error = refusal(logs("support", "sft"))
    assert error.reason == "LogsMissing"
    assert words in str(error)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, "no EvolutionRun support in namespace team; `kubectl get evo -A` lists them"),
        ({RUN: 401}, "the cluster does not accept these credentials"),
        ({RUN: {"status": status(stage("sft", "Running"))}, PODS: 403}, "not allowed to list Pods in namespace team"),
        ({RUN: {"status": status(stage("sft", "Running"))}, PODS: 500}, "the API server answered 500: words for 500"),
        (
            {
                RUN: {"status": status(stage("sft", "Running"))},
                PODS: {"items": [pod("s", "sft")]},
                f"{PODS}/s/log": 403,
            },
            "not allowed to read logs of Pods in namespace team (pods/log)",
        ),
    ],
)
def test_a_refused_call_is_one_message(api: PlayedApi, answers: dict[str, Any], words: str) -> None:
    api.answers = answers
    error = refusal(logs("support", "-n", "team"))
    assert (error.reason, str(error)) == ("ClusterRefused", words)


def test_followed_logs_survive_a_lost_connection_and_end_with_the_stage(api: PlayedApi) -> None:
    """The gateway closes the first connection; the second repeats what was there, and then the container ends."""
    running = {"status": status(stage("prepare", "Succeeded"), stage("sft", "Running"))}
    api.answers[RUN] = running
    api.answers[PODS] = {"items": [pod("p-0", "prepare", **ENDED), pod("s-0", "sft")]}
    stamped = [f"2026-01-01T00:00:0{number}.000000000Z line {number}\n".encode() for number in range(3)]
    connections = []

    def log(query: dict[str, str]) -> Iterator[bytes]:
        connections.append(query)
        if len(connections) == 1:
            yield from stamped[:2]
            return
        yield from stamped
        api.answers[PODS] = {"items": [pod("s-0", "sft", **ENDED)]}
        api.answers[RUN] = {"status": status(stage("sft", "Succeeded"), phase="Complete")}

    api.logs = {"s-0": log}
    result = logs("support", "--follow", "--tail", "9")
    assert result.exception is None, result.exception
    assert result.stdout.splitlines() == [f"[sft 0] line {number}" for number in range(3)]
    assert [query.get("tailLines") for query in connections] == ["9", None], "a repetition needs all lines"


def test_following_a_run_goes_on_with_the_next_stage(api: PlayedApi) -> None:
    api.answers[RUN] = {"status": status(stage("sft", "Running"))}
    api.answers[PODS] = {"items": [pod("s-0", "sft")]}

    def first(query: dict[str, str]) -> Iterator[bytes]:
        yield b"2026-01-01T00:00:00.000000000Z trained\n"
        api.answers[PODS] = {"items": [pod("s-0", "sft", **ENDED), pod("g-0", "generate-1")]}

    def second(query: dict[str, str]) -> Iterator[bytes]:
        yield b"2026-01-01T00:00:00.000000000Z answered\n"
        api.answers[PODS] = {"items": [pod("s-0", "sft", **ENDED), pod("g-0", "generate-1", **ENDED)]}
        api.answers[RUN] = {"status": status(stage("generate-1", "Failed"), phase="Failed")}

    api.logs = {"s-0": first, "g-0": second}
    result = logs("support", "-f")
    assert result.stdout.splitlines() == ["[sft 0] trained", "[generate-1 0] answered"], result.exception


# ---- on this machine


@pytest.fixture
def run_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, Path]:
    """A run file and the directory of its logs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = (tmp_path / "store").as_uri()
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(minimal_spec(storage_uri=storage))))
    directory = log_directory(storage, "default", "first")
    return str(path), directory


def test_a_file_means_the_logs_of_its_stages_on_this_machine(run_file: tuple[str, Path]) -> None:
    file, directory = run_file
    missing = refusal(logs(file))
    assert missing.reason == "LogsMissing"
    assert str(directory) in str(missing)
    directory.mkdir(parents=True)
    for name in ("sft-1.log", "generate-1-1-0.log", "generate-1-1-1.log", "server.log"):
        (directory / name).write_text(f"{name}\nend\n")
    os.utime(directory / "sft-1.log", (1, 1))
    assert logs(file).stdout.splitlines() == ["[0] generate-1-1-0.log", "[0] end", "[1] generate-1-1-1.log", "[1] end"]
    assert logs(file, "sft", "--tail", "1").stdout == "end\n"
    assert logs(file, "sft", "--follow").stdout == "sft-1.log\nend\n", "nothing runs, so there is nothing to wait for"
    assert "its stages: prepare, sft, " in str(refusal(logs(file, "dpo-3")))
    assert "stage dpo-1 of default/first has no such log" in str(refusal(logs(file, "dpo-1")))
    assert "stage sft has no log of attempt 9; there are: 1" in str(refusal(logs(file, "sft", "--attempt", "9")))
    assert "stage sft has no log before the newest one" in str(refusal(logs(file, "sft", "--previous")))


def test_a_file_is_followed_while_its_run_is_driven(
    run_file: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, directory = run_file
    directory.mkdir(parents=True)
    (directory / "prepare-1.log").write_text("read\n")
    (directory / "sft-1.log").write_text("one\n")
    monkeypatch.setattr(log_files, "LOOK_SECONDS", 0.01)
    shown = threading.Event()
    show = log_files.show

    def seen(prefix: str, line: str) -> None:
        show(prefix, line)
        if line == "one":
            shown.set()

    monkeypatch.setattr(log_files, "show", seen)

    def drive(lock: Any) -> None:
        shown.wait(30)
        with (directory / "sft-1.log").open("a") as log:
            log.write("two\nhal")
        with (directory / "sft-1.log").open("a") as log:
            log.write("f\n")
        (directory / "generate-1-1.log").write_text("next\n")
        lock.close()

    lock = (directory / LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    driver = threading.Thread(target=drive, args=(lock,))
    driver.start()
    result = logs(file, "--follow")
    driver.join()
    assert result.exception is None, result.exception
    assert result.stdout.splitlines() == ["[sft 0] one", "[sft 0] two", "[sft 0] half", "[generate-1 0] next"]
