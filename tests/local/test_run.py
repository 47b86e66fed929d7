"""`evolution run` end to end on the real small model: results are reused, and runs resume and repair themselves."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.names import REPORT

from tests.local.conftest import TinyRun

pytestmark = pytest.mark.model

STAGES = ("prepare", "sft", "generate-1", "reflect-1", "dpo-1", "evaluate-0", "evaluate-1")


def states(summary: dict[str, Any]) -> dict[str, bool]:
    return {stage["id"]: stage["cached"] for stage in summary["stages"]}


def unlinked(path: Path) -> Path:
    """Replace a hard link with a copy, so that a test can corrupt it and not the run it was linked from."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def test_the_artifacts_of_a_run(finished: TinyRun) -> None:
    contexts = [
        json.loads(line) for p in finished.files_of("prepare") if p.name == "contexts.jsonl" for line in p.open()
    ]
    pairs, rejects = finished.files_of("reflect-1")
    kept = [json.loads(line) for line in pairs.open()]
    dropped = [json.loads(line) for line in rejects.open()]
    assert {row["id"] for row in kept} | {row["id"] for row in dropped} == {row["id"] for row in contexts}
    assert len(kept) + len(dropped) == len(contexts)
    assert all(pair["chosen"] and pair["chosen"] != pair["rejected"] for pair in kept)
    dpo = finished.manifest_of("dpo-1")
    assert dpo["inputs"]["adapter"] == finished.manifest_of("sft")["outputs"]["adapter"]["digest"]
    assert math.isclose(dpo["details"]["reference"]["firstStep"]["sigmoid"], math.log(2), rel_tol=1e-4)
    assert not list(finished.store.glob("**/*.bin")), "no pickle"
    assert not list(finished.store.glob("**/*.pt"))


def test_a_finished_run_is_a_fixed_point(finished: TinyRun, tmp_path: Path) -> None:
    run = finished.copy(tmp_path)

    def kept() -> dict[Path, int | bytes]:
        """When each file was written. Each call writes a report of its own, and pointers again, as they were."""
        pointers = run.store / "runs/default/tiny"
        files = (p for p in run.store.rglob("*") if p.is_file() and p != pointers / REPORT)
        return {p: p.read_bytes() if p.parent == pointers else p.stat().st_mtime_ns for p in files}

    before = kept()
    summary = run.run()
    assert all(states(summary).values())
    assert kept() == before


def test_a_changed_beta_reuses_all_stages_before_dpo(finished: TinyRun, tmp_path: Path) -> None:
    run = finished.copy(tmp_path)
    run.spec["dpo"]["beta"] = 0.3
    made = {id_ for id_, cached in states(run.run()).items() if not cached}
    assert made == {"dpo-1", "evaluate-1"}


def test_raised_iterations_add_only_one_round(finished: TinyRun, tmp_path: Path) -> None:
    run = finished.copy(tmp_path)
    run.spec["iterations"] = 2
    made = {id_ for id_, cached in states(run.run()).items() if not cached}
    assert made == {"generate-2", "reflect-2", "dpo-2", "evaluate-2"}


@pytest.mark.parametrize("stage", ["sft", "reflect-1"])
@pytest.mark.parametrize("fault", ["corrupt", "missing"])
def test_a_corrupt_or_missing_file_is_named_and_computed_again(
    finished: TinyRun, tmp_path: Path, stage: str, fault: str
) -> None:
    run = finished.copy(tmp_path)
    victim = unlinked(max(run.files_of(stage), key=lambda p: p.stat().st_size))
    if fault == "corrupt":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    else:
        victim.unlink()
    result = run.call("run", "-f", str(run.manifest), "--output", "json")
    assert result.returncode == 0, result.stderr + run.logs()
    assert victim.name in result.stderr
    assert stage in result.stderr
    made = {id_ for id_, cached in states(json.loads(result.stdout)).items() if not cached}
    assert stage in made
    assert "prepare" not in made


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_in_a_stage_resumes(finished: TinyRun, tmp_path: Path, stage: str) -> None:
    """kill -9 the driver during the stage: no finished stage runs again, and the results are complete."""
    run = finished.copy(tmp_path)
    key = run.key(stage)
    (run.store / "stages" / key / "manifest.json").unlink()
    for leftover in ("attempts", "rows", "checkpoints"):
        for path in sorted((run.store / "stages" / key / leftover).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()

    def has_progress() -> bool:
        durable = [p for part in ("rows", "checkpoints") for p in (run.store / "stages" / key / part).rglob("*.json*")]
        # prepare saves no partial work: its log only shows that the process has started.
        return bool(durable) or (stage == "prepare" and bool(list(run.directory.glob("state/**/prepare-1.log"))))

    assert run.kill_when(has_progress) == -signal.SIGKILL
    assert not (run.store / "stages" / key / "manifest.json").exists()
    summary = run.run()
    cached = states(summary)
    assert [id_ for id_, there in cached.items() if not there] == [stage]
    for file in run.manifest_of(stage)["outputs"].values():
        assert all((run.store / entry["location"]).stat().st_size == entry["size"] for entry in file["files"])


def test_pairs_are_the_same_after_a_kill_in_the_middle_of_answers_and_rewrites(
    finished: TinyRun, tmp_path: Path
) -> None:
    """generate makes reflect's rows, too. Killed after its first ones, both stages end as they did without a kill."""
    run = finished.copy(tmp_path)
    reflect = run.store / "stages" / run.key("reflect-1")
    for stage in ("generate-1", "reflect-1"):
        (run.store / "stages" / run.key(stage) / "manifest.json").unlink()
    assert run.kill_when(lambda: any((reflect / "rows").glob("*.jsonl"))) == -signal.SIGKILL
    assert not (reflect / "manifest.json").exists()
    cached = states(run.run())
    assert [id_ for id_, there in cached.items() if not there] == ["generate-1", "reflect-1"]
    for stage in ("generate-1", "reflect-1"):
        before, after = (each.manifest_of(stage) for each in (finished, run))
        assert after["outputs"].keys() == before["outputs"].keys()
        assert [output["digest"] for output in after["outputs"].values()] == [
            output["digest"] for output in before["outputs"].values()
        ]
    pairs, rejects = run.files_of("reflect-1")
    rows = sum(len(path.read_text().splitlines()) for path in (pairs, rejects))
    assert run.manifest_of("generate-1")["counts"]["ahead"] == rows == run.manifest_of("reflect-1")["counts"]["ahead"]


def test_a_stage_process_ends_with_the_driver(finished: TinyRun, tmp_path: Path) -> None:
    run = finished.copy(tmp_path)
    key = run.key("dpo-1")
    (run.store / "stages" / key / "manifest.json").unlink()
    run.kill_when(lambda: any((run.store / "stages" / key / "checkpoints").rglob("index.json")))
    # A stage that survived would publish. The second driver finds no manifest and the lock free.
    summary = run.run()
    assert not states(summary)["dpo-1"]


def test_a_run_resumes_after_ctrl_c(finished: TinyRun, tmp_path: Path) -> None:
    run = finished.copy(tmp_path)
    key = run.key("dpo-1")
    (run.store / "stages" / key / "manifest.json").unlink()
    code = run.kill_when(lambda: any((run.store / "stages" / key / "checkpoints").rglob("index.json")), signal.SIGINT)
    assert code == 130
    assert not states(run.run())["dpo-1"]


def test_plan_shows_which_stages_are_cached(finished: TinyRun, tmp_path: Path) -> None:
    rows = json.loads(finished.call("plan", "-f", str(finished.manifest), "-o", "json").stdout)
    assert {row["state"] for row in rows} == {"cached"}
    fresh = TinyRun(tmp_path, {**finished.spec, "storage": {"uri": f"file://{tmp_path / 'nothing'}"}})
    rows = json.loads(fresh.call("plan", "-f", str(fresh.manifest), "-o", "json").stdout)
    assert [row["key"] is None for row in rows] == [False] + [True] * (len(rows) - 1)
    assert not (tmp_path / "nothing").exists(), "a plan writes nothing"


def test_a_run_has_one_driver_at_a_time(finished: TinyRun, tmp_path: Path) -> None:
    import fcntl

    run = finished.copy(tmp_path)
    run.run()
    lock = next(run.directory.glob("state/**/lock"))
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = run.call("run", "-f", str(run.manifest))
    assert result.returncode == 1
    assert "RunBusy" in result.stderr


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data": {"seed": [{"uri": "file:///nowhere/seed.jsonl", "format": "esconv"}]}}, "/nowhere/seed.jsonl"),
        ({"baseModel": {"uri": "file:///nowhere/model"}}, "/nowhere/model"),
        ({"storage": {"uri": "file:///proc/evolution"}}, "/proc/evolution"),
    ],
)
def test_a_mistake_of_the_user_is_one_message(
    finished: TinyRun, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    storage = {"storage": {"uri": f"file://{tmp_path / 'store'}"}}
    run = TinyRun(tmp_path, {**finished.spec, **storage, **change})
    result = run.call("run", "-f", str(run.manifest))
    assert result.returncode == 1
    assert word in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not list((tmp_path / "store").glob("stages/*/manifest.json")) if os.path.isdir(tmp_path / "store") else True
