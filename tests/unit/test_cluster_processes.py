"""Daemons with a record on disk: a process that reads the record can stop them, and no other process is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster import ClusterError
from hack.cluster.certificates import Authority, write_kubeconfig
from hack.cluster.images import program_archive
from hack.cluster.processes import Process, environment, wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    process = Process("daemon", tmp_path, tied=True)
    yield process
    process.stop(grace=0)


def _python(program: str) -> list[str]:
    return [sys.executable, "-u", "-c", program]


def test_another_reader_of_the_record_stops_it(daemon: Process, tmp_path: Path) -> None:
    daemon.start(["sleep", "300"], environment())
    other = Process("daemon", tmp_path, tied=True)
    assert other.pid == daemon.pid is not None
    other.stop()
    assert daemon.pid is None


def test_starting_what_runs_changes_nothing(daemon: Process) -> None:
    daemon.start(["sleep", "300"], environment())
    before = daemon.pid
    daemon.start(["sleep", "300"], environment())
    assert daemon.pid == before


def test_a_process_that_ignores_sigterm_is_killed(daemon: Process) -> None:
    daemon.start(
        _python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(300)"),
        environment(),
    )
    wait_until(lambda: "deaf" in daemon.tail(), "the daemon ignores SIGTERM", [daemon])
    daemon.stop(grace=0.1)
    assert daemon.pid is None


def test_another_process_with_the_recorded_pid_is_left_alone(daemon: Process, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"]) as other:
        record = {"pid": other.pid, "birth": "another boot/1"}
        (tmp_path / "daemon.process").write_text(json.dumps(record))
        assert daemon.pid is None
        daemon.stop()
        assert other.poll() is None
        other.kill()


def test_waiting_for_a_process_that_ended_shows_the_end_of_its_log(daemon: Process) -> None:
    daemon.start(_python("raise SystemExit('no such port')"), environment())
    with pytest.raises(ClusterError, match="daemon ended; its log says:\nno such port"):
        wait_until(lambda: False, "never", [daemon])


def test_proxies_and_kubeconfig_do_not_reach_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "KUBECONFIG"):
        monkeypatch.setenv(name, "elsewhere")
    assert set(environment()) <= {"PATH", "HOME", "TMPDIR"}


def test_only_the_owner_can_read_keys_and_they_are_issued_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("client", "someone", organizations=["some-group"], hosts=["127.0.0.1", "localhost"])
    again = Authority(tmp_path, "ca").issue("client", "someone")
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", authority.pair.certificate, pair)
    assert pair.certificate.read_bytes() == again.certificate.read_bytes()
    assert [oct(path.stat().st_mode & 0o777) for path in (authority.pair.key, pair.key, kubeconfig)] == ["0o600"] * 3


def test_an_image_of_one_program_is_what_its_manifest_says_and_the_same_each_time(tmp_path: Path) -> None:
    program = tmp_path / "answer"
    program.write_bytes(os.urandom(1000))
    for name in ("first.tar", "second.tar"):
        program_archive(program, "localhost/answer:1", tmp_path / name)
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()

    with tarfile.open(tmp_path / "first.tar") as image:
        parts = {member.name: image.extractfile(member) for member in image.getmembers()}
        content = {name: part.read() for name, part in parts.items() if part}
    (manifest,) = json.loads(content["manifest.json"])
    configuration = json.loads(content[manifest["Config"]])
    assert manifest["RepoTags"] == ["localhost/answer:1"]
    digest = hashlib.sha256(content[manifest["Layers"][0]]).hexdigest()
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
    assert configuration["config"] == {"Entrypoint": ["/answer"], "User": "65532:65532"}
