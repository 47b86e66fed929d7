"""Reads what a run has left, for its report. A file that cannot be read is named in the report, which is made without it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self, TypeVar

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.manifest import Manifest, Output
from evolution_jobs.contract.rows import Answer, Pair, Reject, Verdict
from evolution_jobs.libraries import install
from evolution_jobs.printable import printable
from evolution_jobs.redaction import redacted
from pydantic import ValidationError

from ..results.results import Results
from .facts import Change, Facts
from .scores import StoredScores

Read = TypeVar("Read")


class Stored(Protocol):
    """A row type."""

    @classmethod
    def stored(cls, value: bytes) -> Self: ...


Row = TypeVar("Row", bound=Stored)


def gather(results: Results) -> Facts:
    """Everything that the report of a run is made from. Raises what the store raises only if it does not answer at all."""
    with tempfile.TemporaryDirectory(prefix="evolution-report-") as scratch:
        reader = _Reader(results, Path(scratch))
        answers = {f"M{number}": rows for number, rows in reader.rows("evaluate", "answers", Answer).items()}
        changes, not_compared = compared(answers)
        return Facts(
            namespace=results.namespace,
            name=results.name,
            storage=results.store.uri,
            made=datetime.now(UTC),
            manifests=results.manifests,
            spec=results.spec,
            status=results.status,
            observed=results.observed,
            scores=reader.by_iteration("evaluate", "metrics", _scores),
            answers=answers,
            pairs=reader.rows("reflect", "pairs", Pair),
            rejects=reader.rows("reflect", "rejects", Reject),
            verdicts=reader.rows("judge", "verdicts", Verdict),
            changes=changes,
            not_compared=not_compared,
            unread=[*(f"{stage}: {why}" for stage, why in results.faults.items()), *reader.unread],
        )


def compared(answers: Mapping[str, Sequence[Answer]]) -> tuple[list[Change], str]:
    """How the figures of each later model differ from those of the first, or why they were not compared."""
    if len(answers) < 2:
        return [], "fewer than two models have answers"
    try:
        from evolution_jobs.metrics.compare import compare
    except ImportError as error:
        return [], f"{error.name} is not installed here ({install('train')})"
    try:
        found = compare(answers)
    except StageError as error:
        return [], str(error)
    changes = [
        Change(
            each.name,
            each.label,
            each.better,
            each.model,
            each.baseline,
            each.difference,
            (each.interval[0], each.interval[1]) if each.interval else None,
            each.verdict,
        )
        for each in found.differences
    ]
    return changes, ""


class _Reader:
    """Copies outputs of finished stages here and reads them. `unread` says what could not be read."""

    def __init__(self, results: Results, scratch: Path) -> None:
        self._results = results
        self._scratch = scratch
        self.unread: list[str] = []

    def rows(self, kind: str, output: str, row: type[Row]) -> dict[int, list[Row]]:
        """By iteration: the rows of an output of all stages of a kind."""
        found = self.by_iteration(kind, output, lambda path: (path.name, *read_rows(path, row)))
        self.unread += [f"{kind}-{number}/{name}: {bad}" for number, (name, _, bad) in found.items() if bad]
        return {number: rows for number, (_, rows, _) in found.items()}

    def by_iteration(self, kind: str, output: str, read: Callable[[Path], Read]) -> dict[int, Read]:
        """By iteration: what `read` makes of an output's only file."""
        found = {}
        for manifest in self._results.manifests.values():
            if manifest.kind == kind and output in manifest.outputs:
                try:
                    found[manifest.iteration or 0] = read(self._fetch(manifest, manifest.outputs[output]))
                except (StageError, OSError, ValueError, RecursionError) as error:
                    self.unread.append(f"{manifest.stage}, {output}: {_words(error)}")
        return found

    def _fetch(self, manifest: Manifest, output: Output) -> Path:
        paths = self._results.fetch(output, self._scratch / manifest.key)
        if not paths:
            raise ValueError("the output has no file")
        return paths[0]


def read_rows(path: Path, row: type[Row]) -> tuple[list[Row], str]:
    """The rows of a JSON Lines file, and in words which lines are none."""
    found, bad = [], []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found.append(_row(line, row))
            except (ValueError, RecursionError) as error:
                bad.append(f"line {number}: {_words(error)}")
    more = f", and {len(bad) - 1} more lines" if len(bad) > 1 else ""
    return found, f"{bad[0]}{more}; the report leaves them out" if bad else ""


def _row(line: bytes, row: type[Row]) -> Row:
    try:
        return row.stored(line)
    except ValidationError:
        # Half of a surrogate pair is no text. Everything else of the row can still be shown.
        whole = json.dumps(json.loads(line), ensure_ascii=False).encode("utf-16", "surrogatepass")
        return row.stored(whole.decode("utf-16", "replace").encode())


def _scores(path: Path) -> StoredScores:
    return StoredScores.stored(path.read_bytes())


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}"
    elif isinstance(error, StageError):
        text = f"{error.reason}: {error}"
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    else:
        text = str(error) or type(error).__name__
    return printable(redacted(text))
