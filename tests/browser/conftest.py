"""Headless Chromium, and a study's server as a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from evolution_operator.cli.main import app
from playwright.sync_api import Browser, sync_playwright
from typer.testing import CliRunner

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE = "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
EVOLUTION = "import sys; sys.argv = ['evolution', *{!r}]; from evolution_operator.cli.main import main; main()"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("browser")


def find_chromium() -> str | None:
    """Chromium's program: `EVOLUTION_CHROMIUM`, or the first on PATH."""
    given = os.environ.get("EVOLUTION_CHROMIUM")
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program. It is installed if this is root on Debian; else the test fails, as nothing else proves the pages."""
    if find_chromium() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE]):
            done = subprocess.run(["apt-get", "--quiet", *command], env=environment, capture_output=True, text=True)
            if done.returncode:
                pytest.fail(f"Chromium is missing, and apt-get {' '.join(command)} failed: {done.stderr.strip()}")
    found = find_chromium()
    if found is None:
        pytest.fail(f"Chromium is missing: install the package {PACKAGE}, or set EVOLUTION_CHROMIUM to its program")
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


def evolution(*arguments: object) -> str:
    """The output of a command of ours."""
    done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@contextmanager
def served(study: Path) -> Iterator[str]:
    """The address of a study's pages, served by `evolution study serve`."""
    script = EVOLUTION.format(["study", "serve", str(study), "--port", "0"])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+:\d+", process.stdout.readline())
            assert address is not None
            yield address[0]
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0
