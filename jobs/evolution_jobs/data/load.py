"""From sources to rows: read, preprocess, leave out duplicates, draw. Every record that does not become a row is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..contract.errors import PermanentError
from ..contract.locations import Source, Storage
from ..contract.rows import Dialogue, Instruction
from .draw import draw
from .preprocess import dialogue, preprocess
from .readers import BadRow, read_dialogue, read_instruction, read_labels
from .sources import Fetched, fetch

LISTED_BAD_ROWS = 20
CHECK_ROWS = 256
"""Records between two checks for a stop request."""

Sample = TypeVar("Sample", Dialogue, Instruction)
Tally = Counter[str]
Convert = Callable[[Any, Source, str, Tally], Sample | str]
"""From a record's value, its source, its place and the source's tally to a sample, or to the reason why there is none."""


@dataclass
class Loader:
    """Loads the sources of one run."""

    storage: Storage
    directory: Path
    """Directory for downloads."""
    seed: int
    skip_bad_rows: bool
    """Skip and count a record that cannot be read, instead of failing."""
    check_stop: Callable[[], None]
    loaded: Callable[[], None]
    """Called after each source."""
    counts: Tally = field(default_factory=Counter)
    """Rows read (`<role>.read`), rows dropped (`dropped.<reason>`), and turns left out, merged or not learnt (`turns.<reason>`)."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Each source with its pin and its own counts."""
    names: dict[str, str] = field(default_factory=dict)
    """Row id to the name of its source, for sources that have one."""
    asked_labels: Sequence[str] = ()
    """Paths of the labels to be kept."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Dialogue id to its labels by path, for dialogues that have any."""
    bad_rows: list[str] = field(default_factory=list)
    """The first skipped records, each with place and reason."""

    def dialogues(self, role: str, sources: Sequence[Source]) -> list[Dialogue]:
        """Preprocessed dialogues of all sources of a role (`data.<role>` of the spec), without exact duplicates.

        Raises PermanentError `DataEmpty` if nothing is left, `DataMalformed` for a record that cannot be read, and what
        `fetch` raises.
        """
        return self._load(role, sources, _dialogue)

    def instructions(self, role: str, sources: Sequence[Source]) -> list[Instruction]:
        """Instruction samples of all sources of a role, without exact duplicates. Raises what `dialogues` does."""
        return self._load(role, sources, _instruction)

    def _load(self, role: str, sources: Sequence[Source], convert: Convert[Sample]) -> list[Sample]:
        rows: list[Sample] = []
        seen: set[str] = set()
        total: Tally = Counter()
        for position, source in enumerate(sources):
            where = f"data.{role}[{position}]"
            tally: Tally = Counter()
            fetched = fetch(source, where, self.storage, self.directory)
            found = self._rows(fetched, source, where, convert, seen, tally)
            drawn = draw(found, source.samples, self.seed, lambda row: row.id)
            if not tally["read"]:
                raise PermanentError("DataEmpty", f"{where}: {source.uri} has no records")
            rows += drawn
            if source.name:
                self.names |= {row.id: source.name for row in drawn}
            tally["kept"] = len(drawn)
            self.sources.append({"role": role, "uri": source.uri, **fetched.pin, "counts": dict(tally)})
            total.update(tally)
            self.loaded()
        self.counts[f"{role}.read"] = total["read"]
        self.counts.update({name: count for name, count in total.items() if "." in name})
        if not rows:
            dropped = ", ".join(f"{count} {name}" for name, count in total.items() if name.startswith("dropped."))
            first = f"; the first bad row: {self.bad_rows[0]}" if self.bad_rows else ""
            raise PermanentError(
                "DataEmpty", f"data.{role}: none of {total['read']} records is left ({dropped}){first}"
            )
        return rows

    def _rows(
        self,
        fetched: Fetched,
        source: Source,
        where: str,
        convert: Convert[Sample],
        seen: set[str],
        tally: Tally,
    ) -> Iterator[Sample]:
        for record in fetched.records():
            if tally["read"] % CHECK_ROWS == 0:
                self.check_stop()
            tally["read"] += 1
            try:
                if record.error:
                    raise BadRow(record.error)
                row = convert(record.value, source, f"{fetched.name} {record.place}", tally)
                labels = read_labels(record.value, self.asked_labels)
            except BadRow as error:
                self._refuse(f"{where}: {source.uri} {record.place}: {error}", tally)
                continue
            if isinstance(row, str):
                tally[f"dropped.{row}"] += 1
            elif row.id in seen:
                tally["dropped.duplicate"] += 1
            else:
                seen.add(row.id)
                if labels:
                    self.labels[row.id] = labels
                yield row

    def _refuse(self, message: str, tally: Tally) -> None:
        if not self.skip_bad_rows:
            raise PermanentError("DataMalformed", f"{message}. Correct it, or set data.onBadRow: skip")
        tally["dropped.bad_row"] += 1
        if len(self.bad_rows) < LISTED_BAD_ROWS:
            self.bad_rows.append(message)


def _instruction(value: Any, source: Source, place: str, tally: Tally) -> Instruction:
    sample = read_instruction(value)
    if sample.response != str(value["output"]).strip():
        tally["turns.thoughts"] += 1
    return sample.model_copy(update={"source": place})


def _dialogue(value: Any, source: Source, place: str, tally: Tally) -> Dialogue | str:
    read = read_dialogue(value, source)
    turns, counts = preprocess(read.turns)
    history = sum(turn.learnt is False for turn in turns)
    counts += read.left_out + Counter(unlearnt=history)
    tally.update({f"turns.{reason}": count for reason, count in counts.items()})
    if not turns:
        return "only_greetings"
    if len(turns) < 2:
        return "no_answer"
    if history and all(turn.learnt is False for turn in turns if turn.role == "supporter"):
        return "nothing_learnt"
    return dialogue(turns, place)
