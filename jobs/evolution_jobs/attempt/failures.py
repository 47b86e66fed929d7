"""From any exception to a reason, one line for the user, and an exit code."""

from __future__ import annotations

import errno
import json
import logging
import tempfile
import traceback

from pydantic import ValidationError

from ..contract.errors import MEMORY_LEVERS, PermanentError, StageError, Terminated, TransientError, causes
from ..contract.manifest import Report
from ..contract.stage import StageSpec
from ..redaction import redacted, words_of
from ..store.base import disk_error
from .inputs import InputError
from .report import one_line

log = logging.getLogger(__name__)

DETERMINED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    RecursionError,
)
"""Errors that code raises because of what it was given: the next attempt is given the same. Connections, memory and GPUs
raise others (OSError, RuntimeError, and libraries' own)."""
DAMAGED = (json.JSONDecodeError, UnicodeError)
"""Of these, what a file raises that was read before it was complete, for example from a network volume."""
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of the file system that libraries often meet and pass over as they look for an optional file."""


def failure_report(spec: StageSpec | None, error: BaseException) -> tuple[Report, int]:
    """The report and exit code of a stage that failed with `error`. Logs it, with its traceback if it is unexpected."""
    found = explain(error, spec.kind if spec else None)
    message = redacted(one_line(str(found)))
    # Not with exc_info: a traceback quotes what a library has refused, which may be a credential.
    trace = "".join(["\n", *traceback.format_exception(error)]) if found.reason == "InternalError" else ""
    log.error("%s: %s%s", found.reason, message, redacted(trace))
    report = Report(
        reason=found.reason,
        message=message,
        key=spec.key if spec else None,
        corrupt=found.stage if isinstance(found, InputError) else None,
    )
    return report, found.exit_code


def explain(error: BaseException, kind: str | None) -> StageError:
    """The domain error for `error`: itself, one of its causes, or an equivalent."""
    if isinstance(error, StageError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Terminated("stopped at once; what was saved before is kept")
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return disk_error(cause, tempfile.gettempdir())
        # Libraries in other languages raise their own errors, which only quote the system's message.
        if "No space left on device" in str(cause):
            return TransientError("DiskFull", f"no space left in {tempfile.gettempdir()}: free space, or set TMPDIR")
        if _is_out_of_memory(cause):
            lever = MEMORY_LEVERS.get(kind or "")
            remedy = f"{lever}, or give the stage more memory" if lever else "give the process more memory"
            return TransientError("OutOfMemory", f"out of memory: {remedy}")
    words = f"{type(error).__name__}: {words_of(error)}"
    if _is_determined(error):
        advice = "the next attempt would meet the same error, so there is none; this one's log has the traceback"
        return PermanentError("InternalError", f"{words}; {advice}")
    return TransientError("InternalError", words)


def invalid_fields(error: ValidationError, prefix: str = "") -> str:
    """Every fault of a document, each with the path of its field."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(": ".join(filter(None, (prefix + ".".join(map(str, f["loc"])), f["msg"]))) for f in faults)


def _is_determined(error: BaseException) -> bool:
    """Whether the same input gives the same error, as far as its types tell."""
    chain = list(causes(error))
    passing = any(
        isinstance(each, DAMAGED) or (isinstance(each, OSError) and not isinstance(each, MISSING)) for each in chain
    )
    return isinstance(error, DETERMINED) and not passing


def _is_out_of_memory(error: BaseException) -> bool:
    # By name: importing torch to recognise its error costs seconds, and the process may not use torch.
    named = any(ancestor.__name__ == "OutOfMemoryError" for ancestor in type(error).__mro__)
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)
