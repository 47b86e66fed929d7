"""`evolution chat`: talk to a model of a run, or to two at once."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from evolution_jobs.contract.errors import PermanentError

from .console import open_console, say
from .libraries import require_libraries
from .named import EndpointOption, NamespaceOption, RunArgument, read_results
from .options import Output, OutputOption, StorageOption

if TYPE_CHECKING:
    from rich.console import Console

    from ..chat.session import Session
    from ..chat.talk import Talk
    from ..chat.tested import Tested
    from ..results.choice import Settings


def chat(
    run: RunArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", help="M0, M1, ..., champion or base; by default the champion, else the newest."),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A second model, which answers every message, too.")
    ] = None,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    message: Annotated[str | None, typer.Option("--message", help="Answer this message and end.")] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Begin with context N of the test set, asked as evaluate asks it.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides the answers; by default the run's.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, max=5, help="By default the run's.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.01, max=1, help="By default the run's.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, max=8192, help="Longest answer; by default the run's.")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Talk to a model of a run in the terminal, with the prompt that it was trained and evaluated with.

    Without a terminal, each line of standard input is a message.
    """
    if message is not None and not message.strip():
        raise PermanentError("ChatInput", "--message: it is empty; without it, lines of standard input are answered")
    require_libraries("chat")
    from ..chat.display import Json, display_of
    from ..chat.session import Session
    from ..chat.talk import Talk
    from ..chat.tested import Tested
    from ..results.choice import changed, chat_settings, choose_model
    from ..results.weights import base_of, weights_of

    results = read_results(run, namespace, storage, endpoint=endpoint)
    chosen = choose_model(results, model)
    names = [chosen.name]
    if against is not None:
        names.append(choose_model(results, against, "--against").name)
        if against == chosen.name:
            raise PermanentError("ChatInput", f"--against {against}: this is the model itself; name another one")
    settings = chat_settings(results)
    sampling = changed(
        settings.sampling, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, greedy=greedy
    )
    settings = settings._replace(sampling=sampling, seed=settings.seed if seed is None else seed)
    interactive = message is None and sys.stdin.isatty() and output is Output.text
    console = open_console()
    with weights_of(results) as weights:
        told = open_console(stderr=True)
        say(told, f"{_named(names, chosen.why)} of run {results.name}, on {base_of(results).uri}", style="dim")
        session = Session.load(weights, names, sampling)
        say(told, _described(settings, session), style="dim")
        display = Json() if output is Output.json else display_of(console, len(names))
        talk = Talk(session, names, sampling, settings.seed, display)
        _talk(console, talk, Tested(weights, names, sampling, settings.seed), interactive, message, context)


def _talk(
    console: Console, talk: Talk, tested: Tested, interactive: bool, message: str | None, context: int | None
) -> None:
    from ..chat.terminal import Terminal, answer_lines, standard_input

    if interactive:
        terminal = Terminal(console, talk, tested)
        if context is not None:
            terminal.begin(context)
        terminal.run()
        return
    if context is not None:
        tested.ask(talk, tested.context(context))
    if message is not None:
        talk.say(message)
    elif context is None or not sys.stdin.isatty():
        with suppress(BrokenPipeError):
            answer_lines(talk, standard_input())


def _named(names: list[str], why: str) -> str:
    first = f"{names[0]} ({why})" if why else names[0]
    return " against ".join([first, *names[1:]])


def _described(settings: Settings, session: Session) -> str:
    """The settings in one line."""
    sampling = settings.sampling
    way = (
        "greedy"
        if sampling.temperature == 0
        else f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}"
    )
    return (
        f"{session.device}; {way}, repetition penalty {sampling.repetition_penalty:g}, at most {sampling.max_new_tokens} "
        f"tokens, seed {settings.seed} (from {settings.source})"
    )
