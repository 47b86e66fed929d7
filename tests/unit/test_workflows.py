"""Workflows: pinned actions, least rights, bounded time, and make targets that exist. Forms: commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_operator.cli.main import app
from typer.main import get_command

from hack.cluster.binaries import PROGRAMS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github"
WORKFLOWS = {path.name: path for path in sorted((FOLDER / "workflows").glob("*.y*ml"))}
ACTIONS = {path.parent.name: path for path in sorted((FOLDER / "actions").glob("*/action.y*ml"))}
FORMS = {path.name: path for path in sorted((FOLDER / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"}
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*")
MAY_WRITE = {"release.yml": {"packages", "id-token", "attestations"}}
"""What a workflow may write, beyond reading the repository's contents."""
RUNNER_WORK = {"echo ", "for name in "}
"""How commands begin that hand values from step to step and are no work of the project."""


def loaded(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text())
    # YAML 1.1 takes the key `on` for a truth value.
    return {"on" if key is True else key: value for key, value in document.items()}


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    bodies = [*document.get("jobs", {}).values(), document.get("runs", {})]
    return [step for body in bodies for step in body.get("steps", ())]


@pytest.mark.parametrize("path", [*WORKFLOWS.values(), *ACTIONS.values()], ids=[*WORKFLOWS, *ACTIONS])
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path: Path) -> None:
    written = re.findall(r"^\s*(?:- )?uses: (.+)$", path.read_text(), re.MULTILINE)
    assert len(written) == sum("uses" in step for step in steps(loaded(path)))
    for action in written:
        if action.startswith("./"):
            assert (ROOT / action / "action.yml").exists(), action
        else:
            assert PINNED.fullmatch(action), action


def test_one_action_has_one_version_everywhere() -> None:
    text = "\n".join(path.read_text() for path in [*WORKFLOWS.values(), *ACTIONS.values()])
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"uses: ([\w./-]+)@(.+)$", text, re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_every_job_is_bounded_and_may_do_little(path: Path) -> None:
    workflow = loaded(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 120, name
        rights = job.get("permissions", {})
        assert {right for right, access in rights.items() if access == "write"} <= MAY_WRITE.get(path.name, set()), name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, f"{name}: a later step could read the token"


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_its_work_is_done_by_make_targets_that_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(loaded(path)):
        for line in step.get("run", "").splitlines():
            if line.startswith("make "):
                assert set(line.split()[1:]) <= targets, line
            else:
                assert line.startswith(tuple(RUNNER_WORK)), f"make this a target of the Makefile: {line}"


@pytest.mark.parametrize("path", WORKFLOWS.values(), ids=WORKFLOWS)
def test_no_command_holds_text_that_others_can_write(path: Path) -> None:
    """An expression in a command is pasted into the shell; a variable is not."""
    assert [step["run"] for step in steps(loaded(path)) if "${{" in step.get("run", "")] == []


def test_what_decides_is_called_as_it_is() -> None:
    jobs = loaded(WORKFLOWS["ci.yml"])["jobs"]
    assert any(step.get("run") == "make ci" for job in jobs.values() for step in job["steps"])
    assert "\nci: ## What CI runs\n\tbash .ci/run\n\n" in (ROOT / "Makefile").read_text()


def test_helm_kubectl_and_kind_are_the_versions_that_the_repository_pins() -> None:
    used: dict[str, set[str]] = {}
    for path in WORKFLOWS.values():
        for step in steps(loaded(path)):
            name = step.get("uses", "").partition("@")[0]
            for key in ("version", "kubectl_version"):
                if key in step.get("with", {}):
                    used.setdefault(f"{name} {key}", set()).add(step["with"][key])
    kind = re.search(r"\bkind (v\d+\.\d+\.\d+)", (ROOT / "kind-config.yaml").read_text())
    assert kind is not None
    assert used == {
        "azure/setup-helm version": {PROGRAMS["helm"].version},
        "helm/kind-action version": {kind[1]},
        "helm/kind-action kubectl_version": {PROGRAMS["kubectl"].version},
    }


def test_what_is_cached_is_keyed_by_pins_that_exist() -> None:
    used = {
        step["with"]["environment"]
        for path in WORKFLOWS.values()
        for step in steps(loaded(path))
        if step.get("uses") == "./.github/actions/prepare"
    }
    assert used
    assert all((ROOT / f"requirements/{name}.txt").exists() for name in used)


@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
def test_a_form_has_what_github_asks_for_and_names_commands_that_exist(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in asked}) == len(asked) > 0
    assert all(field["attributes"]["label"] for field in asked)
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"`evolution ([a-z]+)", path.read_text())) <= commands
