"""What docs/tutorial.md shows of commands that train nothing is what they print, and its run files are valid."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from evolution_operator.api.crd import build_crd

from tests.support.pages import blocks, is_printed, masked
from tests.support.shell import Shell

ROOT = Path(__file__).parents[2]
PAGE = "tutorial.md"
KIND = ("The same, step by step", "Look at the results")
"""Sections of quickstart-kind.md that tests/cluster runs."""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in a directory that looks like a checkout after `make setup`."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return Shell(tmp_path, {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")})


def test_a_run_file_is_checked_and_planned_before_anything_runs(shell: Shell) -> None:
    with shell:
        shell.walk(PAGE, "1. Install and run", block=0, mask=masked)


def test_faults_are_reported_as_the_page_shows(shell: Shell) -> None:
    with shell:
        for command in blocks(PAGE, "1. Install and run")[0][1:3]:
            shell.run(command.text)
        shell.walk(PAGE, "6. Break it on purpose", block=0, mask=str)


def test_a_record_that_cannot_be_read_is_named_as_the_page_shows(shell: Shell) -> None:
    with shell:
        for command in blocks(PAGE, "1. Install and run")[0][1:3]:
            shell.run(command.text)
        shell.walk(PAGE, "7. Use your own data", block=0, mask=masked)


def test_a_cluster_gets_the_commands_that_the_kind_quickstart_has_proven() -> None:
    known = {command.text for section in KIND for block in blocks("quickstart-kind.md", section) for command in block}
    start, _ = blocks(PAGE, "9. Go to a cluster")
    assert {command.text for command in start} <= known


def test_a_run_on_a_cluster_has_the_columns_that_the_page_shows() -> None:
    _, [get, *_] = blocks(PAGE, "9. Go to a cluster")
    columns = build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    assert get.output[0].split() == ["NAME", *(each["name"].upper() for each in columns if not each.get("priority"))]


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("sft finished in 9 s (2 of 7 cached)", True),
        ("sft finished in 9 s ...", True),
        ("sft failed ...", False),
        ("sft finished in 9 s (3 of 7 cached)", False),
        ("sft", False),
    ],
)
def test_a_shown_line_is_compared_but_for_figures(shown: str, found: bool) -> None:
    assert is_printed(shown, ["sft   finished in 21.5 s (2 of 7 cached)"], masked) is found
