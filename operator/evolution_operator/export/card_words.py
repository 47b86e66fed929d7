"""Words that several parts of the card have. Pure."""

from __future__ import annotations

from evolution_jobs.printable import printable

from .facts import DataSource, Facts

_ESCAPED = str.maketrans({"|": "\\|", "`": "'", "<": "‹", ">": "›"})


def plain(text: str) -> str:
    """Text from outside as one line of a Markdown table: no markup, no HTML, nothing that a terminal obeys."""
    return " ".join(printable(text, "\n\t").split()).translate(_ESCAPED)


def base_words(facts: Facts) -> str:
    """The base model, with a link if it is on the hub."""
    if facts.base_name is None:
        return f"`{facts.base.uri if facts.base.uri.startswith('package://') else 'a private base model'}`"
    commit = f" at `{facts.base_revision}`" if facts.base_revision else ""
    return f"[{facts.base_name}](https://huggingface.co/{facts.base_name}){commit}"


def role_words(source: DataSource) -> str:
    """What a data set was for."""
    roles = {"seed": "dialogues for SFT", "replay": "instructions for SFT", "contexts": "dialogues that it answered"}
    return roles.get(source.role, "test dialogues, not trained on")
