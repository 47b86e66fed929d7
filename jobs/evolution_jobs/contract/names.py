"""Names of what a run makes: `M2` is the model of round 2, `pairs-1` the preference pairs of round 1. Pure.

`runs/<namespace>/<name>/<artifact>` in the store is a pointer: it says in JSON which stage has the artifact of this name,
so that nobody needs to know a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .document import Document
from .keys import RUNS_PREFIX
from .manifest import Digest, File, Manifest
from .stage import RunRef

DATA = ("train", "validation", "contexts", "test", "replay")
"""Outputs of prepare that are data. They have no round."""

OUTPUTS = {
    "responses": "generate",
    "pairs": "reflect",
    "rejects": "reflect",
    "answers": "evaluate",
    "profiles": "evaluate",
    "safety": "evaluate",
    "metrics": "evaluate",
    "verdicts": "judge",
}
"""Output with the number of its round in its name, and the kind of stage that makes it."""

ALWAYS_MADE = ("train", "adapter", "responses", "pairs", "answers", "verdicts")
"""Of each kind of stage with artifacts, the output that none of its settings leaves out."""

ARTIFACT_NAME = re.compile(
    rf"M(?P<model>\d{{1,4}})|(?P<output>{'|'.join(OUTPUTS)})-(?P<round>\d{{1,4}})|{'|'.join(DATA)}"
)
"""Every name that an artifact may have."""


class Named(NamedTuple):
    """Where an artifact is: an output of a stage."""

    stage: str
    """The stage's id: `dpo-2`."""
    output: str
    """The output's name in the manifest: `adapter`."""


class Pointer(Document):
    """`runs/<namespace>/<name>/<artifact>`: which stage's output an artifact is. The newest write counts."""

    artifact: str
    run: RunRef
    stage: str
    key: Digest
    output: str
    digest: Digest
    """The output's."""
    manifest: str
    """Location of the stage's manifest."""
    files: list[File]


def named(artifact: str) -> Named | None:
    """The stage and output that a name means, or None if it is no artifact's name."""
    found = ARTIFACT_NAME.fullmatch(artifact)
    if found is None:
        return None
    if found["model"] is not None:
        number = int(found["model"])
        return Named(f"dpo-{number}" if number else "sft", "adapter")
    if found["output"] is not None:
        return Named(f"{OUTPUTS[found['output']]}-{int(found['round'])}", found["output"])
    return Named("prepare", artifact)


def artifacts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Name and output of each artifact of a finished stage, in the order of its outputs."""
    for output in manifest.outputs:
        if output == "adapter":
            yield f"M{manifest.iteration}", output
        elif manifest.kind == "prepare" and output in DATA:
            yield output, output
        elif OUTPUTS.get(output) == manifest.kind:
            yield f"{output}-{manifest.iteration}", output


REPORT = "report.html"
"""Name of a run's report, which lies beside its pointers."""


def pointers_prefix(namespace: str, name: str) -> str:
    """Prefix of a run's pointers, with a trailing slash. Records of its stages lie below it, too."""
    return f"{RUNS_PREFIX}{namespace}/{name}/"


def pointer_path(run: RunRef, artifact: str) -> str:
    """Location of a run's pointer to an artifact. A later run of the same name replaces it."""
    return f"{pointers_prefix(run.namespace, run.name)}{artifact}"


def pointed_artifact(location: str) -> str | None:
    """The artifact's name (or `report.html`) if the location is that of a run's pointer or report, else None."""
    prefix, _, last = location.rpartition("/")
    in_a_run = re.fullmatch(rf"{RUNS_PREFIX}[^/]+/[^/]+", prefix) is not None
    return last if in_a_run and (last == REPORT or ARTIFACT_NAME.fullmatch(last)) else None
