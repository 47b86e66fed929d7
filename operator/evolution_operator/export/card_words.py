"""Words that several parts of the card have. Pure."""

from __future__ import annotations

from urllib.parse import quote

from evolution_jobs.printable import printable

from .facts import TEACHER, DataSource, Facts

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


PREFERRED = {
    "self": "its own answer, rewritten after reflecting on the user",
    "none": "its own answer, rewritten",
    "human": "the answer of the data set",
    "teacher": "a teacher's answer",
    "reward": "the best of several of its own answers by a reward model or a judge",
}
"""By preference source: the preferred answer of a pair."""
LEARNT = {
    "self": "its own rewrites",
    "none": "its own rewrites",
    "teacher": "a teacher's answers",
    "reward": "what a model prefers",
}
"""By preference source: what the model has learnt from beside the dialogues."""


def rounds_words(facts: Facts) -> str:
    """What has been done to the model."""
    if not facts.iteration:
        return "after supervised fine-tuning, before any round of DPO"
    pairs = " or ".join(PREFERRED.get(source, plain(source)) for source in facts.sources)
    paper = " ([arXiv 2505.16610](https://arxiv.org/abs/2505.16610))" if "self" in facts.sources else ""
    told = f". In each pair, the preferred answer is {pairs}{paper}" if pairs else ""
    return f"after {facts.iteration} round{'s' * (facts.iteration > 1)} of DPO{told}"


def role_words(source: DataSource) -> str:
    """What a data set was for."""
    roles = {
        "seed": "dialogues for SFT",
        "replay": "instructions for SFT",
        "contexts": "dialogues that it answered",
        TEACHER: "teacher, whose answers it was trained on",
    }
    return roles.get(source.role, "test dialogues, not trained on")
