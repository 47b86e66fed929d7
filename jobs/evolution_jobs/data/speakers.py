"""Who speaks: the seeker, the supporter, or a speaker that is left out and counted. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..contract.rows import Role, Turn
from .fields import BadRow

SYSTEM = ("system", "developer")
"""Instructions to a model: `developer` is what newer chats call them."""


class Reading(NamedTuple):
    """A record's turns as they were written, and how many turns were left out."""

    turns: list[Turn]
    left_out: Counter[str]
    """By speaker: `system`, or `ignored.<speaker>` for those that the source ignores."""


class Speakers:
    """The speakers that a source knows, and the turns of one record that it leaves out."""

    def __init__(
        self,
        seeker: Iterable[str],
        supporter: Iterable[str],
        ignored: Iterable[str] | None = None,
        system: bool = False,
        exact: bool = False,
    ) -> None:
        """`system` leaves out system turns without being asked. Unless `exact`, capitals and blanks around do not count."""
        self._known = (*seeker, *supporter)
        self._exact = exact
        self._roles: dict[str, Role | None] = dict.fromkeys(SYSTEM, None) if system else {}
        self._roles |= {self._plain(name): None for name in ignored or ()}
        self._roles |= {self._plain(name): "seeker" for name in seeker}
        self._roles |= {self._plain(name): "supporter" for name in supporter}
        self.left_out: Counter[str] = Counter()

    def role(self, speaker: Any, where: str) -> Role | None:
        """The role of a turn's speaker, or None if the turn is left out; then it is counted. Raises BadRow."""
        name = speaker if isinstance(speaker, str) else json.dumps(speaker)
        plain = self._plain(name)
        if plain not in self._roles:
            raise BadRow(
                f"{where} holds {name[:80]!r}, which is none of {', '.join(self._known)}; "
                f"ignore: [{yaml_text(name[:80])}] leaves such turns out"
            )
        role = self._roles[plain]
        if role is None:
            self.left_out["system" if plain in SYSTEM else f"ignored.{plain}"] += 1
        return role

    def _plain(self, name: str) -> str:
        return name if self._exact else name.strip().casefold()


def yaml_text(text: str) -> str:
    """The text as YAML, in quotes only if it needs them."""
    plain = re.fullmatch(r"[A-Za-z_][\w./-]*(?: [\w./-]+)*", text, re.ASCII)
    words = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    return text if plain and text.lower() not in words else json.dumps(text, ensure_ascii=False)
