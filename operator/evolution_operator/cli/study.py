"""`evolution study`: create a blind comparison of answers by people, serve its pages, report its votes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.libraries import install
from rich.console import Console
from rich.table import Table

from ..results.outputs import output_error
from ..study.records import CRITERIA, MAIN_QUESTION, MAX_FAILED_CHECKS
from .console import open_console
from .options import Output, OutputOption, StorageOption

PACKAGES = ("aiohttp", "jinja2", "krippendorff")
"""What the extra `study` installs."""
TOKEN_BYTES = 18
LOOPBACK = ("127.0.0.1", "::1", "localhost")

app = typer.Typer(help="A blind comparison of models' answers by people.", no_args_is_help=True)

StudyArgument = Annotated[Path, typer.Argument(help="The study: one SQLite file.", metavar="FILE")]
UrlOption = Annotated[str, typer.Option(help="Where raters will reach the pages.")]
LOCAL_URL = "http://127.0.0.1:8080"


@app.callback()
def _installed() -> None:
    """A blind comparison of models' answers by people."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise PermanentError("DependencyMissing", f"a study needs {package}: {install('study')}")


@app.command()
def create(
    study: StudyArgument,
    answers: Annotated[
        list[str] | None, typer.Argument(help="NAME=FILE for each model: its answers.jsonl.", metavar="[NAME=FILE]...")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Take the answers of this run file's run.")] = None,
    storage: StorageOption = None,
    models: Annotated[
        str | None, typer.Option(help="Models to compare, such as M0,M2,human. Default: all that are named.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of answers that each rater sees.")] = 40,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks among them.")] = 4,
    raters: Annotated[int, typer.Option(min=1, max=10_000, help="Links to make.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides which pairs, their order and their sides.")] = 0,
    question: Annotated[
        list[str] | None, typer.Option(help="A question in place of ours; may be repeated. The first is the main one.")
    ] = None,
    criteria: Annotated[
        str | None, typer.Option(help="Further questions: empathy, helpfulness, personalisation.")
    ] = None,
    title: Annotated[
        str, typer.Option(help="Shown on every page; must not tell what is compared.")
    ] = "Study of answers",
    contact: Annotated[str, typer.Option(help="Whom raters may ask: a name and an address.")] = "",
    introduction: Annotated[
        Path | None, typer.Option(help="A text file with the first page's paragraphs, in place of ours.")
    ] = None,
    url: UrlOption = LOCAL_URL,
    output: OutputOption = Output.text,
) -> None:
    """Make a study from the answers of two or more models, and print a link for each rater."""
    from ..study.design import draw_pairs, make_checks, orders
    from ..study.records import Study
    from ..study.storage import create as create_file

    _need_folder(study)
    questions = _questions(question, criteria)
    paragraphs = _paragraphs(introduction) if introduction else []
    samples, names = _samples(answers or [], file, storage, models)
    items, equal = draw_pairs(samples, names, pairs, seed)
    items += make_checks(samples, checks, seed, {item.context for item in items})
    document = Study(
        title=title,
        introduction=paragraphs,
        contact=contact,
        questions=questions,
        models=names,
        seed=seed,
        created=time.time(),
        equal_left_out=equal,
    )
    tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(raters)]
    create_file(study, document, items, orders(items, raters, seed), tokens)
    dialogues = len({item.dialogue for item in items if item.kind == "pair"})
    if output is Output.json:
        links = [{"rater": number, "url": link} for number, link in _links(url, list(enumerate(tokens, start=1)))]
        print(json.dumps({"study": str(study), "pairs": pairs, "checks": checks, "raters": links}, ensure_ascii=False))
        return
    print(
        f"{study}: {pairs} pairs from {dialogues} dialogues and {checks} attention checks, for each rater in another order"
    )
    print(f"compared: {', '.join(names)}")
    if equal:
        print(f"{equal} pairs were passed over because both answers are the same")
    for number, link in _links(url, list(enumerate(tokens, start=1))):
        print(f"rater {number}  {link}")
    print(f"Next: evolution study serve {study}")


@app.command()
def links(study: StudyArgument, url: UrlOption = LOCAL_URL) -> None:
    """Print the raters' links again."""
    from ..study.storage import StudyFile

    with StudyFile(study) as opened:
        for number, link in _links(url, opened.tokens()):
            print(f"rater {number}  {link}")


@app.command()
def serve(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
) -> None:
    """Serve the pages until Ctrl-C or SIGTERM."""
    from ..study.pages import serve as serve_pages
    from ..study.storage import StudyFile

    if host not in LOOPBACK:
        print(
            "Anyone who can read this network's traffic can read votes and links: put a proxy with TLS in front of it.",
            file=sys.stderr,
        )

    def ready(address: str) -> None:
        print(f"{study}: raters' pages are on {address}; stop with Ctrl-C", flush=True)

    with StudyFile(study) as opened:
        asyncio.run(serve_pages(opened, host, port, ready))
    print("Stopped; all votes are kept. Run the same command to continue.", flush=True)


@app.command()
def report(
    study: StudyArgument,
    output: OutputOption = Output.text,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write all votes to this file.")] = None,
    max_failed_checks: Annotated[
        int, typer.Option(min=0, help="A rater with more failed attention checks is left out.")
    ] = MAX_FAILED_CHECKS,
    judge: Annotated[
        list[Path] | None,
        typer.Option(
            help="verdicts.jsonl of a judge stage: also say how often it agrees with raters. May be repeated."
        ),
    ] = None,
) -> None:
    """Print win rates, agreement and raters. Votes may still come in."""
    from ..study.answers import read_verdicts
    from ..study.export import votes_as_csv
    from ..study.figures import report as report_of
    from ..study.judge import agreement_with_judge
    from ..study.storage import StudyFile

    with StudyFile(study) as opened:
        ballots = opened.ballots()
    document = report_of(ballots, max_failed_checks)
    if judge:
        kept = {rater["rater"] for rater in document["raters"] if not rater["leftOut"]}
        verdicts = [verdict for path in judge for verdict in read_verdicts(path)]
        document["judge"] = agreement_with_judge(ballots, kept, verdicts)
    if csv is not None:
        _need_folder(csv)
        try:
            csv.write_text(votes_as_csv(ballots), "utf-8", newline="")
        except OSError as error:
            raise output_error(error, csv) from error
    if output is Output.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        _print_report(open_console(), document)
        if csv is not None:
            print(f"{len(ballots.votes)} votes in {csv}")


def _need_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise PermanentError("StudyInput", f"{path}: there is no folder {path.parent}")


def _links(url: str, tokens: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(number, f"{url.rstrip('/')}/r/{token}") for number, token in tokens]


def _samples(
    answers: Sequence[str], file: Path | None, storage: str | None, models: str | None
) -> tuple[Any, list[str]]:
    """The contexts with their answers, and the names of the models to compare."""
    from ..local.load import local_run
    from ..study.answers import answers_of_run, gather, read_answers

    names = [name.strip() for name in models.split(",")] if models is not None else None
    if file is not None:
        if answers or names is None:
            raise PermanentError("StudyInput", "with -f, say --models M0,M2 and no NAME=FILE")
        found, contexts = answers_of_run(local_run(file, storage), names)
        return gather(found, names, contexts), names
    named = dict(_name_and_path(each) for each in answers)
    if not named:
        raise PermanentError("StudyInput", "name each model's answers as NAME=FILE, or a run file with -f")
    if len(named) < len(answers):
        raise PermanentError("StudyInput", "two files have the same name before '='")
    names = names or list(named)
    rows = {name: read_answers(path) for name, path in named.items()}
    return gather(rows, names, {}), names


def _name_and_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise PermanentError("StudyInput", f"{text}: write NAME=FILE, for example M2=answers.jsonl")
    return name, Path(path)


def _questions(own: Sequence[str] | None, criteria: str | None) -> list[str]:
    questions = [text.strip() for text in own] if own else [MAIN_QUESTION]
    for name in (each.strip() for each in criteria.split(",")) if criteria else ():
        if name not in CRITERIA:
            raise PermanentError("StudyInput", f"--criteria {name}: known are {', '.join(CRITERIA)}")
        questions.append(CRITERIA[name])
    if not all(questions) or len(set(questions)) < len(questions):
        raise PermanentError("StudyInput", "a question is empty or asked twice")
    return questions


def _paragraphs(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            "StudyInput", f"--introduction {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _print_report(console: Console, document: Mapping[str, Any]) -> None:
    study = document["study"]
    console.print(
        f"{study['title']}: {study['pairs']} pairs, {study['checks']} attention checks", markup=False, highlight=False
    )
    if study["equalLeftOut"]:
        console.print(f"{study['equalLeftOut']} pairs with two equal answers were passed over", highlight=False)
    table = Table()
    for column in ("rater", "votes", "skipped", "open", "checks failed", "median seconds", ""):
        table.add_column(column, justify="right" if column else "left")
    for rater in document["raters"]:
        seconds = "" if rater["medianSeconds"] is None else f"{rater['medianSeconds']:.1f}"
        failed = f"{rater['failedChecks']} of {rater['checks']}"
        note = "left out" if rater["leftOut"] else "" if rater["started"] else "not begun"
        table.add_row(
            *map(str, (rater["rater"], rater["votes"], rater["skipped"], rater["open"], failed, seconds, note))
        )
    console.print(table)
    console.print(f"Rule: {document['rule']['text']}.", highlight=False)
    _print_figures(console, document["figures"])
    if "judge" in document:
        console.print(f"\n{_judge(document['judge'])}", highlight=False, soft_wrap=True)
    if any(rater["leftOut"] for rater in document["raters"]):
        console.print("\n[bold]With all raters[/bold], those left out above included")
        _print_figures(console, document["allRaters"])


def _print_figures(console: Console, figures: Sequence[Mapping[str, Any]]) -> None:
    for question in figures:
        console.print()
        console.print(question["question"], style="bold", markup=False, highlight=False)
        for found in question["comparisons"]:
            rate = "no votes yet" if found["winRate"] is None else f"win rate {found['winRate']:.3f}"
            console.print(
                f"  {found['first']} against {found['second']}: {found['wins']} won, {found['losses']} lost, {found['ties']} ties; "
                f"{rate}{_bounds(found['interval'])}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            if found["winRate"] is not None:
                console.print(f"    {found['words']}", highlight=False, markup=False, soft_wrap=True)
            if found["note"]:
                console.print(f"    {found['note']}", highlight=False, soft_wrap=True)
            if found["votes"] and len(question["comparisons"]) > 1:
                console.print(f"    {_agreement(found['agreement'])}", highlight=False, soft_wrap=True)
        console.print(f"  {_agreement(question['agreement'])}", highlight=False, soft_wrap=True)
        position = question["position"]
        if position["shareA"] is not None:
            console.print(
                f"  position: A was preferred {position['a']} times, B {position['b']}; share of A "
                f"{position['shareA']:.3f}{_bounds(position['interval'])}: {position['words']}",
                highlight=False,
                soft_wrap=True,
            )


def _agreement(found: Mapping[str, Any]) -> str:
    if found["alpha"] is None:
        return f"Krippendorff's alpha: none, because {found['reason']}"
    return f"Krippendorff's alpha (nominal): {found['alpha']:.3f}, {found['raters']} raters, {found['items']} items with two votes or more"


def _judge(found: Mapping[str, Any]) -> str:
    if not found["items"]:
        return "judge: none of its pairs has a vote here; both must have the same answers to the same contexts"
    low, high = found["agreementInterval"] or (None, None)
    between = "" if low is None else f" (95 % interval {low:.1f} to {high:.1f})"
    return (
        f"judge: agrees with the majority of raters on {found['agreement']:.1f} % of {found['items']} pairs{between}; Cohen's kappa "
        f"{found['kappa']:.3f}{_bounds(found['kappaInterval'])}"
    )


def _bounds(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
