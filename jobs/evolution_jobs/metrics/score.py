"""All figures of a list of answers against the human answers, as `evaluate` and `evolution score` report them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from ..contract.errors import PermanentError
from ..contract.figures import Figure
from ..unspaced import SCRIPTS, has_unspaced, mostly_unspaced
from .answered import Answered
from .measures import MEASURES, REFERENCE, Measure
from .signatures import signatures

BAD_INPUT = "ScoreInput"
ENGLISH_ONLY = "stock_phrase_rate"


class Scores(TypedDict):
    """Figures and how they were computed; valid JSON."""

    rows: int
    figures: list[dict[str, Any]]
    """Each `Figure`, of all rows and then of each test set."""
    signatures: list[dict[str, Any]]
    """Each `Signature` of failing self-evolution, present or not."""
    metrics: dict[str, float]
    """The value of each figure of all rows, by name."""
    intervals: dict[str, list[float]]
    """Their 95 % intervals [low, high]."""
    human: dict[str, float]
    """The reference-free figures of the human answers, for comparison with the model's."""
    methods: dict[str, str]
    """Signature and tokeniser, and what counts as a word: only BLEU figures with equal ones can be compared."""


def score(rows: Answered, sets: Sequence[str | None] | None = None, also: Sequence[str] = ()) -> Scores:
    """Every figure that can be computed from the rows. If the references are in a script without spaces between words,
    `stock_phrase_rate` is left out.

    `sets` names each row's test set; if there are several, each has figures of its own. `also` names figures that are
    computed only where they are asked for.

    Raises PermanentError (`ScoreInput`) if the lists are empty or differ in length, or a reference is empty.
    """
    _check(rows.answers, rows.humans)
    overall = figures(rows, also=also)
    found = [*overall]
    for name, members in by_set(sets or []).items():
        found += figures(rows.only(members), name, also)
    return Scores(
        rows=len(rows),
        figures=[figure.wire() for figure in found],
        signatures=[each.wire() for each in signatures(rows)],
        metrics={figure.name: figure.value for figure in overall},
        intervals={figure.name: list(figure.interval) for figure in overall if figure.interval},
        human={figure.name: figure.human for figure in overall if figure.human is not None},
        methods=_methods(rows),
    )


def by_set(sets: Sequence[str | None]) -> dict[str, list[int]]:
    """Positions of the rows of each named test set; empty if all rows are of one set, whose figures are those of all."""
    found: dict[str | None, list[int]] = {}
    for row, name in enumerate(sets):
        found.setdefault(name, []).append(row)
    return {name: members for name, members in found.items() if name is not None and len(found) > 1}


def with_figures(scores: Scores, more: Sequence[Figure]) -> Scores:
    """The scores and figures that were found in another way."""
    overall = [figure for figure in more if figure.set is None]
    return Scores(
        {
            **scores,
            "figures": [*scores["figures"], *(figure.wire() for figure in more)],
            "metrics": scores["metrics"] | {figure.name: figure.value for figure in overall},
            "intervals": scores["intervals"] | {each.name: list(each.interval) for each in overall if each.interval},
            "human": scores["human"] | {each.name: each.human for each in overall if each.human is not None},
        }
    )


def figures(rows: Answered, name: str | None = None, also: Sequence[str] = ()) -> list[Figure]:
    """The figures of one set of rows; those that are computed only on request, if they are in `also`."""
    wanted = [measure for measure in MEASURES if measure.name in also or not measure.on_request]
    return [_figure(measure, rows, name) for measure in wanted if measure.defined(rows)]


def _figure(measure: Measure, rows: Answered, name: str | None) -> Figure:
    estimate, used = measure.estimate(rows), measure.used(rows)
    interval = estimate.interval()
    return Figure(
        name=measure.name,
        value=estimate.value,
        interval=list(interval) if interval else None,
        human=measure.estimate(used.by_humans).value if measure.reference_free else None,
        unit=measure.kind.unit,
        better=measure.kind.better,
        rows=len(used),
        row_set=used.row_set,
        set=name,
        method=measure.method(rows),
        headline=measure.kind.headline,
    )


def _methods(rows: Answered) -> dict[str, str]:
    methods = {
        "reference": f"{REFERENCE}; corpus_bleu, smoothing method 3; "
        "ROUGE-L, beta 1.2; Distinct-n without each answer's last n-gram (arXiv 2106.01144, myMetrics.py)",
        "sacrebleu": rows.sacre[1],
    }
    if has_unspaced([*rows.answers, *rows.humans]):
        methods["words"] = f"each character counts as a word in scripts without spaces ({SCRIPTS})"
        if mostly_unspaced(rows.humans):
            methods[ENGLISH_ONLY] = "not defined: its phrases are English"
    return methods


def score_files(hypotheses: Path, references: Path) -> Scores:
    """`score` over two files, line by line.

    A text file has one answer a line. A `.jsonl` file has one JSON string a line, or one object as in `answers.jsonl` of
    evaluate: hypotheses are read from `answer`, references from `human`, so one such file can be both. If all hypotheses
    have `finish`, it says which were cut. `strategy` of a reference's object is that of the human answer.

    Raises PermanentError (`ScoreInput`), which names the file and, if there is one, the line.
    """
    said, wanted = _lines(hypotheses), _lines(references)
    return score(
        Answered(
            answers=[_text(line, "answer", place) for place, line in said],
            humans=[_text(line, "human", place) for place, line in wanted],
            cut=_cut([line for _, line in said]),
            strategies=[_strategy(line, place) for place, line in wanted],
        )
    )


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise PermanentError(
            BAD_INPUT,
            f"{len(hypotheses)} hypotheses but {len(references)} references; give one per row, in the same order",
        )
    if not hypotheses:
        raise PermanentError(BAD_INPUT, "no hypotheses and no references; there is nothing to score")
    for row, reference in enumerate(references, 1):
        if not reference.strip():
            raise PermanentError(BAD_INPUT, f"reference {row} is empty; take the row out of both lists")


def _lines(path: Path) -> list[tuple[str, Any]]:
    """Each line's place, and what it holds: text, or the value of a line of JSON."""
    try:
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except OSError as error:
        raise PermanentError(BAD_INPUT, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PermanentError(BAD_INPUT, f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    if lines == [""]:
        raise PermanentError(BAD_INPUT, f"{path} is empty")
    placed = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1)]
    if path.suffix != ".jsonl":
        return [(place, line.removesuffix("\r")) for place, line in placed]
    return [(place, _json(line, place)) for place, line in placed]


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise PermanentError(BAD_INPUT, f"{place}: not JSON ({error})") from error


def _text(line: Any, field: str, place: str) -> str:
    text = line.get(field) if isinstance(line, dict) else line
    if not isinstance(text, str):
        raise PermanentError(BAD_INPUT, f"{place}: expected a string, or an object whose `{field}` is one")
    try:
        text.encode()
    except UnicodeEncodeError:
        words = "the text has half of a surrogate pair (\\ud800 to \\udfff), which is not a character; remove it"
        raise PermanentError(BAD_INPUT, f"{place}: {words}") from None
    return text


def _strategy(line: Any, place: str) -> str | None:
    strategy = line.get("strategy") if isinstance(line, dict) else None
    if strategy is not None and not isinstance(strategy, str):
        raise PermanentError(BAD_INPUT, f"{place}: `strategy` must be a string")
    return strategy


def _cut(lines: Sequence[Any]) -> list[bool] | None:
    """Whether each answer was cut off at the longest length; None if a line does not say."""
    ends = [line.get("finish") if isinstance(line, dict) else None for line in lines]
    return [end == "length" for end in ends] if all(end in ("stop", "length") for end in ends) else None
