"""What a user should know of a judge before its win rates are believed, one sentence each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..contract.figures import MIN_DIALOGUES
from ..contract.rows import Opponent, Verdict
from ..metrics.bootstrap import share_interval
from .family import families
from .figures import Judged, longer_won, one_outcome, win_rate

MANY_FLIPS = 25.0
"""Percent of pairs. In published comparisons, 13 % of verdicts change with the order (FastChat issue 3911)."""
MOSTLY_TIES = 80.0
"""Percent of pairs."""
ONE_SIDED = 0.05
"""Least share of pairs in which the answer is shorter, and in which it is longer, for a fit on length to mean something."""
ENOUGH = 10
"""Fewest pairs of different length for a sentence on length."""
NAMES: dict[Opponent, str] = {"human": "the human answer", "previous": "the model before"}


def findings(judged: Judged, answered_by: Collection[str], policy: str) -> list[str]:
    """Sentences on position, length, ties, few dialogues and the judge's family.

    `answered_by` has the names under which the judge's endpoint has answered, `policy` the base model's address.
    """
    return [
        *_position(judged),
        *_length(judged),
        *_ties(judged),
        *_dialogues(judged.verdicts),
        *_family({judged.judge, *answered_by}, policy),
    ]


def _position(judged: Judged) -> list[str]:
    if not judged.asked or judged.flips.value < MANY_FLIPS:
        return []
    first, pairs = judged.first.value, f"{judged.flips.value:.1f} % of the pairs"
    if _outside(50, share_interval(judged.first)):
        side = "first" if first >= 50 else "second"
        what = (
            f"the judge's verdict follows the order of the answers in {pairs}: it prefers the {side} answer in "
            f"{max(first, 100 - first):.1f} % of its verdicts"
        )
    else:
        what = f"the judge contradicts itself in {pairs} once the answers change places"
    return [f"{what}. These pairs count as ties, so its win rates say little: take another judge"]


def _length(judged: Judged) -> list[str]:
    found = []
    for opponent, fitted in judged.lengths.items():
        rows = judged.against(opponent)
        longer = [verdict.words > verdict.other_words for verdict in rows if verdict.words != verdict.other_words]
        if len(longer) < ENOUGH or not any(map(longer_won, rows)):
            continue
        if not ONE_SIDED <= sum(longer) / len(longer) <= 1 - ONE_SIDED:
            found.append(
                f"nearly all answers are longer than {NAMES[opponent]}, or nearly all shorter: nothing tells length from the "
                f"model, and the win rate at equal length is extrapolated (the longer answer wins {_longer(rows):.1f} % of the "
                "decided pairs)"
            )
        elif not one_outcome(rows) and _outside(0, fitted.slope.interval()):
            kind = "longer" if fitted.slope.value > 0 else "shorter"
            found.append(
                f"the judge prefers {kind} answers: against {NAMES[opponent]}, the model wins {win_rate(rows).value:.1f} %, and "
                f"{fitted.rate.value:.1f} % at equal length"
            )
    return found


def _longer(rows: Sequence[Verdict]) -> float:
    won = [each for verdict in rows for each in longer_won(verdict)]
    return 100 * sum(won) / len(won)


def _ties(judged: Judged) -> list[str]:
    # Disagreements are ties, too: the sentence on position is about those.
    if not judged.asked or judged.ties.value - judged.flips.value < MOSTLY_TIES:
        return []
    return [f"the judge calls {judged.ties.value:.1f} % of the pairs a tie: it hardly tells the answers apart"]


def _dialogues(verdicts: Sequence[Verdict]) -> list[str]:
    count = len({verdict.dialogue for verdict in verdicts})
    if count >= MIN_DIALOGUES:
        return []
    seen = "1 dialogue" if count == 1 else f"{count} dialogues"
    return [f"the verdicts are on {seen}: intervals from fewer than {MIN_DIALOGUES} are too narrow to rely on"]


def _family(judges: Collection[str], policy: str) -> list[str]:
    shared = set().union(*map(families, judges)) & families(policy)
    if not shared:
        return []
    return [
        f"judge and base model are of one family ({', '.join(sorted(shared))}): a model prefers answers of its own family, so "
        "check the win rates against the human answer with another judge"
    ]


def _outside(value: float, interval: tuple[float, float] | None) -> bool:
    return interval is not None and not interval[0] <= value <= interval[1]
