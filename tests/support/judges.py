"""Judges whose bias is planted, as plain functions of two answers, and the answers that they compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from evolution_jobs.contract.rows import CRITERIA, Side

Judge = Callable[[str, str], Side]
"""From the answers A and B to the one that is named."""


def first(a: str, b: str) -> Side:
    """Always the answer that it reads first."""
    return "A"


def second(a: str, b: str) -> Side:
    """Always the answer that it reads second."""
    return "B"


def longer(a: str, b: str) -> Side:
    """The answer with more words, whatever they say."""
    if len(a.split()) == len(b.split()):
        return "tie"
    return "A" if len(a.split()) > len(b.split()) else "B"


def perfect(a: str, b: str) -> Side:
    """The answer that holds the word `good`, in any order and of any length."""
    if ("good" in a.split()) == ("good" in b.split()):
        return "tie"
    return "A" if "good" in a.split() else "B"


def tossed(a: str, b: str) -> Side:
    """A coin for each order of each pair."""
    return "A" if hashlib.sha256(f"{a}|{b}".encode()).digest()[0] % 2 else "B"


def undecided(a: str, b: str) -> Side:
    """Always a tie."""
    return "tie"


def verdict_text(side: Side) -> str:
    """A verdict that names one answer on each criterion."""
    return json.dumps(dict.fromkeys((*CRITERIA, "overall"), side), separators=(",", ":"))


def compared(body: dict[str, Any]) -> tuple[str, str]:
    """The answers A and B that a request gives the judge."""
    asked = json.loads(body["messages"][-1]["content"])
    return asked["A"], asked["B"]


def reply_by(judge: Judge) -> Callable[[dict[str, Any]], str]:
    """The judge as what a chat server answers."""

    def reply(body: dict[str, Any]) -> str:
        return verdict_text(judge(*compared(body)))

    return reply
