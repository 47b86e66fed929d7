"""What to do next after a run, from what it has left. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from evolution_jobs.contract.figures import KINDS, MIN_DIALOGUES
from evolution_jobs.preference.advice import ADVICE

from .facts import Facts
from .words import count, drops

MANY_DROPPED = 0.5
"""Share of a round's rows; if more are dropped, the report says what to change."""


def next_steps(facts: Facts) -> list[str]:
    """What to do next, the most urgent first; one sentence or two each."""
    return [*_broken(facts), *_unfinished(facts), *_evidence(facts), *_pairs(facts), *_onward(facts)]


def _broken(facts: Facts) -> Iterator[str]:
    for stage in facts.stages.values():
        if stage.state == "Failed":
            yield (
                f"Stage {stage.id} has failed ({stage.reason}): {stage.message or 'its log says why'}. Remove the cause, then "
                f"run the file again, or on a cluster: evolution retry {facts.name}. Finished stages are kept."
            )
    for words in facts.unread:
        yield f"This could not be read: {words}. If the file is damaged, run again: its stage is made anew."


def _unfinished(facts: Facts) -> Iterator[str]:
    status = facts.status
    if status is None:
        yield "Name the run file in place of the run's name, and this report also says which model is the champion and what failed."
    elif status.phase == "Suspended":
        yield "The run is suspended: set spec.suspend to false to continue it."
    elif status.phase in ("Pending", "Running"):
        yield (
            "Wait for the run, then make this report again."
            if facts.observed
            else "Run the file again: it continues, or says what is wrong. Then make this report again."
        )


def _evidence(facts: Facts) -> Iterator[str]:
    dialogues = facts.dialogues
    if dialogues and len(dialogues) < MIN_DIALOGUES:
        yield (
            f"Test on more dialogues: {count(len(dialogues), 'dialogue')} cannot show a difference. Name more in data.test, or raise "
            "evaluation.samples."
        )
    elif facts.changes and not any(each.shown for each in facts.changes):
        yield "Test on more dialogues before you believe any ranking of these models: no difference is shown so far."
    if any(each.present for each in facts.newest_signs):
        yield "Read answers of the newest model below before you train on: it shows signs that the figures alone do not explain."


def _pairs(facts: Facts) -> Iterator[str]:
    for manifest in facts.manifests.values():
        read, dropped = manifest.counts.get("read", 0), drops(manifest.counts)
        if manifest.kind != "reflect" or not dropped or sum(dropped.values()) <= MANY_DROPPED * read:
            continue
        reason = next(iter(dropped))
        advice = f" To keep more: {ADVICE[reason]}." if reason in ADVICE else ""
        yield f"Round {manifest.iteration} dropped {sum(dropped.values())} of {read} rows, most as {reason}.{advice}"


def _onward(facts: Facts) -> Iterator[str]:
    status, spec = facts.status, facts.spec
    if status is None or spec is None or status.phase != "Complete" or status.champion is None:
        return
    metric = KINDS[spec.evaluation.champion_metric].label.removesuffix(", %")
    if facts.condition("StoppedEarly"):
        yield "To go on all the same, allow more in spec.stopping and run again: only the new rounds run."
    elif status.champion == 0 and facts.models[-1:] != [0]:
        yield (
            f"By {metric}, no round is shown to be better than M0. Look at the pairs below: if chosen is not better than rejected to "
            "your eyes, change the source of the pairs or take a larger model, before you add rounds."
        )
    elif facts.models[-1:] == [status.champion]:
        yield "The newest model is the champion: raise spec.iterations and run again; only the new rounds run."
    else:
        yield f"Use M{status.champion}: later rounds are not shown to be better by {metric}."
    if spec.judge is None:
        yield "Ask a judge (spec.judge) or people (evolution study) which answers they prefer: no figure here says how helpful an answer is."
