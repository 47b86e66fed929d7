"""docs/tutorial.md is run as it is written, and prints what it says, but for figures and times."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.pages import masked
from tests.support.shell import Shell

ROOT = Path(__file__).parents[2]
STEPS = (
    "1. Install and run",
    "2. Look at what the run left",
    "3. Run it again",
    "4. Change a method setting",
    "5. Add a round",
    "6. Break it on purpose",
    "7. Use your own data",
    "8. Share work and results",
)

pytestmark = [pytest.mark.model, pytest.mark.timeout(3600)]


def test_every_step_prints_what_the_page_shows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with Shell(tmp_path, environment | {"XDG_STATE_HOME": str(tmp_path / "state")}) as shell:
        for step in STEPS:
            shell.walk("tutorial.md", step, mask=masked)
