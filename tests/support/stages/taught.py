"""reflect with a teacher, in a process of its own, which a test can kill.

python -m tests.support.stages.taught ROOT URL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution_jobs.contract.rows import Context, Response, Turn
from evolution_jobs.stages import reflect

from tests.support.chat_server import MODEL
from tests.support.stages.workspace import LocalWorkspace

IDS = [f"d{number:02}-3" for number in range(24)]


def workspace(
    root: Path,
    url: str,
    settings: Mapping[str, Any] | None = None,
    ids: Sequence[str] = IDS,
    **options: Any,
) -> LocalWorkspace:
    """A workspace with 24 contexts and responses. The last turn of each context is its id."""
    root.mkdir(parents=True, exist_ok=True)
    contexts, responses = [], []
    for id_ in ids:
        spoken = ["I lost my job.", "That is hard.", id_]
        turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(spoken)]
        contexts.append(Context(id=id_, dialogue=id_[:3], turns=turns, human="Call your brother today."))
        responses.append(Response(id=id_, text=f"I hear that you have lost much, {id_}.", finish="stop", tokens=9))
    inputs = {"contexts": root / "contexts.jsonl", "responses": root / "responses.jsonl"}
    for path, rows in ((inputs["contexts"], contexts), (inputs["responses"], responses)):
        path.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows), "utf-8")
    teacher = {"url": url, "model": MODEL, "concurrency": 4, "maxAttempts": 2}
    given: dict[str, Any] = {"source": "teacher", "teacher": teacher, "maxLengthRatio": 10, **(settings or {})}
    return LocalWorkspace(root, "reflect", given, inputs=inputs, **options)


if __name__ == "__main__":
    reflect.run(workspace(Path(sys.argv[1]), sys.argv[2]))
