"""What a report is made from: manifests, status, and the rows that stages have left. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from evolution_jobs.contract.figures import Better
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.rows import Answer, Pair, Reject, Verdict

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus, StageStatus
from .scores import StoredScores, StoredSign


@dataclass(frozen=True)
class Change:
    """How a figure of one model differs from that of an earlier one, on the same rows (`metrics.compare.Difference`)."""

    name: str
    label: str
    better: Better
    model: str
    baseline: str
    difference: float
    interval: tuple[float, float] | None
    """95 % interval of the difference, paired by dialogue."""
    verdict: str
    """What that means, in words."""

    @property
    def shown(self) -> bool:
        """Whether the data show a difference at all."""
        return self.verdict in ("better", "worse", "higher", "lower")


@dataclass(frozen=True)
class Facts:
    """Everything that was read of a run. What could not be read is named in `unread`."""

    namespace: str
    name: str
    storage: str
    """URI."""
    made: datetime
    manifests: Mapping[str, Manifest]
    """Finished stages by id, in the order of the graph."""
    spec: EvolutionRunSpec | None = None
    status: RunStatus | None = None
    observed: bool = True
    """Whether the status is what was seen of the run. That of a run file follows from what has finished."""
    scores: Mapping[int, StoredScores] = field(default_factory=dict)
    """metrics.json by iteration."""
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    """By model: M0, M1, ..."""
    pairs: Mapping[int, Sequence[Pair]] = field(default_factory=dict)
    """By round."""
    rejects: Mapping[int, Sequence[Reject]] = field(default_factory=dict)
    verdicts: Mapping[int, Sequence[Verdict]] = field(default_factory=dict)
    """A judge's, by iteration."""
    changes: Sequence[Change] = ()
    not_compared: str = ""
    """Why models were not compared."""
    unread: Sequence[str] = ()
    """What could not be read and why, one sentence each."""

    @property
    def rounds(self) -> list[int]:
        """The rounds that have begun: some stage of them has finished."""
        return sorted({each.iteration for each in self.manifests.values() if each.iteration})

    @property
    def models(self) -> list[int]:
        """Iterations of the models that are trained."""
        trained = (each for each in self.manifests.values() if each.kind in ("sft", "dpo"))
        return sorted({each.iteration or 0 for each in trained})

    @property
    def dialogues(self) -> set[str]:
        """The held-out dialogues that some model answered."""
        return {answer.dialogue for rows in self.answers.values() for answer in rows}

    @property
    def newest_signs(self) -> Sequence[StoredSign]:
        """The signs that were looked for in the newest model that is evaluated."""
        return self.scores[max(self.scores)].signatures if self.scores else ()

    @property
    def stages(self) -> Mapping[str, StageStatus]:
        """What the status says of each stage, by id."""
        return self.status.stage_by_id() if self.status else {}

    @property
    def phase(self) -> str | None:
        """The run's phase. What has not finished may run, wait or have failed: a run file does not tell."""
        if self.status is None:
            return None
        told = self.observed or self.status.phase in ("Complete", "Suspended")
        return self.status.phase if told else "Unfinished"

    @property
    def champion_signs(self) -> Sequence[StoredSign]:
        """The signs that were looked for in the champion, if it is not the newest model."""
        champion = self.status.champion if self.status else None
        if champion is None or champion not in self.scores or champion == max(self.scores):
            return ()
        return self.scores[champion].signatures

    def condition(self, type_: str) -> str | None:
        """The message of a condition that holds."""
        return self.status.condition(type_) if self.status else None
