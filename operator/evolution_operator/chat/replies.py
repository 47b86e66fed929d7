"""One model's reply, and what of it a terminal may show while it is sampled. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from evolution_jobs.contract.rows import Response
from evolution_jobs.printable import REPLACEMENT, printable

KEPT = "\n\t"
"""Control characters of an answer that a terminal gets."""


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    model: str
    text: str
    finish: Literal["stop", "length", "interrupted"]
    """`interrupted`: the user stopped it."""
    tokens: int
    truncated_turns: int
    """Oldest turns that were left out so that the prompt fits."""
    thought: bool = False
    """Whether a think block was left out of the text."""

    @classmethod
    def of(cls, model: str, response: Response, *, interrupted: bool = False) -> Reply:
        """The reply of a model, as far as it has come if it was interrupted."""
        return cls(
            model=model,
            text=response.text,
            finish="interrupted" if interrupted else response.finish,
            tokens=response.tokens,
            truncated_turns=response.truncated_turns,
            thought=response.thought,
        )

    @property
    def shown(self) -> str:
        """The text, as a terminal may show it."""
        return printable(self.text, KEPT)

    @property
    def notes(self) -> list[str]:
        """What the user should know of it, one phrase each."""
        said = {"length": f"cut at {self.tokens} tokens", "interrupted": "stopped", "stop": ""}[self.finish]
        turns = self.truncated_turns
        return [
            *([said] if said else []),
            *(["an empty answer"] if not self.text else []),
            *(["a think block was left out"] if self.thought else []),
            *([f"the oldest {turns} turns no longer fit into maxPromptTokens and were left out"] if turns else []),
        ]

    def wire(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "model": self.model,
            "text": self.text,
            "finish": self.finish,
            "tokens": self.tokens,
            "truncatedTurns": self.truncated_turns,
        }


class Stream:
    """Turns the text so far into the piece that has not been written yet."""

    def __init__(self) -> None:
        self._written = ""

    def piece(self, text: str, *, last: bool = False) -> str:
        """What to write now. A character whose bytes are not all sampled yet waits; so does white space, which may be the end."""
        shown = printable(text, KEPT)
        if not last:
            shown = shown.rstrip().rstrip(REPLACEMENT)
        # Anew on its own line if a think block without a beginning has ended, or the tokenizer reads the last tokens in
        # another way.
        piece = shown[len(self._written) :] if shown.startswith(self._written) else f"\n{shown}"
        self._written = shown
        return piece
