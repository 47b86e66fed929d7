"""`make kind-…` without Docker: kind, docker, helm and kubectl are fakes that record how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FAKE_PROGRAM = """#!/bin/sh
echo "$KUBECONFIG $(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $1 $2" in
  "kind get clusters") cat "$CLUSTERS";;
  "kubectl --namespace=evolution get") case "$*" in *jsonpath*) echo "$PHASE";; esac;;
esac
"""


class Checkout:
    """The files that the targets need of a checkout, and the fake programs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in (
            "Makefile",
            "kind-config.yaml",
            "charts/evolution-operator/Chart.yaml",
            "requirements/operator.txt",
        ):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
        self.programs = directory / "programs"
        for program in ("kind", "docker", "helm", "kubectl"):
            self._write_program(self.programs / program)
        self._write_program(directory / "build/kind/bin/python")
        (directory / "build/kind/.ready").touch()
        self.clusters = directory / "clusters"
        self.clusters.touch()

    def _write_program(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_PROGRAM)
        path.chmod(0o755)

    def make(self, target: str, phase: str = "Complete") -> tuple[int, list[str]]:
        """The exit status, and the calls; each was made with the cluster's own kubeconfig."""
        calls = self.directory / "calls"
        calls.write_text("")
        own = {"CALLS": str(calls), "CLUSTERS": str(self.clusters), "PHASE": phase, "KUBECONFIG": "/the/users/own"}
        environment = {**os.environ, **own, "PATH": f"{self.programs}:{os.environ['PATH']}"}
        environment.pop("MAKEFLAGS", None)
        done = subprocess.run(
            ["make", target], cwd=self.directory, env=environment, capture_output=True, text=True, timeout=60
        )
        config = f"{self.directory / 'build/kind.kubeconfig'} "
        lines = calls.read_text().splitlines()
        assert all(line.startswith(config) for line in lines), f"the user's own cluster is used: {lines}"
        return done.returncode, [line.removeprefix(config) for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_cluster_is_created_unless_it_exists(checkout: Checkout) -> None:
    status, calls = checkout.make("kind-up")
    assert status == 0
    assert "kind create cluster --config=kind-config.yaml --wait=2m" in calls
    name = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["name"]
    checkout.clusters.write_text(f"another\n{name}\n")
    status, calls = checkout.make("kind-up")
    assert (status, calls) == (0, ["kind get clusters", f"kind export kubeconfig --name={name}"])
    assert checkout.make("kind-down") == (0, [f"kind delete cluster --name={name}"])


def test_the_images_that_the_chart_names_are_built_and_loaded(checkout: Checkout) -> None:
    status, calls = checkout.make("kind-load")
    assert status == 0
    chart = yaml.safe_load((ROOT / "charts/evolution-operator/Chart.yaml").read_text())
    values = yaml.safe_load((ROOT / "charts/evolution-operator/values.yaml").read_text())
    images = [f"{block['repository']}:{chart['appVersion']}" for block in (values["image"], values["stages"]["image"])]
    for call, image, file in zip(calls, images, ("operator", "train"), strict=False):
        assert call.startswith(f"docker build --file=images/{file}/Dockerfile --tag={image} ")
        assert (ROOT / f"images/{file}/Dockerfile").exists()
    assert "WITH_SAMPLE=1" in calls[1], "the quickstart's model is in the image"
    assert calls[2:] == [f"kind load docker-image --name=evolution {' '.join(images)}"]


@pytest.mark.parametrize(("phase", "status"), [("Complete", 0), ("Failed", 2)])
def test_the_demo_succeeds_only_if_its_run_does(phase: str, status: int, checkout: Checkout) -> None:
    ended, calls = checkout.make("kind-demo", phase)
    assert ended == status
    assert calls[0].startswith("helm upgrade --install evo charts/evolution-operator --namespace=evolution ")
    assert calls[1] == "python examples/quickstart/upload.py"
    assert calls[2].endswith("apply --filename=examples/quickstart/evolutionrun-cluster.yaml")
    assert any("describe evo quickstart" in call for call in calls) == (phase == "Failed"), "a failure is shown"
