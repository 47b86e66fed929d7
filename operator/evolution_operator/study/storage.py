"""The file of a study: one SQLite database, which holds items, orders, raters' tokens and votes.

It is in WAL mode, so that reports read while votes come in. A vote is on disk before the rater sees the next page.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.store.base import disk_error

from .records import Ballots, Choice, Item, Place, Rater, Side, Study, Utterance, Vote, choice_of, side_of

FORMAT = 1
"""Version of the tables. A file of a later version is refused."""
APPLICATION = 0x45566F53
"""SQLite's application_id of these files."""
BUSY_SECONDS = 10
"""How long a write waits for another program's."""

TABLES = """
CREATE TABLE study (id INTEGER PRIMARY KEY CHECK (id = 1), document TEXT NOT NULL);
CREATE TABLE item (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('pair', 'check')),
    context TEXT NOT NULL,
    dialogue TEXT NOT NULL,
    turns TEXT NOT NULL,
    earlier INTEGER NOT NULL,
    first TEXT NOT NULL,
    second TEXT NOT NULL,
    first_text TEXT NOT NULL,
    second_text TEXT NOT NULL
);
CREATE TABLE rater (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, started REAL);
CREATE TABLE place (
    rater INTEGER NOT NULL REFERENCES rater,
    position INTEGER NOT NULL,
    item INTEGER NOT NULL REFERENCES item,
    swapped INTEGER NOT NULL,
    shown REAL,
    skipped REAL,
    PRIMARY KEY (rater, position)
);
CREATE TABLE vote (
    rater INTEGER NOT NULL,
    position INTEGER NOT NULL,
    question INTEGER NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie')),
    at REAL NOT NULL,
    seconds REAL,
    changed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (rater, position, question),
    FOREIGN KEY (rater, position) REFERENCES place
);
"""

_DONE = "(skipped IS NOT NULL OR EXISTS (SELECT 1 FROM vote WHERE (vote.rater, vote.position) = (place.rater, place.position)))"


@dataclass(frozen=True)
class Shown:
    """What a rater sees of an item. It has no names of models, and does not tell a check from a pair."""

    turns: Sequence[Utterance]
    earlier: bool
    a: str
    b: str
    chosen: Mapping[int, Side]
    """Earlier votes by question."""
    skipped: bool


def create(
    path: Path, study: Study, items: Sequence[Item], orders: Sequence[Sequence[Place]], tokens: Sequence[str]
) -> None:
    """Write a new study. Raises PermanentError `StudyExists` if the file exists, and what the disk reports."""
    try:
        # Only its owner reads the file: it says which model wrote what, and has the raters' links.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise PermanentError("StudyExists", f"{path} exists, and may hold votes: name another file") from None
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _set_up(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            _fill(connection, study, items, orders, tokens)
    except sqlite3.Error as error:
        path.unlink(missing_ok=True)
        raise PermanentError("StorageInvalid", f"{path} cannot be written: {error}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class StudyFile:
    """An open study. Raises PermanentError `StudyInvalid` or `StudyUnknown` if the file is not one of this version."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise PermanentError("StudyInvalid", f"{path}: there is no such file; `evolution study create` makes one")
        self._path = path
        self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self.study = self._read_study()
            _set_up(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What WAL holds is moved into it, unless another program has it open."""
        self._connection.close()

    def tokens(self) -> list[tuple[int, str]]:
        """Number and token of every rater."""
        return list(self._connection.execute("SELECT id, token FROM rater ORDER BY id"))

    def rater(self, token: str) -> Rater | None:
        """The rater with this token, or None."""
        found = self._connection.execute("SELECT id FROM rater WHERE token = ?", (token,)).fetchone()
        return self._progress(found[0]) if found else None

    def start(self, rater: int, now: float) -> None:
        """The rater has read the introduction and wants to take part."""
        with self._transaction():
            self._connection.execute("UPDATE rater SET started = coalesce(started, ?) WHERE id = ?", (now, rater))

    def show(self, rater: int, position: int, now: float | None) -> Shown:
        """An item as this rater sees it. `now` is when its page is opened; None if that page is only shown again."""
        if now is not None:
            with self._transaction():
                self._connection.execute(
                    "UPDATE place SET shown = ? WHERE rater = ? AND position = ?", (now, rater, position)
                )
        swapped, skipped, turns, earlier, first, second = self._connection.execute(
            "SELECT swapped, skipped, turns, earlier, first_text, second_text FROM place JOIN item ON item.id = item"
            " WHERE rater = ? AND position = ?",
            (rater, position),
        ).fetchone()
        votes = self._connection.execute(
            "SELECT question, choice FROM vote WHERE rater = ? AND position = ?", (rater, position)
        )
        return Shown(
            turns=[Utterance.stored(turn) for turn in json.loads(turns)],
            earlier=bool(earlier),
            a=second if swapped else first,
            b=first if swapped else second,
            chosen={question: side_of(choice, bool(swapped)) for question, choice in votes},
            skipped=skipped is not None,
        )

    def vote(self, rater: int, position: int, sides: Sequence[Side], now: float) -> None:
        """Store a rater's votes on an item, one for each question. An earlier vote keeps its seconds."""
        with self._transaction():
            swapped, shown = self._connection.execute(
                "SELECT swapped, shown FROM place WHERE rater = ? AND position = ?", (rater, position)
            ).fetchone()
            seconds = None if shown is None else max(0.0, now - shown)
            for question, side in enumerate(sides):
                choice: Choice = choice_of(side, bool(swapped))
                self._connection.execute(
                    "INSERT INTO vote (rater, position, question, choice, at, seconds) VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET changed = 1, choice = excluded.choice, at = excluded.at"
                    " WHERE choice != excluded.choice",
                    (rater, position, question, choice, now, seconds),
                )
            self._connection.execute(
                "UPDATE place SET skipped = NULL WHERE rater = ? AND position = ?", (rater, position)
            )

    def skip(self, rater: int, position: int, now: float) -> None:
        """The rater will not judge this item. Earlier votes on it are deleted."""
        with self._transaction():
            self._connection.execute("DELETE FROM vote WHERE rater = ? AND position = ?", (rater, position))
            self._connection.execute(
                "UPDATE place SET skipped = ? WHERE rater = ? AND position = ?", (now, rater, position)
            )

    def ballots(self) -> Ballots:
        """All that is known now, as of one moment. Raises PermanentError `StudyInvalid` if it cannot be read."""
        try:
            return self._ballots()
        except sqlite3.Error as error:
            raise PermanentError("StudyInvalid", f"{self._path} cannot be read as a study: {error}") from error

    def _ballots(self) -> Ballots:
        with self._transaction("DEFERRED"):
            items = [
                Item(kind, context, dialogue, [], bool(earlier), first, second, first_text, second_text)
                for kind, context, dialogue, earlier, first, second, first_text, second_text in self._connection.execute(
                    "SELECT kind, context, dialogue, earlier, first, second, first_text, second_text FROM item ORDER BY id"
                )
            ]
            raters = [self._progress(rater) for rater, _ in self.tokens()]
            votes = [
                Vote(rater, position, item, question, choice, bool(swapped), at, seconds, bool(changed))
                for rater, position, item, question, choice, swapped, at, seconds, changed in self._connection.execute(
                    "SELECT rater, position, item, question, choice, swapped, at, seconds, changed"
                    " FROM vote JOIN place USING (rater, position) ORDER BY rater, position, question"
                )
            ]
            return Ballots(self.study, items, raters, votes)

    def _progress(self, rater: int) -> Rater:
        places, done, skipped = self._connection.execute(
            f"SELECT count(*), sum({_DONE}), count(skipped) FROM place WHERE rater = ?",  # noqa: S608  # our own text
            (rater,),
        ).fetchone()
        (position,) = self._connection.execute(
            f"SELECT min(position) FROM place WHERE rater = ? AND NOT {_DONE}",  # noqa: S608  # our own text
            (rater,),
        ).fetchone()
        (started,) = self._connection.execute("SELECT started FROM rater WHERE id = ?", (rater,)).fetchone()
        return Rater(rater, started is not None, places, position, done, skipped)

    def _read_study(self) -> Study:
        try:
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION:
                raise PermanentError("StudyInvalid", f"{self._path} is not a study of `evolution study create`")
            if version > FORMAT:
                raise PermanentError(
                    "StudyUnknown",
                    f"{self._path} has format {version}, and this version knows {FORMAT}: a newer version of "
                    "evolution-operator wrote it; use that version",
                )
            (document,) = self._connection.execute("SELECT document FROM study").fetchone()
            return Study.stored(document)
        except sqlite3.Error as error:
            raise PermanentError("StudyInvalid", f"{self._path} cannot be read as a study: {error}") from error

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _fill(
    connection: sqlite3.Connection,
    study: Study,
    items: Sequence[Item],
    orders: Sequence[Sequence[Place]],
    tokens: Sequence[str],
) -> None:
    """All tables in one transaction, so that a file is a whole study or none."""
    connection.execute("BEGIN")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute("INSERT INTO study VALUES (1, ?)", (study.model_dump_json(by_alias=True),))
    connection.executemany(
        "INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                number,
                item.kind,
                item.context,
                item.dialogue,
                json.dumps([turn.wire() for turn in item.turns], ensure_ascii=False),
                item.earlier,
                item.first,
                item.second,
                item.first_text,
                item.second_text,
            )
            for number, item in enumerate(items)
        ),
    )
    for rater, (token, order) in enumerate(zip(tokens, orders, strict=True), start=1):
        connection.execute("INSERT INTO rater VALUES (?, ?, NULL)", (rater, token))
        connection.executemany(
            "INSERT INTO place VALUES (?, ?, ?, ?, NULL, NULL)",
            ((rater, position, place.item, place.swapped) for position, place in enumerate(order, start=1)),
        )
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # A vote survives a power cut, too.
    connection.execute("PRAGMA synchronous = FULL")
