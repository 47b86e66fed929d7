"""The report of a run: one HTML file that somebody who was not there can read, made from what the run left in its storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.libraries import install

if TYPE_CHECKING:
    from ..results.results import Results


def load_writer() -> Callable[[Results, Path], None]:
    """`page.write_report`. Raises PermanentError `DependencyMissing` if what it needs is not installed."""
    try:
        from .page import write_report
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jinja2", "markupsafe", "vl_convert"):
            raise
        raise PermanentError("DependencyMissing", f"a report needs {error.name}: {install('report')}") from error
    return write_report
