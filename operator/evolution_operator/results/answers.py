"""Reads what models answered: from files, or from the results of runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.jsonl import RowFault, rows_by_id
from evolution_jobs.contract.rows import Answer
from evolution_jobs.contract.stage import kind_of

from ..planner.observed import Run
from .find import results_of_run
from .results import Results


def answers_of_file(path: Path) -> list[Answer]:
    """The rows of an `answers.jsonl`. Raises PermanentError `AnswersInvalid`, which names the file and the line."""
    try:
        with path.open("rb") as file:
            rows = rows_by_id(file, Answer, "context")
    except OSError as error:
        raise PermanentError("AnswersInvalid", f"{path} cannot be read: {error.strerror}") from error
    except RowFault as fault:
        place = f"{path}:{fault.line}"
        if fault.doubled:
            raise PermanentError("AnswersInvalid", f"{place}: {fault}; remove one row") from fault
        raise PermanentError(
            "AnswersInvalid", f"{place}: {fault.field or 'row'}: {fault.words}; answers.jsonl of evaluate is expected"
        ) from fault
    if not rows:
        raise PermanentError("AnswersInvalid", f"{path} is empty")
    return list(rows.values())


def answers_of(results: Results) -> dict[str, list[Answer]]:
    """By model (M0, M1, ...): what each evaluated model of a run answered.

    Raises PermanentError `AnswersMissing` if none was evaluated or an evaluation cannot be read, and what the store raises.
    """
    for stage, fault in results.faults.items():
        if kind_of(stage) == "evaluate":
            raise PermanentError("AnswersMissing", f"run {results.name}: stage {stage}: {fault}")
    found: dict[str, list[Answer]] = {}
    for artifact in results.artifacts.values():
        if artifact.manifest.kind == "evaluate" and artifact.name.startswith("answers-"):
            with tempfile.TemporaryDirectory() as scratch:
                (path,) = results.fetch(artifact.output, Path(scratch))
                found[f"M{artifact.manifest.iteration}"] = answers_of_file(path)
    if not found:
        raise PermanentError(
            "AnswersMissing",
            f"run {results.name}: {results.store.uri} has no finished evaluation of it; run it, or check --storage",
        )
    return found


def answers_of_arms(runs: Mapping[str, Run], model: str | None = None) -> dict[str, list[Answer]]:
    """By `VARIANT:MODEL`: what the last model of each arm of an experiment answered, or the model of this name (M1).

    Raises PermanentError `AnswersMissing` if an arm has none, and what the store raises.
    """
    found = {}
    for variant, run in runs.items():
        name, answers = model or f"M{run.spec.iterations}", answers_of(results_of_run(run))
        if name not in answers:
            raise PermanentError(
                "AnswersMissing",
                f"run {run.ref.name} has answers of {', '.join(answers)}, not of {name}; run it to its end",
            )
        found[f"{variant}:{name}"] = answers[name]
    return found
