"""What the tab key offers: commands, options, names of runs and of their stages, in a shell and after `kubectl evo`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from evolution_operator.cli import kubectl_completion
from evolution_operator.cli.main import app

from tests.support.cluster.played_api import played_api

ROOT = Path(__file__).parents[2]
RUNS = "/apis/evolution.run/v1alpha1/namespaces/{}/evolutionruns"


def run(name: str, *stages: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"stages": [{"id": stage} for stage in stages]}}


def asked_by_kubectl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What kubectl reads after `kubectl evo WORDS` and a tab."""
    for name in ("_EVOLUTION_COMPLETE", "_TYPER_COMPLETE_FISH_ACTION", "_TYPER_COMPLETE_ARGS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-evo", *words])
    kubectl_completion.complete_for_kubectl()
    captured = capsys.readouterr()
    assert captured.err == "", "an error would be written across the user's line"
    return captured.out.splitlines()


def test_kubectl_gets_commands_with_their_help_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *lines, directive = asked_by_kubectl(monkeypatch, capsys, "st")
    assert [line.partition("\t")[0] for line in lines] == ["status", "study"]
    assert "\tShow a run on the cluster" in lines[0]
    assert directive == ":4"
    *lines, directive = asked_by_kubectl(monkeypatch, capsys, "logs", "--f")
    assert [line.partition("\t")[0] for line in lines] == ["--follow"]


def test_kubectl_gets_names_of_runs_and_stages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hostile = run("support-$(id)", "dpo-1;id")
    with played_api(monkeypatch, tmp_path, "mine") as api:
        api.answers[RUNS.format("mine")] = {"items": [run("support", "sft", "dpo-1"), run("other"), hostile]}
        api.answers[RUNS.format("team")] = {"items": [run("theirs")]}
        assert asked_by_kubectl(monkeypatch, capsys, "status", "su") == ["support", ":4"]
        assert asked_by_kubectl(monkeypatch, capsys, "retry", "-n", "team", "") == ["theirs", ":4"]
        assert asked_by_kubectl(monkeypatch, capsys, "logs", "support", "dp") == ["dpo-1", ":4"]
        assert api.asked[-1][1].endswith("?fieldSelector=metadata.name%3Dsupport")


@pytest.mark.parametrize("found", [401, 404, 500, {"items": None}])
def test_a_cluster_that_refuses_offers_nothing_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, found: Any
) -> None:
    with played_api(monkeypatch, tmp_path, "mine") as api:
        api.answers[RUNS.format("mine")] = found
        assert asked_by_kubectl(monkeypatch, capsys, "status", "") == [":0"]
    assert asked_by_kubectl(monkeypatch, capsys, "status", "") == [":0"], "no server listens there any more"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert asked_by_kubectl(monkeypatch, capsys, "status", "") == [":0"]


def test_files_are_left_to_the_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked_by_kubectl(monkeypatch, capsys, "run", "-f", "") == [":0"]


def test_bash_asks_the_program_itself() -> None:
    """The script that `--install-completion` installs, in a real bash with `evolution` as a function."""
    script = f"""
    evolution() {{ {sys.executable} -c "import sys; sys.argv = ['evolution']; from evolution_operator.cli.main import main; main()"; }}
    env() {{ local -x COMP_WORDS="${{1#*=}}" COMP_CWORD="${{2#*=}}" "$3"; evolution; }}
    eval "$(_EVOLUTION_COMPLETE=source_bash evolution)"
    COMP_WORDS=(evolution va); COMP_CWORD=1
    _evolution_completion evolution
    echo "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert found.stdout == "validate\n", found.stderr


def test_every_program_of_the_package_exists() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"evolution", "kubectl-evo", "kubectl_complete-evo"} <= set(scripts)
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("called", "name"), [("/bin/kubectl-evo", "kubectl evo"), ("/bin/evolution", "evolution")])
def test_help_names_the_program_that_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], called: str, name: str
) -> None:
    from evolution_operator.cli.main import main

    monkeypatch.setattr(sys, "argv", [called, "retry", "--help"])
    monkeypatch.setattr("evolution_operator.cli.main.redact_output", lambda: None)
    with pytest.raises(SystemExit):
        main()
    assert f"Usage: {name} retry" in capsys.readouterr().out


def test_completion_is_installed_by_the_program_itself() -> None:
    options = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= options
