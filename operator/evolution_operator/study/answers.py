"""Reads the answers that a study compares: `answers.jsonl` of evaluate stages, from files or from a run's storage."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.jsonl import RowFault, rows_by_id
from evolution_jobs.contract.names import named
from evolution_jobs.contract.rows import Verdict

from ..planner.observed import Run
from ..results.find import results_of_run
from ..results.results import Results
from .records import HUMAN, Sample, Utterance

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,39}")
"""How a model may be named in a study."""


class AnsweredContext(Document):
    """A line of answers.jsonl, as far as a study needs it."""

    id: str
    dialogue: str
    context: list[Utterance]
    human: str
    answer: str


class FullContext(Document):
    """A line of test.jsonl, as far as a study needs it."""

    id: str
    turns: list[Utterance]


Row = TypeVar("Row", AnsweredContext, FullContext, Verdict)
Read = TypeVar("Read")
Answers = Mapping[str, Mapping[str, AnsweredContext]]
"""By model, then by context."""


def read_answers(path: Path) -> dict[str, AnsweredContext]:
    """The rows of an `answers.jsonl` by context. Raises PermanentError `StudyInput`, with file and line."""
    return _read(path, AnsweredContext)


def read_contexts(path: Path) -> dict[str, list[Utterance]]:
    """All turns of each context, from prepare's `test.jsonl`. Raises PermanentError `StudyInput`, with file and line."""
    return {row.id: row.turns for row in _read(path, FullContext).values()}


def read_verdicts(path: Path) -> list[Verdict]:
    """The rows of a judge's `verdicts.jsonl`. Raises PermanentError `StudyInput`, with file and line."""
    return list(_read(path, Verdict, "a verdicts.jsonl of a judge stage", "verdict").values())


def answers_of_run(
    run: Run, models: Sequence[str]
) -> tuple[dict[str, dict[str, AnsweredContext]], dict[str, list[Utterance]]]:
    """The answers of a run's models (M0, M1, ...) and all turns of their contexts, from the run's storage.

    Raises PermanentError `StudyInput` if a model is not one of the run's or has not answered yet, and what the store
    raises.
    """
    rounds = range(run.spec.iterations + 1)
    wanted = {name: f"answers-{number}" for number in rounds if (name := f"M{number}") in models}
    if unknown := [name for name in models if name != HUMAN and name not in wanted]:
        known = ", ".join([*(f"M{number}" for number in rounds), HUMAN])
        raise PermanentError("StudyInput", f"--models: {', '.join(unknown)}: this run has {known}")
    results = results_of_run(run)
    # A study of the human answer and one model needs that model's file; one of nothing but human has none.
    answers = {name: _fetched(results, artifact, read_answers) for name, artifact in wanted.items()}
    return answers, _fetched(results, "test", read_contexts)


def _fetched(results: Results, name: str, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of the artifact's file."""
    stage = named(name)
    assert stage is not None, f"{name} is no artifact's name"
    if name not in results.artifacts:
        raise PermanentError(
            "StudyInput",
            f"stage {stage.stage} of this run is not finished in {results.store.uri}; `evolution plan` shows what is. If it ran "
            "on a cluster, name its answers.jsonl files instead: M0=FILE M1=FILE",
        )
    with tempfile.TemporaryDirectory() as scratch:
        (path,) = results.fetch(results.artifact(name).output, Path(scratch))
        return read(path)


def gather(answers: Answers, models: Sequence[str], contexts: Mapping[str, Sequence[Utterance]]) -> list[Sample]:
    """The contexts that all models have answered, in the first file's order.

    Raises PermanentError `StudyInput` for fewer than two models, for names that no file has, and for files that do not
    belong together.
    """
    if len(set(models)) != len(models) or len(models) < 2:
        raise PermanentError(
            "StudyInput", f"a study compares two or more different models, not {', '.join(models) or 'none'}"
        )
    if bad := [name for name in [*models, *answers] if not NAME.fullmatch(name)]:
        raise PermanentError("StudyInput", f"{bad[0]!r}: name a model by up to 40 letters, digits, '.', '_' and '-'")
    if missing := [name for name in models if name != HUMAN and name not in answers]:
        raise PermanentError("StudyInput", f"--models: {', '.join(missing)}: no file has these answers")
    (base, rows), *others = answers.items()
    samples = []
    for id_, row in rows.items():
        beside = {name: other[id_] for name, other in others if id_ in other}
        if len(beside) < len(others):
            continue
        for name, other in beside.items():
            if (other.human, other.dialogue) != (row.human, row.dialogue):
                raise PermanentError(
                    "StudyInput",
                    f"context {id_!r}: {base} and {name} have different human answers, so they are of different test data",
                )
        said = {HUMAN: row.human, base: row.answer, **{name: other.answer for name, other in beside.items()}}
        turns = contexts.get(id_, row.context)
        samples.append(Sample(id_, row.dialogue, turns, _position(id_) > len(turns), said))
    if not samples:
        raise PermanentError("StudyInput", f"no context is in the files of all models ({', '.join(answers)})")
    return samples


def _position(context: str) -> int:
    """The position of the awaited turn, with which a context's id ends; 0 if it does not."""
    _, _, position = context.rpartition("-")
    return int(position) if re.fullmatch(r"\d{1,9}", position, re.ASCII) else 0


def _read(
    path: Path, kind: type[Row], what: str = "an answers.jsonl of evaluate", called: str = "context"
) -> dict[str, Row]:
    try:
        with path.open("rb") as file:
            rows = rows_by_id(file, kind, called)
    except OSError as error:
        raise PermanentError("StudyInput", f"{path}: {error.strerror}") from error
    except RowFault as fault:
        advice = "" if fault.doubled else f"; this is not {what}"
        raise PermanentError("StudyInput", f"{path}, line {fault.line}: {fault}{advice}") from fault
    if not rows:
        raise PermanentError("StudyInput", f"{path}: it has no rows")
    return rows
