"""`evolution compare`: which runs are meant, and how the comparison is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import KINDS
from evolution_jobs.contract.rows import Answer
from evolution_jobs.metrics.compare import Comparison, Difference
from evolution_jobs.store.open import open_store
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..api.experiment import is_experiment
from ..results.results import Results
from .named import RUN_FILES, RUN_NAME, read_results, run_of, storage_of

Models = dict[str, list[Answer]]


def read_models(references: Sequence[str], namespace: str | None, storage: str | None) -> Models:
    """The answers of every model that the references mean, by label, in their order.

    A reference is an answers.jsonl, a run file or an experiment (.yaml), or the name of a run on the cluster. `:M2` at its
    end takes one model of a run. Without it, all are taken; of an experiment, the last one of each arm.

    Raises PermanentError `CompareInput` on a model that a run does not have, on a model that is named twice, and on what
    names no run.
    """
    found: Models = {}
    named = [_place_and_model(reference) for reference in references]
    names = _names([place for place, _ in named])
    for reference, (place, model) in zip(references, named, strict=True):
        # The models of a single run need no more than M0, M1, ...
        name = names[place] if len(references) > 1 else ""
        for label, answers in _models(place, model, name, namespace, storage):
            if label in found:
                raise PermanentError("CompareInput", f"{reference}: {label} is there already; name each model once")
            found[label] = answers
    return found


def _place_and_model(reference: str) -> tuple[str, str]:
    """What a reference names, and the model of it; an empty one means all. Raises PermanentError `CompareInput`."""
    place, colon, model = reference.rpartition(":")
    if not (colon and model[:1] == "M" and model[1:].isdecimal()):
        place, model = reference, ""
    if "://" in place:
        words = "name the run file with this storage, or copy an answers.jsonl to this machine"
        raise PermanentError("CompareInput", f"{place}: compare reads no addresses; {words}")
    if place.endswith(".jsonl") and model:
        raise PermanentError("CompareInput", f"{reference}: a file of answers is of one model; leave out :{model}")
    if not place.endswith((".jsonl", *RUN_FILES)) and not RUN_NAME.fullmatch(place):
        words = "is no run file (.yaml), run on the cluster or answers.jsonl; write RUN:M2 for one model of a run"
        raise PermanentError("CompareInput", f"{place!r} {words}")
    return place, model


def _names(places: Sequence[str]) -> dict[str, str]:
    """What each place is called in labels: a run file by its stem, unless another place is called so, too."""
    short = {place: Path(place).stem if place.endswith(RUN_FILES) else place for place in places}
    counts = Counter(short.values())
    return {place: name if counts[name] == 1 else place for place, name in short.items()}


def _models(
    place: str, model: str, name: str, namespace: str | None, storage: str | None
) -> Iterable[tuple[str, list[Answer]]]:
    from ..local.load import local_arms
    from ..results.answers import answers_of_arms, answers_of_file

    if place.endswith(".jsonl"):
        return [(place, answers_of_file(Path(place)))]
    if place.endswith(RUN_FILES) and is_experiment(Path(place)):
        arms = answers_of_arms(local_arms(Path(place), storage), model or None)
        return [(f"{name}:{label}" if name else label, answers) for label, answers in arms.items()]
    models = _run(place, namespace, storage)
    if model and model not in models:
        raise PermanentError(
            "CompareInput", f"{place}:{model}: the run has answers of {', '.join(models)}, not of {model}"
        )
    kept = {model: models[model]} if model else models
    return [(f"{name}:{label}" if name else label, answers) for label, answers in kept.items()]


def _run(place: str, namespace: str | None, storage: str | None) -> Models:
    from ..results.answers import answers_of

    try:
        return answers_of(read_results(place, namespace, storage))
    except PermanentError as error:
        if storage is None or error.reason != "RunUnknown":
            raise
        copied = _copied(place, namespace, storage)
        if copied is None:
            raise
        return answers_of(copied)


def _copied(name: str, namespace: str | None, storage: str) -> Results | None:
    """A run on the cluster with its files in a copy of its storage that has no pointers; None if no cluster is configured."""
    from ..local.load import storage_at
    from ..results.find import results_of_status
    from .cluster import fetch, read_status

    try:
        document = fetch(name, namespace)
    except PermanentError as error:
        if error.reason != "NoCluster":
            raise
        return None
    store = open_store(storage_at(storage, storage_of(document, name)))
    return results_of_status(store, run_of(document), read_status(document.get("status", {})))


def print_comparison(console: Console, found: Comparison) -> None:
    """Print the figures side by side, then each difference with its interval and what it means."""
    models = list(found.values)
    values = Table(
        title=f"{found.rows} contexts of {found.dialogues} dialogues, the same for all", title_justify="left"
    )
    values.add_column("")
    for model in models:
        values.add_column(escape(model), justify="right", overflow="fold")
    labels = {difference.name: difference.label for difference in found.differences}
    for name, label in labels.items():
        values.add_row(label, *(f"{found.values[model][name]:.2f}" for model in models))
    console.print(values)
    for model in models[1:]:
        console.print(_differences(model, models[0], [each for each in found.differences if each.model == model]))
    for model, rows in found.left_out.items():
        if rows:
            console.print(
                f"{model}: {rows} rows left out, because another model did not answer them",
                highlight=False,
                markup=False,
            )
    for name, rows in found.rows_of.items():
        if rows < found.rows:
            console.print(
                f"{KINDS[name].label}: over {rows} of the {found.rows} contexts", highlight=False, markup=False
            )
    for name, words in found.not_compared.items():
        console.print(f"{KINDS[name].label}: not compared; {words}", highlight=False, markup=False, soft_wrap=True)


def _differences(model: str, baseline: str, differences: Sequence[Difference]) -> Table:
    table = Table(title=escape(f"{model} against {baseline}"), title_justify="left")
    for column in ("", "difference", "95 % interval", "p (Holm)", ""):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for each in differences:
        interval = f"{each.interval[0]:+.2f} to {each.interval[1]:+.2f}" if each.interval else ""
        p = "" if each.p_holm is None else f"{each.p_holm:.3f}"
        table.add_row(each.label, f"{each.difference:+.2f}", interval, p, each.verdict)
    corrected = sum(each.p is not None for each in differences)
    table.caption = f"paired by dialogue; p is corrected for {corrected} figures"
    table.caption_justify = "left"
    return table
