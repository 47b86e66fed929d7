"""Words that several parts of the card have. Pure."""

from __future__ import annotations

from urllib.parse import quote

from evolution_jobs.printable import printable

from .facts import DataSource, Facts

_IN_CODE = str.maketrans({"|": "\\|", "`": "'", "<": "‹", ">": "›"})
_IN_TEXT = _IN_CODE | str.maketrans({"[": "\\[", "]": "\\]", "!": "\\!", "\\": "\\\\"})


def plain(text: str) -> str:
    """Text from outside as one line of a Markdown table: no markup, no HTML, nothing that a terminal obeys."""
    return _line(text).translate(_IN_TEXT)


def code(text: str) -> str:
    """Text from outside as code in one line of a Markdown table."""
    return f"`{_line(text).translate(_IN_CODE)}`"


def _line(text: str) -> str:
    return " ".join(printable(text, "\n\t").split())


def base_words(facts: Facts) -> str:
    """The base model, with a link if it is on the hub."""
    if facts.base_name is None:
        return code(facts.base.uri if facts.base.uri.startswith("package://") else "a private base model")
    commit = f" at {code(facts.base_revision)}" if facts.base_revision else ""
    return f"[{plain(facts.base_name)}](https://huggingface.co/{quote(facts.base_name)}){commit}"


def role_words(source: DataSource) -> str:
    """What a data set was for."""
    roles = {"seed": "dialogues for SFT", "replay": "instructions for SFT", "contexts": "dialogues that it answered"}
    return roles.get(source.role, "test dialogues, not trained on")
