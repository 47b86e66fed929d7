"""metrics.json as this report reads it: what another version has added is left out, and what it lacks is empty."""

from __future__ import annotations

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.figures import Figure, Interval


class StoredSign(Document):
    """A sign of failing self-evolution (`metrics.signatures.Signature`)."""

    name: str
    value: float = 0
    human: float = 0
    threshold: str = ""
    present: bool = False
    sentence: str = ""
    examples: list[str] = []


class StoredSet(Document):
    """A named test set."""

    name: str
    never_trained_on: bool = False


class StoredScores(Document):
    """What evaluate has found out about one model (`metrics.score.Scores`)."""

    figures: list[Figure] = []
    signatures: list[StoredSign] = []
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    human: dict[str, float] = {}
    sets: list[StoredSet] = []
