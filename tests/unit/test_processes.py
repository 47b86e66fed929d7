"""Processes of stages on this machine: which of them import the heavy libraries, and how all of them end.

Where a test has to know when a library is imported, a fake module of that name is on PYTHONPATH. It waits, fails or dies
when it is imported. No test here needs a library that is replaced like this.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from evolution_jobs.contract.errors import TransientError
from evolution_jobs.contract.keys import stage_key
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.settings import PrepareSettings, SftSettings
from evolution_jobs.contract.stage import RunRef, StageSpec
from evolution_jobs.models.architectures import language_models
from evolution_jobs.models.gguf import convert_gguf
from evolution_operator.local.process.launcher import LocalLauncher
from evolution_operator.local.process.stage_process import StageProcess
from evolution_operator.local.process.warm_server import _send as send

from tests.support.run_document import minimal_spec, run_document
from tests.support.stages.model_directory import model_directory

EXAMPLES = Path(__file__).parents[2] / "examples/quickstart/data"
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "xgrammar", "nltk")
WAIT = "import signal; signal.pause()"
FAIL = "raise ImportError('not here')"
DIE = "import os; os.kill(os.getpid(), 9)"
PATIENCE = 60_000
"""Milliseconds after which something that should end has failed to."""


def fake_modules(directory: Path, code: str, *modules: str) -> str:
    """A directory for PYTHONPATH. Its modules run this code."""
    directory.mkdir()
    for name in modules:
        (directory / f"{name}.py").write_text(code)
    return str(directory)


def manifest(directory: Path, seed: Path = EXAMPLES / "seed.jsonl") -> Path:
    model = model_directory(directory / "model")
    spec = minimal_spec(model_uri=model.as_uri(), storage_uri=(directory / "store").as_uri(), seed_uri=seed.as_uri())
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(spec)))
    return path


def evolution_run(path: Path, modules: str, temporary: Path | None = None) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": modules, "XDG_STATE_HOME": str(path.parent / "state")}
    if temporary is not None:
        temporary.mkdir()
        environment["TMPDIR"] = str(temporary)
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("evolution")), "run", "-f", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], output: str) -> None:
    assert process.stdout is not None
    lines = []
    while output not in (line := process.stdout.readline()):
        lines.append(line)
        assert line, "".join(lines)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ends_of_children(process: subprocess.Popen[str]) -> list[int]:
    """Descriptors that become readable when the children of a process end. Waits until there are children."""
    while not (found := children(process.pid)):
        assert process.poll() is None
    return [os.pidfd_open(child) for child in found]


def wait_for_end(pidfds: list[int]) -> None:
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(PATIENCE), "a process is still running"
        os.close(pidfd)


def dialogues(path: Path, count: int, turns: int) -> Path:
    """A generated data set of the size of ESConv. No two dialogues are equal."""
    with path.open("w") as file:
        for number in range(count):
            texts = [f"w{number} " * 4 + f"u{number * turns + at} and v{at} " * 6 for at in range(turns)]
            rows = [{"speaker": ("usr", "sys")[at % 2], "text": text} for at, text in enumerate(texts)]
            file.write(json.dumps({"dialog": rows}) + "\n")
    return path


PREPARE = """
import json, re, sys
from evolution_jobs.__main__ import main
sys.argv = ["evolution_jobs", "prepare", "--spec", sys.argv[1]]
code = main()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps({"code": code, "modules": sorted(sys.modules), "kibibytes": peak}))
"""


@pytest.mark.torch
def test_prepare_of_a_set_like_esconv_fits_256_mebibytes_and_imports_nothing_heavy(tmp_path: Path) -> None:
    seed, test = dialogues(tmp_path / "seed.jsonl", 1300, 30), EXAMPLES / "test.jsonl"
    settings = PrepareSettings.model_validate(
        {
            "seedData": [{"uri": seed.as_uri(), "format": "esconv"}],
            "test": [{"uri": test.as_uri(), "format": "esconv"}],
            "baseModel": {"uri": model_directory(tmp_path / "model").as_uri()},
        }
    )
    spec = StageSpec(
        run=RunRef(namespace="default", name="esconv", uid="u"),
        stage="prepare",
        kind="prepare",
        key=stage_key("prepare", settings, 0, {}),
        attempt="a0",
        settings=settings,
        seed=0,
        storage=Storage(uri=(tmp_path / "store").as_uri()),
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json(by_alias=True, exclude_none=True))
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "spec.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["code"] == 0, done.stderr
    assert set(result["modules"]) & {*HEAVY, "boto3", "pandas", "pyarrow"} == set()
    assert result["kibibytes"] < 256 << 10


def test_the_model_types_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert language_models() == dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_an_invalid_file_is_refused_without_importing_the_libraries(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    modules = fake_modules(tmp_path / "modules", WAIT, *HEAVY)
    process = evolution_run(manifest(tmp_path, tmp_path / "bad.jsonl"), modules)
    output, _ = process.communicate(timeout=PATIENCE / 1000)
    assert process.returncode == 1
    assert "DataMalformed" in output
    assert "bad.jsonl: line 1" in output


@pytest.mark.torch
def test_ctrl_c_while_the_libraries_are_imported_is_one_message(tmp_path: Path) -> None:
    process = evolution_run(manifest(tmp_path), fake_modules(tmp_path / "modules", WAIT, "torch"))
    read_until(process, "StageStarted    sft")
    ends = ends_of_children(process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE / 1000)
    assert process.returncode == 130
    assert "Stopped" in output
    assert "Traceback" not in output
    wait_for_end(ends)


@pytest.mark.parametrize(
    ("library", "moment"),
    [
        ("safetensors", "StageStarted    prepare"),
        pytest.param("torch", "StageStarted    sft", marks=pytest.mark.torch),
    ],
)
def test_a_killed_driver_ends_all_its_processes_and_leaves_no_temporary_file(
    library: str, moment: str, tmp_path: Path
) -> None:
    """During prepare, which waits for the first, and while the server imports the second."""
    temporary = tmp_path / "temporary"
    process = evolution_run(manifest(tmp_path), fake_modules(tmp_path / "modules", WAIT, library), temporary)
    read_until(process, moment)
    while library == "safetensors" and not list(temporary.glob("evolution-stage-*/")):
        assert process.poll() is None
    ends = ends_of_children(process)
    process.kill()
    process.communicate()
    wait_for_end(ends)
    assert list(temporary.iterdir()) == []


# ---- stages that the warm server forks


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalLauncher]:
    server = LocalLauncher(tmp_path / "server.log")
    yield server
    server.close()


def start(server: LocalLauncher, directory: Path, storage: dict[str, str]) -> StageProcess:
    """Start a stage that fails at once: its key does not match its settings."""
    directory.mkdir(exist_ok=True)
    spec = StageSpec(
        run=RunRef(namespace="default", name="test", uid="test"),
        stage="sft",
        kind="sft",
        key="0" * 64,
        attempt="a0",
        settings=SftSettings(),
        seed=0,
        storage=Storage.model_validate(storage),
    )
    return server.start(spec, directory / "log", directory / "report", {}, threads=1)


def test_one_server_forks_stage_after_stage_and_reports_their_ends(
    server: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_modules(tmp_path / "modules", FAIL, *HEAVY))
    before = set(children(os.getpid()))
    for _ in range(2):
        process = start(server, tmp_path, {"uri": (tmp_path / "store").as_uri()})
        assert process.join()
        process.read()
        assert process.exit_code == 65
        assert process.report is not None
        assert process.report.reason == "KeyMismatch"
        process.close()
        assert len(set(children(os.getpid())) - before) == 1, "only the server is left"
    assert "KeyMismatch" in (tmp_path / "log").read_text()


def test_a_stage_that_is_stopped_while_the_server_imports_never_starts(
    server: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    modules = fake_modules(tmp_path / "modules", FAIL, *HEAVY[1:])
    (tmp_path / "modules/torch.py").write_text(f"open({str(gate)!r}).read()\n{FAIL}")
    monkeypatch.setenv("PYTHONPATH", modules)
    storage = {"uri": (tmp_path / "store").as_uri()}
    ended = start(server, tmp_path / "ended", storage)
    assert not ended.join(0)
    ended.terminate()
    assert ended.join()
    assert ended.exit_code == -signal.SIGTERM
    ended.close()
    other = start(server, tmp_path / "other", storage)
    gate.write_text("continue")
    assert other.join()
    assert other.exit_code == 65
    other.close()
    assert ended.report is None


def test_the_server_survives_a_driver_that_has_closed_the_channel_of_a_stage() -> None:
    """If a message is unread, the next write fails with a connection reset, not with a broken pipe."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send(theirs, b"+", [])
    ours.close()
    for message in (b"65", b"65"):
        send(theirs, message, [])
    theirs.close()


def test_a_server_that_dies_is_reported_and_replaced(
    server: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_modules(tmp_path / "dying", DIE, "torch"))
    process = start(server, tmp_path, {"uri": (tmp_path / "store").as_uri()})
    assert process.join()
    assert process.exit_code == -signal.SIGKILL
    process.close()
    assert f"its log is {tmp_path / 'server.log'}" in (tmp_path / "log").read_text()
    monkeypatch.setenv("PYTHONPATH", fake_modules(tmp_path / "modules", FAIL, *HEAVY))
    process = start(server, tmp_path, {"uri": (tmp_path / "store").as_uri()})
    assert process.join()
    assert process.exit_code == 65
    process.close()


@pytest.mark.parametrize("gpu", [True, False])
def test_a_stage_starts_afresh_where_the_server_has_started_cuda_on_a_gpu(
    server: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    """CUDA does not survive a fork. The fake torch says what torch says in a forked process, also without a GPU."""
    modules = fake_modules(tmp_path / "modules", FAIL, *HEAVY[1:])
    torch, forked = tmp_path / "modules/torch", tmp_path / "forked"
    torch.mkdir()
    (torch / "__init__.py").write_text(
        f"from torch import cuda\ndef set_num_threads(_): open({str(forked)!r}, 'w').close()"
    )
    (torch / "cuda.py").write_text(f"def is_available(): return {gpu}\ndef _is_in_bad_fork(): return True")
    monkeypatch.setenv("PYTHONPATH", modules)
    process = start(server, tmp_path, {"uri": (tmp_path / "store").as_uri()})
    assert process.join()
    process.read()
    assert process.report is not None, (tmp_path / "log").read_text()
    assert (process.exit_code, process.report.reason) == (65, "KeyMismatch")
    assert forked.exists() is not gpu, "what runs in a forked process has torch already"
    process.close()


# ---- the process that converts a GGUF


def test_a_killed_conversion_is_a_transient_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", fake_modules(tmp_path / "modules", DIE, "torch"))
    with pytest.raises(TransientError, match=re.escape("a.gguf: its conversion was killed (SIGKILL)")) as caught:
        convert_gguf(tmp_path / "a.gguf", tmp_path / "model", "baseModel.uri: package://x")
    assert caught.value.reason == "Killed"


def test_a_conversion_ends_with_its_stage(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from evolution_jobs.models.gguf import convert_gguf\n"
    code += "print('begins', flush=True); convert_gguf(Path('a.gguf'), Path(sys.argv[1]), 'here')"
    environment = os.environ | {"PYTHONPATH": fake_modules(tmp_path / "modules", WAIT, "torch")}
    stage = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "model")], stdout=subprocess.PIPE, text=True, env=environment
    )
    read_until(stage, "begins")
    ends = ends_of_children(stage)
    stage.kill()
    stage.communicate()
    wait_for_end(ends)
