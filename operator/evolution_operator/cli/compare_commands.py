"""Commands that say how good answers are: compare, score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .console import open_console
from .options import Output, OutputOption, StorageOption


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run files, experiments, runs on the cluster, or answers.jsonl; RUN:M2 takes one model.",
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of runs on the cluster.")
    ] = None,
    storage: StorageOption = None,
    figures: Annotated[
        str | None, typer.Option("--figures", help="Names of figures, with commas; by default those of the status.")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Compare models on the same rows: paired differences to the first, with 95 % intervals."""
    from evolution_jobs.metrics.compare import compare as compare_models

    from .compare import print_comparison, read_models

    names = [name.strip() for name in figures.split(",")] if figures else None
    found = compare_models(read_models(references, namespace, storage), names)
    if output is Output.json:
        print(json.dumps(found.wire(), ensure_ascii=False))
    else:
        print_comparison(open_console(), found)


def score(
    hypotheses: Annotated[Path, typer.Option(help="Answers to score, one a line.")],
    references: Annotated[Path, typer.Option(help="Human answers, one a line.")],
) -> None:
    """Score answers against references with the figures that evaluate uses; prints one JSON document."""
    from evolution_jobs.metrics.score import score_files

    print(json.dumps(score_files(hypotheses, references), ensure_ascii=False, indent=1))
