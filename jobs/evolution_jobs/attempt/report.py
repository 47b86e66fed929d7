"""A stage's last words: one JSON document that fits Kubernetes' termination message."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from ..contract.manifest import Report
from ..contract.variables import TERMINATION_LOG_VARIABLE

log = logging.getLogger(__name__)

TERMINATION_LIMIT = 4096
"""Bytes that the kubelet keeps of a termination message."""
MESSAGE_LIMIT = 1024
"""Characters of an error's message that are kept where room is short."""


def one_line(text: str) -> str:
    """The text without line breaks and without what UTF-8 cannot carry."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())


def trimmed(report: Report, limit: int = TERMINATION_LIMIT) -> bytes:
    """The report as JSON of at most `limit` bytes.

    What no decision hangs on goes first: the message's tail, counts, figures, metrics, and last of all entries of
    `published` (a stage that is not listed there finds its own result when it starts).
    """
    values = report.wire()
    if len(_encoded(values)) > limit and len(report.message) > MESSAGE_LIMIT:
        values["message"] = report.message[: MESSAGE_LIMIT - 1] + "…"
    for field in ("counts", "figures", "metrics", "published"):
        while values.get(field) and len(_encoded(values)) > limit:
            if field == "published":
                values[field].pop()
            else:
                values[field].popitem()
    while values.get("message") and len(_encoded(values)) > limit:
        values["message"] = values["message"][: len(values["message"]) // 2]
    return _encoded(values)


def write_report(report: Report) -> None:
    """Write the report to the termination log, and as one JSON line to stdout."""
    write_termination_message(report)
    try:
        sys.stdout.write(json.dumps(report.wire(), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads it, and the interpreter would try once more when it ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def write_termination_message(report: Report) -> None:
    """Write the report where Kubernetes, or who started this process, looks for it.

    A place that cannot be written to is named on stderr and does not fail the stage.
    """
    named = os.environ.get(TERMINATION_LOG_VARIABLE)
    path = Path(named or "/dev/termination-log")
    if named is None and not os.access(path, os.W_OK):
        return
    try:
        path.write_bytes(trimmed(report))
    except OSError as error:
        log.warning("cannot write the report to %s: %s", path, error.strerror)


def _encoded(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
