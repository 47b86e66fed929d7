"""What a command needs that is not installed everywhere."""

from __future__ import annotations

import importlib.util
import warnings

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.libraries import install, set_library_defaults

LIBRARIES = ("torch", "transformers", "peft", "jinja2")
"""What running a model imports."""


def require_libraries(command: str) -> None:
    """Raise PermanentError `DependencyMissing` if what runs models is not installed. Imports none of it."""
    set_library_defaults()
    # What a library will change later is news for us, not for who talks to a model.
    warnings.filterwarnings("ignore", category=FutureWarning)
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise PermanentError(
            "DependencyMissing",
            f"evolution {command} needs {', '.join(missing)}, not installed here: {install('train')}",
        )
