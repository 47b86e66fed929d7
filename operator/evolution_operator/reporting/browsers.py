"""The rows that the page's browsers search and show, packed: JSON, gzip, base64. Pure."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from evolution_jobs.contract.rows import Answer, Pair, Reject, Turn

from .facts import Facts

MOST_ROWS = 100_000
"""Rows that a page holds; a browser needs a gigabyte for more."""
Wire = dict[str, Any]


def pack(rows: Any) -> str:
    """JSON, gzipped, in base64: a third of the size, and no text in it can end the element that holds it."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


def pair_rows(facts: Facts) -> Wire:
    """Every kept and dropped pair by round. A history that several rows share is stored once."""
    histories: dict[tuple[tuple[str, str], ...], int] = {}

    def place(turns: Iterable[Any]) -> int:
        return histories.setdefault(tuple(_turns(turns)), len(histories))

    kept = (_pair(number, each, place(each.turns)) for number, pairs in facts.pairs.items() for each in pairs)
    dropped = (
        _reject(number, each, place(each.row.get("turns") or ()))
        for number, rows in facts.rejects.items()
        for each in rows
    )
    rows = list(islice(chain(kept, dropped), MOST_ROWS))
    return {"rows": rows, "histories": [[list(turn) for turn in turns] for turns in histories]}


def pair_count(facts: Facts) -> int:
    """Kept and dropped pairs of all rounds, also beyond `MOST_ROWS`."""
    return sum(map(len, facts.pairs.values())) + sum(map(len, facts.rejects.values()))


def answer_rows(facts: Facts) -> Wire:
    """Each held-out context once, with what the human and every model answered."""
    return {"models": [*facts.answers], "rows": list(islice(_contexts(facts), MOST_ROWS))}


def _contexts(facts: Facts) -> Iterator[Wire]:
    by_model = {model: {each.id: each for each in rows} for model, rows in facts.answers.items()}
    contexts: dict[str, Answer] = {}
    for rows in facts.answers.values():
        for each in rows:
            contexts.setdefault(each.id, each)
    judged = {
        (verdict.context, f"M{iteration}"): verdict.overall
        for iteration, verdicts in facts.verdicts.items()
        for verdict in verdicts
        if verdict.opponent == "human" and verdict.overall
    }
    for id_, first in contexts.items():
        answers = [by_model[model].get(id_) for model in facts.answers]
        yield {
            "id": id_,
            "turns": [list(turn) for turn in _turns(first.context)],
            "human": first.human,
            "answers": [each.answer if each else None for each in answers],
            "cut": [bool(each and each.finish == "length") for each in answers],
            **({"judged": said} if any(said := [judged.get((id_, model)) for model in facts.answers]) else {}),
            **({"set": first.set} if first.set else {}),
            **({"strategy": first.strategy} if first.strategy else {}),
        }


def _pair(number: int, pair: Pair, history: int) -> Wire:
    row: Wire = {
        "round": number,
        "id": pair.id,
        "history": history,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "source": pair.source,
    }
    extra = {
        "profile": pair.profile,
        "model": pair.model,
        "margin": round(pair.ranking.margin, 4) if pair.ranking else None,
        "attempts": pair.attempts if pair.attempts > 1 else None,
    }
    return row | {name: value for name, value in extra.items() if value is not None}


def _reject(number: int, reject: Reject, history: int) -> Wire:
    known = {
        name: reject.row[name] for name in ("chosen", "rejected", "source", "profile", "model") if reject.row.get(name)
    }
    return {
        "round": number,
        "id": reject.id,
        "history": history,
        "reason": reject.reason,
        "detail": reject.detail,
        **known,
    }


def _turns(turns: Sequence[Turn] | Iterable[Mapping[str, Any] | Turn]) -> Iterator[tuple[str, str]]:
    """Each turn as `s` (seeker) or `h` (helper) and its text."""
    for turn in turns:
        role, text = (turn.role, turn.text) if isinstance(turn, Turn) else (turn.get("role"), str(turn.get("text", "")))
        yield ("h" if role == "supporter" else "s", text)
