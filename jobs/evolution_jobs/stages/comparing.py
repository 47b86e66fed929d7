"""A judge as the ranker of the preference source `reward`: it compares every two answers to a context in both orders.

Each of its answers is a durable row, so nothing is paid for twice, whichever process asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract.settings import PairwiseJudge
from ..contract.workspace import Workspace
from ..judging.findings import MANY_FLIPS
from ..judging.points import questions, scored
from ..judging.verdicts import Said
from ..preference.ranking import Scored, ToRank
from . import asking

if TYPE_CHECKING:
    pass

FIELD = "reward"
"""The name of what a row took of the judge's endpoint."""
PATH = "reward.judge"
"""The endpoint's path below `spec`."""


class JudgeRanker:
    """A `Ranker`: an answer's score is its share of the points of its comparisons with all others."""

    def __init__(self, workspace: Workspace, settings: PairwiseJudge) -> None:
        self._workspace = workspace
        self._settings = settings

    def scores(self, asked: Sequence[ToRank]) -> Iterator[list[Scored]]:
        """The scores of each context; a list each time that some have been compared. Raises what `asking.ask` raises."""
        rows = self._workspace.rows
        said = {id_: Said.of(row) for id_, row in rows.finished().items() if FIELD in row}
        open_ = [question for each in asked for question in questions(each) if question.id not in said]
        left = Counter(question.asked.id for question in open_)
        if compared := [scored(each, said) for each in asked if not left[each.id]]:
            yield compared
        if not open_:
            return
        by_id = {question.id: question.asked for question in open_}
        chats = (asking.judge_chat(question.id, question.chat, self._settings) for question in open_)
        for replies in asking.ask(self._workspace, self._settings, PATH, chats):
            rows.append(asking.durable(reply, FIELD) for reply in replies)
            said |= {reply.id: Said(reply.text, reply.refusal) for reply in replies}
            left.subtract(by_id[reply.id].id for reply in replies)
            ended = {each.id: each for each in (by_id[reply.id] for reply in replies) if not left[each.id]}
            if ended:
                yield [scored(each, said) for each in ended.values()]


def judge_rows(rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a stage's durable rows that are a judge's answers."""
    return [row for row in rows.values() if FIELD in row]


def judge_notes(counts: Mapping[str, int]) -> list[str]:
    """Sentences on comparisons that say nothing, from the counts of `rewarding.reward_counts`."""
    compared = counts.get("reward.compared", 0)
    flipped = counts.get("reward.flipped", 0)
    lacking = counts.get("reward.unreadable", 0) + counts.get("reward.refused", 0)
    notes = []
    if flipped and 100 * flipped >= MANY_FLIPS * compared:
        notes.append(
            f"the judge's verdict follows the order of the answers in {flipped} of {compared} comparisons, which count as ties: "
            "take another judge"
        )
    if lacking:
        notes.append(
            f"{lacking} of {compared} comparisons have no verdict and count as ties: raise reward.judge.maxTokens if the judge "
            "thinks aloud, or take another judge"
        )
    return notes
