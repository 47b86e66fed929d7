"""docs/experiments.md is run as it is written: the example's arms, with the real small model."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.pages import masked
from tests.support.shell import Shell

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.model, pytest.mark.timeout(3600)]


def test_the_arms_of_the_example_share_what_the_page_shows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with Shell(tmp_path, {**os.environ, "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state")}) as shell:
        for section in ("Check it", "Run it"):
            shell.walk("experiments.md", section, mask=masked)
