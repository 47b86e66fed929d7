"""Runs a copy of the example notebook in a kernel of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "notebook" / "evolution.ipynb"


def copy_examples(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the examples, and keep what kernels and runs leave in `directory`. Returns the copied notebook."""
    shutil.copytree(EXAMPLES, directory / "examples", ignore=shutil.ignore_patterns("runs"))
    for name in ("XDG_STATE_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(directory / name.lower()))
    return directory / "examples" / "notebook" / NOTEBOOK.name


def code_cells(path: Path) -> list[Any]:
    """The notebook's cells of code."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def executed(path: Path, timeout: int) -> Iterator[tuple[str, str]]:
    """Execute the notebook. Yields the code of each cell and all that it shows. Raises CellExecutionError.

    `timeout` is the longest time of a cell, in seconds.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield cell.source, "\n".join(_shown(output) for output in cell.outputs)


def _shown(output: Any) -> str:
    data = output.get("data", {})
    return str(output.get("text") or data.get("text/html") or data.get("text/plain", ""))
