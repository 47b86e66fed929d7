"""A process's report: one JSON document that fits into Kubernetes' termination message."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from ..contract.manifest import Report
from ..contract.variables import TERMINATION_LOG_VARIABLE
from ..redaction import redacted

log = logging.getLogger(__name__)

TERMINATION_LIMIT = 4096
"""Bytes that the kubelet keeps of a termination message."""
MESSAGE_LIMIT = 1024
"""Characters of a message that are kept if the report is too long."""


def one_line(text: str) -> str:
    """The text without line breaks and without what UTF-8 cannot encode."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())


def trimmed(report: Report, limit: int = TERMINATION_LIMIT) -> bytes:
    """The report as JSON of at most `limit` bytes.

    It drops first what no decision depends on: the message's tail, counts, notes. Then stages of `published` with figures,
    the last one first, because the status must not have a stage without its figures: a stage that is not listed there
    finds its result when it starts, and reports it. Last go intervals, metrics, and the rest of `published`.
    """
    values = report.wire()
    if len(_encoded(values)) > limit and len(report.message) > MESSAGE_LIMIT:
        values["message"] = report.message[: MESSAGE_LIMIT - 1] + "…"
    for field in ("counts", "notes", "figures", "intervals", "metrics", "published"):
        while values.get(field) and len(_encoded(values)) > limit:
            if field in ("notes", "published"):
                values[field].pop()
                continue
            dropped, _ = values[field].popitem()
            if field == "figures":
                values.get("figureIntervals", {}).pop(dropped, None)
                values["published"].remove(dropped)
    while values.get("message") and len(_encoded(values)) > limit:
        values["message"] = values["message"][: len(values["message"]) // 2]
    return _encoded(values)


def write_report(report: Report) -> None:
    """Write the report without credentials to the termination log, and as one JSON line to stdout."""
    report = report.model_copy(
        update={"message": redacted(report.message), "notes": [redacted(note) for note in report.notes]}
    )
    write_termination_message(report)
    try:
        sys.stdout.write(json.dumps(report.wire(), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads it, and the interpreter would try to flush again when it ends.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def write_termination_message(report: Report) -> None:
    """Write the report where Kubernetes, or whoever started this process, looks for it.

    If that fails, a warning names the file, and the stage does not fail.
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
