"""The report of a run: one HTML file that somebody who was not there can read, made from what the run left in its storage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evolution_jobs.contract.errors import PermanentError

if TYPE_CHECKING:
    from ..results.results import Results


def load_writer() -> Callable[[Results, Path], None]:
    """`page.write_report`. Raises PermanentError `DependencyMissing` if what it needs is not installed."""
    try:
        from .page import write_report
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jinja2", "markupsafe", "vl_convert"):
            raise
        raise PermanentError(
            "DependencyMissing", f"a report needs {error.name}: pip install 'evolution-operator[report]'"
        ) from error
    return write_report


class _Report(ModuleType):
    """`evolution_operator.report` is a function of the Python API, too, and a package and its attribute are one thing."""

    def __call__(
        self,
        run: Any,
        path: str | Path | None = None,
        *,
        namespace: str | None = None,
        storage: str | Path | None = None,
    ) -> Any:
        """As `evolution_operator.interactive.local.report`, which this package may not import: it stands below that."""
        local = import_module("evolution_operator.interactive.local")
        return local.report(run, path, namespace=namespace, storage=storage)


sys.modules[__name__].__class__ = _Report
