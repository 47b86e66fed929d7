"""What happened in a run, and what is true now, in plain sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evolution_jobs.contract.figures import MIN_DIALOGUES
from evolution_jobs.contract.manifest import Manifest

from ..planner.policies import champion_rule, goodness
from .details import mapping, text
from .facts import Change, Facts
from .figures import Row, Value

TOLD_ROUNDS = 3
"""With more rounds than these, they are told of together."""


def happened(facts: Facts) -> list[str]:
    """The run's story, one sentence each; together one paragraph."""
    stages = facts.manifests
    return [
        *_state(facts),
        *(_prepared(facts) if "prepare" in stages else []),
        *(_tuned(stages["sft"]) if "sft" in stages else []),
        *_rounds(facts),
        *_evaluated(facts),
    ]


def _state(facts: Facts) -> Iterator[str]:
    finished, status = len(facts.manifests), facts.status
    if status is None:
        yield (
            f"Only the storage of this run is known, not its run file or its state on a cluster. "
            f"This report is made from the {count(finished, 'finished stage')} that the storage has."
        )
        return
    rounds = count(len([number for number in facts.models if number]), "round")
    if status.phase == "Complete" and (why := facts.condition("StoppedEarly")):
        yield f"The run ended early, after {rounds}: {_sentence(why)}"
    elif status.phase == "Complete":
        yield f"The run is complete, with {rounds} after M0."
    elif status.phase == "Failed":
        yield f"The run has failed: {_sentence(facts.condition('Failed') or status.reason or 'no reason is known')}"
    else:
        unknown = (
            ""
            if facts.phase != "Unfinished"
            else " Whether it runs, has failed or was stopped, its run file and its storage do not say."
        )
        yield f"The run is not complete: {finished} of {count(len(status.stages), 'stage')} have finished.{unknown}"
    if status.started_at and status.finished_at and (status.finished_at - status.started_at).total_seconds() >= 1:
        yield f"It ran from {status.started_at:%d %B %Y, %H:%M} to {status.finished_at:%d %B %Y, %H:%M} UTC."


def _prepared(facts: Facts) -> Iterator[str]:
    prepare = facts.manifests["prepare"]
    counts = prepare.counts
    if base := text(mapping(prepare.details.get("model")).get("uri")):
        yield f"The base model is {base}."
    if "train" in counts and "validation" in counts:
        replay = f" and {count(counts['replay'], 'general instruction')}" if counts.get("replay") else ""
        yield (
            f"Prepare kept {count(counts['train'], 'dialogue')} to train on{replay}, "
            f"{count(counts['validation'], 'dialogue')} to validate with, "
            f"{count(counts.get('contexts', 0), 'context')} to answer in each round, "
            f"and {count(counts.get('test', 0), 'held-out context')}."
        )


def _tuned(sft: Manifest) -> Iterator[str]:
    dialogues, loss = sft.counts.get("dialogues"), sft.metrics.get("validation_loss")
    on = f" on {count(dialogues, 'dialogue')}" if dialogues else ""
    end = f"; its validation loss is {loss:.3f} nats a token" if loss is not None else ""
    yield f"Supervised fine-tuning{on} made M0{end}."


def _rounds(facts: Facts) -> Iterator[str]:
    numbers = facts.rounds
    if len(numbers) <= TOLD_ROUNDS:
        for number in numbers:
            yield from _round(facts, number)
        return
    made = [facts.manifests[f"reflect-{number}"].counts for number in numbers if f"reflect-{number}" in facts.manifests]
    kept, read = ([each.get(name, 0) for each in made] for name in ("pairs", "read"))
    yield (
        f"In each of the rounds {numbers[0]} to {numbers[-1]}, the model of the round before answered {_range(read)} contexts, and "
        f"{_range(kept)} of them became preference pairs. DPO on these made M1 to M{max(facts.models, default=0)}."
    )


def _range(values: Sequence[int]) -> str:
    if not values:
        return "no"
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _round(facts: Facts, number: int) -> Iterator[str]:
    before = f"M{number - 1}"
    generated, reflected, trained = (facts.manifests.get(f"{kind}-{number}") for kind in ("generate", "reflect", "dpo"))
    if reflected is not None:
        read, kept = reflected.counts.get("read", 0), reflected.counts.get("pairs", 0)
        dropped = drops(reflected.counts)
        reasons = ", ".join(f"{rows} {reason.replace('_', ' ')}" for reason, rows in dropped.items())
        tail = f"; {count(sum(dropped.values()), 'row')} were dropped ({reasons})" if dropped else ""
        tail = tail.replace("1 row were", "1 row was")
        yield (
            f"In round {number}, {before} answered {count(read, 'context')}, "
            f"and {kept} of them became preference pairs{tail}."
        )
    elif generated is not None:
        yield f"In round {number}, {before} has answered the contexts; there are no preference pairs yet."
    if trained is not None:
        pairs = trained.counts.get("pairs")
        on = f" on {count(pairs, 'pair')}" if pairs else ""
        yield f"DPO{on} made M{number}."


def _evaluated(facts: Facts) -> Iterator[str]:
    if not facts.answers:
        yield "No model has been evaluated."
        return
    ids = {model: {each.id for each in rows} for model, rows in facts.answers.items()}
    common = set.intersection(*ids.values())
    dialogues = {each.dialogue for rows in facts.answers.values() for each in rows if each.id in common}
    of = f" of {count(len(dialogues), 'dialogue')}"
    if len(ids) > 1 and all(each == common for each in ids.values()):
        seeds = ", with the same seeds" if _same_seeds(facts) else ""
        yield f"{listed([*ids])} answered the same {count(len(common), 'held-out context')}{of}{seeds}."
        return
    each_of = listed([f"{model} answered {count(len(found), 'held-out context')}" for model, found in ids.items()])
    if len(ids) == 1:
        yield f"{each_of}{of}."
    else:
        yield f"{each_of}; they have {count(len(common), 'context') + of if common else 'no context'} in common."


def _same_seeds(facts: Facts) -> bool:
    """Whether all evaluations are known to have one seed. A context's own seed follows from it, whatever the model."""
    seeds = {f"M{each.iteration or 0}": each.seed for each in facts.manifests.values() if each.kind == "evaluate"}
    return facts.answers.keys() <= seeds.keys() and len({seeds[model] for model in facts.answers}) == 1


def drops(counts: Mapping[str, int]) -> dict[str, int]:
    """Rows dropped by reason, the most frequent first."""
    found = {
        name.removeprefix("dropped."): rows for name, rows in counts.items() if name.startswith("dropped.") and rows
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def true_now(facts: Facts, figures: Sequence[Row]) -> list[str]:
    """What can be said of the models now, one sentence each."""
    return [*_champion(facts, figures), *_compared(facts), *_few(facts), *_signs(facts)]


def _champion(facts: Facts, figures: Sequence[Row]) -> Iterator[str]:
    if facts.status is None or facts.spec is None:
        if figures:
            yield "Which model is the champion is not known here: the rule is in the run file, and this report was made without it."
        return
    champion, evaluation = facts.status.champion, facts.spec.evaluation
    if champion is None:
        yield "There is no champion: no model has been evaluated."
        return
    rule = champion_rule(evaluation.champion_rule, evaluation.champion_metric)
    row = next((each for each in figures if each.name == evaluation.champion_metric), None)
    words = ""
    if row is not None and champion in row.values:
        best = max(row.values, key=lambda number: (goodness(row.name, row.values[number].value), -number))
        tail = (
            "the best of all models"
            if best == champion
            else f"the best is M{best}'s {value(row.values[best], row.digits)}"
        )
        words = f" It has {value(row.values[champion], row.digits)}; {tail}."
    yield f"The champion is M{champion}: {rule}.{words}"
    yield from (f"{sentence}. It cannot be the champion." for sentence in facts.status.ineligible)


def _compared(facts: Facts) -> Iterator[str]:
    if not facts.changes:
        if len(facts.answers) > 1:
            yield f"Whether the models differ was not tested: {_sentence(facts.not_compared)}"
        return
    last = facts.changes[-1].model
    models = [last]
    if facts.status and facts.status.champion and f"M{facts.status.champion}" != last:
        models.insert(0, f"M{facts.status.champion}")
    for model in models:
        yield compared(model, [each for each in facts.changes if each.model == model])


def compared(model: str, changes: Sequence[Change]) -> str:
    """How a model differs from the first one, in one sentence. `changes` are all of this model."""
    against = f"Against {changes[0].baseline}, {model}"
    shown = {
        verdict: [each for each in changes if each.verdict == verdict]
        for verdict in ("better", "worse", "higher", "lower")
    }
    parts = [f"is {verdict} in {listed([change(each) for each in found])}" for verdict, found in shown.items() if found]
    rest = len(changes) - sum(map(len, shown.values()))
    if not parts:
        return (
            f"{against} shows no difference in any of {count(len(changes), 'figure')}: the intervals of the differences include "
            "zero, or there are too few dialogues to say. That does not show that the models are equal."
        )
    tail = f" In {count(rest, 'other figure')}, the data show no difference." if rest else ""
    return f"{against} {', and '.join(parts)}.{tail}"


def change(each: Change) -> str:
    """`Distinct-2 (+1.20, 95 % interval +0.40 to +2.00)`."""
    interval = f", 95 % interval {signed(each.interval[0])} to {signed(each.interval[1])}" if each.interval else ""
    return f"{each.label.removesuffix(', %')} ({signed(each.difference)}{interval})"


def signed(number: float) -> str:
    """`+1.20` or `−1.20`."""
    return f"{number:+.2f}".replace("-", "\N{MINUS SIGN}")


def _few(facts: Facts) -> Iterator[str]:
    dialogues = facts.dialogues
    if dialogues and len(dialogues) < MIN_DIALOGUES:
        yield (
            f"The held-out contexts are of {count(len(dialogues), 'dialogue')}. With fewer than {MIN_DIALOGUES}, "
            "intervals are too narrow to rely on, and no difference is taken as shown."
        )


def _signs(facts: Facts) -> Iterator[str]:
    signs = [each.sentence for each in facts.newest_signs if each.present]
    if signs:
        yield f"M{max(facts.scores)} shows {count(len(signs), 'sign')} of failing self-evolution: {'; '.join(signs)}."
    elif facts.newest_signs:
        yield f"M{max(facts.scores)} shows none of the known signs of failing self-evolution."
    if chosen := [each.sentence for each in facts.champion_signs if each.present]:
        assert facts.status is not None
        yield f"The champion, M{facts.status.champion}, shows {count(len(chosen), 'sign')} of it: {'; '.join(chosen)}."


def value(found: Value, places: int) -> str:
    """`96.86 (95 % interval 94.00 to 98.00)`, with so many decimal places."""
    low, high = found.interval or (None, None)
    interval = "" if low is None else f" (95 % interval {low:z.{places}f} to {high:z.{places}f})"
    return f"{found.value:z.{places}f}{interval}"


def count(number: int, noun: str) -> str:
    """`1 pair`, `1,200 pairs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """`M0, M1 and M2`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."
