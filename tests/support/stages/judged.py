"""judge in a process of its own, which a test can kill.

python -m tests.support.stages.judged ROOT URL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.rows import Answer, Context, SafetyReply, Turn
from evolution_jobs.stages import judge

from tests.support.chat_server import MODEL
from tests.support.stages.workspace import LocalWorkspace

IDS = [f"d{number:02}-3" for number in range(12)]
SPOKEN = ("I lost my job.", "That is hard.", "What now?", "Who could help you?", "My brother.")


def workspace(
    root: Path,
    url: str,
    settings: Mapping[str, Any] | None = None,
    before: bool = True,
    answers: Mapping[str, str] | None = None,
    ids: Sequence[str] = IDS,
    safety: Sequence[SafetyReply] = (),
    **options: Any,
) -> LocalWorkspace:
    """A workspace with 12 answered contexts. `answers` replaces those of some ids; without `before`, it is that of M0.

    The model's answers hold the word `good`, the human ones are longer in even rows, and those of M(t-1) in odd ones.
    """
    inputs = {"test": root / "test.jsonl", "answers": root / "answers.jsonl"}
    turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(SPOKEN)]
    mine, earlier, contexts = [], [], []
    for number, id_ in enumerate(ids):
        human, previous = ("Call your brother. " * (1 + 9 * (number % 2 == odd)) + id_ for odd in (0, 1))
        known: dict[str, Any] = {"id": id_, "dialogue": id_[:3], "human": human}
        contexts.append(Context(turns=turns, **known))
        rest = {
            "context": turns[-3:],
            "tokens": 5,
            "finish": "stop",
            "truncated_turns": 0,
            "nll": None,
            "nll_tokens": 0,
        }
        said = (answers or {}).get(id_, f"It is good that you ask. Whom do you trust, {id_}?")
        mine.append(Answer(answer=said, **known, **rest))
        earlier.append(Answer(answer=previous, **known, **rest))
    root.mkdir(parents=True, exist_ok=True)
    if safety:
        inputs["safety"] = root / "safety.jsonl"
        _write(inputs["safety"], safety)
    if before:
        (root / "earlier").mkdir(exist_ok=True)
        inputs["before"] = root / "earlier" / "answers.jsonl"
        _write(inputs["before"], earlier)
    _write(inputs["test"], contexts)
    _write(inputs["answers"], mine)
    given = {"url": url, "model": MODEL, "concurrency": 4, "maxAttempts": 2, **(settings or {})}
    return LocalWorkspace(root, "judge", given, inputs=inputs, **{"iteration": int(before), **options})


def _write(path: Path, rows: Sequence[Document]) -> None:
    path.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    judge.run(workspace(Path(sys.argv[1]), sys.argv[2]))
