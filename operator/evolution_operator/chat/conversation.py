"""What was said so far: the same user turns for all models, and each model's own answers. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolution_jobs.contract.rows import Context, Turn
from evolution_jobs.preference.prompts import answer_messages


@dataclass(frozen=True)
class Exchange:
    """What the user said, and what each model answered, by name."""

    said: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Conversation:
    """A conversation with one or several models, each of which sees its own answers only."""

    models: Sequence[str]
    opening: Sequence[Turn] = ()
    """Turns of a test context before its last seeker turn, which all models share."""
    exchanges: Sequence[Exchange] = ()

    @classmethod
    def of_context(cls, models: Sequence[str], context: Context) -> Conversation:
        """The conversation before the last turn of a test context, which is said next."""
        return cls(models, tuple(context.turns[:-1]))

    def turns(self, model: str, said: str) -> list[Turn]:
        """The turns that a model answers if `said` comes next."""
        turns = list(self.opening)
        for exchange in self.exchanges:
            turns += [
                Turn(role="seeker", text=exchange.said),
                Turn(role="supporter", text=exchange.answers[model]),
            ]
        return [*turns, Turn(role="seeker", text=said)]

    def answered(self, said: str, answers: Mapping[str, str]) -> Conversation:
        """The conversation with one more exchange."""
        return replace(self, exchanges=(*self.exchanges, Exchange(said, dict(answers))))

    def undone(self) -> Conversation:
        """Without the last exchange. What a test context began with stays."""
        return replace(self, exchanges=self.exchanges[:-1])

    def saved(self) -> str:
        """JSON Lines in the layout `messages`: one conversation for each model. Empty if nothing was answered."""
        if not self.exchanges:
            return ""
        return "".join(json.dumps(self._messages(model), ensure_ascii=False) + "\n" for model in self.models)

    def _messages(self, model: str) -> dict[str, Any]:
        last = self.exchanges[-1]
        asked = answer_messages(self.undone().turns(model, last.said))
        return {"model": model, "messages": [*asked, {"role": "assistant", "content": last.answers[model]}]}
