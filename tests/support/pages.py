"""Commands from the pages of docs/, for tests that run them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

WALKED = {
    ("development.md", "A control plane and a node from Go modules"),
    ("development.md", "A node without Docker"),
    ("development.md", "Images on that node"),
    ("development.md", "Take the node down"),
    ("quickstart-kind.md", "The same, step by step"),
    ("quickstart-kind.md", "Look at the results"),
    ("install.md", "Images"),
    ("install.md", "Install the chart"),
    ("install.md", "One namespace, or some"),
    ("install.md", "Upgrade"),
    ("install.md", "Uninstall"),
    ("experiments.md", "Check it"),
    ("experiments.md", "Run it"),
    ("tutorial.md", "1. Install and run"),
    ("tutorial.md", "2. Look at what the run left"),
    ("tutorial.md", "3. Run it again"),
    ("tutorial.md", "4. Change a method setting"),
    ("tutorial.md", "5. Add a round"),
    ("tutorial.md", "6. Break it on purpose"),
    ("tutorial.md", "7. Use your own data"),
    ("tutorial.md", "8. Share work and results"),
}
"""Sections (page and heading) with commands that tests/cluster and tests/local run."""
SKIPPED = {
    ("install.md", "Check before the first run"): (
        "its file and namespace are the reader's; tests/api/test_command_line.py runs these commands against a control plane"
    ),
    ("quickstart-kind.md", "Quickstart on kind"): (
        "needs Docker and kind; tests/unit/test_kind.py holds the targets to what they call"
    ),
    ("tutorial.md", "9. Go to a cluster"): (
        "its commands are those of quickstart-kind.md, as tests/unit/test_tutorial.py checks"
    ),
}
"""Sections that it does not run, with the reason."""
SKIPPED_COMMANDS = {
    "docker build ": "needs Docker: the images are made by buildah, which takes the same arguments",
    "docker push ": "needs a registry: the images are put on the node under the registry's names",
    "make setup": "the tests run in what it has made",
}
"""First words of commands that are skipped in sections that run, with the reason."""
ELISION = "..."
"""How a line of output ends of which a page leaves out the rest."""

_HEADING = re.compile(r"^#+ (.+)$")
_FIGURE = re.compile(r"(?<![\d.])\d+(?:\.\d+)?(?!\.?\d)(?! (?:cached|to run|not known|of \d+ cached))")
"""A number, but not how many stages are cached or to run: those follow from what has changed."""


@dataclass(frozen=True)
class Command:
    """One command of a page, and its output as the page shows it."""

    text: str
    output: tuple[str, ...]


def blocks(page: str, section: str) -> list[list[Command]]:
    """The console blocks directly below a heading, in order."""
    found = [body for heading, body in _console(DOCS / page) if heading == section]
    assert found, f"docs/{page} has no commands in a section {section!r}"
    return [_commands(body) for body in found]


def sections(page: str) -> set[tuple[str, str]]:
    """The page and heading of each section that has commands."""
    return {(page, heading) for heading, _ in _console(DOCS / page)}


def _console(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each console block: the heading above it, and its lines."""
    heading, block, language = "", [], None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if language is None:
                language, block = line.strip("`"), []
            else:
                if language in ("console", "sh", "bash"):
                    yield heading, block
                language = None
        elif language is not None:
            block.append(line)
        elif found := _HEADING.match(line):
            heading = found[1]


def _commands(lines: list[str]) -> list[Command]:
    found: list[tuple[list[str], list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append(([line.removeprefix("$ ")], []))
        elif found and found[-1][0][-1].endswith("\\"):
            found[-1][0].append(line)
        else:
            assert found, f"a console block begins with {line!r}, which is no command"
            found[-1][1].append(line)
    return [Command("\n".join(command), tuple(output)) for command, output in found]


def is_printed(shown: str, printed: Iterable[str], mask: Callable[[str], str] = str) -> bool:
    """Whether a line that a page shows is among the printed ones. One that ends with "..." stands for any that begins so."""
    lines = [mask(line) for line in printed]
    if shown.endswith(ELISION):
        return any(line.startswith(mask(shown.removesuffix(ELISION))) for line in lines)
    return mask(shown) in lines


def masked(line: str) -> str:
    """A line of output without what differs between machines: times, figures, digests, names of attempts, and padding."""
    line = re.sub(r"\blocal-[0-9a-f]{8}-\d+-[0-9a-f]{8}\b", "ATTEMPT", line)
    line = re.sub(r"\b[0-9a-f]{12,64}\b", "DIGEST", line)
    line = _FIGURE.sub("0", line)
    return " ".join(re.sub(r"[━─]+", "", line).split())
