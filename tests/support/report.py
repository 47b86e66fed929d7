"""A finished run of two rounds as its report reads it, made up here: nothing has been trained. Figures are plausible, no more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evolution_jobs.contract.manifest import File, Manifest, Output, canonical_digest
from evolution_jobs.contract.rows import Answer, Pair, Reject, Turn
from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import Condition, IterationMetrics, RunStatus, StageStatus
from evolution_operator.reporting.facts import Change, Facts
from evolution_operator.reporting.scores import StoredScores

from tests.support.run_document import minimal_spec

MADE = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
RUN = RunRef(namespace="lab", name="esconv-small", uid="u")


class Talk(NamedTuple):
    """A context, and what is said in answer to it."""

    turns: Sequence[str]
    """The seeker begins, and they alternate."""
    human: str
    first: str
    """What M0 says: the rejected answer."""
    second: str
    third: str
    rewrite: str
    """The chosen answer."""
    profile: dict[str, str]


TALKS = (
    Talk(
        ("I lost my job last month and I can't tell my parents.", "That sounds like a lot to carry alone. How have you been?", "Not well. I get up late and I don't see anybody."),
        "Losing a job shakes the whole day. What is the part of telling them that scares you most?",
        "It sounds like you are having a hard time. You should make a schedule and apply for jobs every day.",
        "It sounds like you are having a hard time. Have you thought about telling one of them first?",
        "Days without a shape are hard, and hiding it takes strength on top. Who in your family would take it best?",
        "It sounds like you are having a hard time, and hiding it from your parents makes it harder. Would it help to tell one of them first?",
        {"situation": "lost a job, hides it from the parents", "emotionalState": "ashamed, withdrawn", "needs": "a first small step"},
    ),
    Talk(
        ("My best friend stopped answering me.", "I'm sorry. Did anything happen between you two?", "We argued about money. I think she hates me now."),
        "An argument about money can feel like one about trust. What would you like her to know?",
        "I am sure she does not hate you. Just give it some time and everything will be fine.",
        "Arguments about money are common. You could write to her and say you are sorry.",
        "Being met with silence after a quarrel hurts. What would you say to her if she read it today?",
        "Silence after an argument about money hurts, and I hear that you fear to lose her. Would you want to write her a short note?",
        {"situation": "argued with a friend about money", "emotionalState": "hurt, afraid of losing her", "needs": "to be heard before advice"},
    ),
    Talk(
        ("I have an exam on Friday and I can't sleep.", "How long has it been like this?", "Since Sunday. I lie there and count the hours."),
        "Counting the hours keeps you awake, too. What goes through your mind first when you lie down?",
        "Try to drink less coffee. Sleep is very important for exams. Here are some tips: 1. Relax. 2. Breathe.",
        "Sleep matters before an exam. What do you do in the hour before bed?",
        "Four nights of counting hours would wear anybody out. What do you tell yourself about Friday at night?",
        "Lying awake since Sunday must be exhausting. What do you tell yourself about Friday when you count the hours?",
        {"situation": "an exam on Friday, sleepless since Sunday", "emotionalState": "tense", "needs": "calm, one thing to try tonight"},
    ),
    Talk(
        ("My father is ill and I live far away.", "That distance must be painful. What do the doctors say?", "They don't know yet. I feel useless here."),
        "Waiting without knowing is its own kind of pain. Is there something he likes to hear from you?",
        "You are not useless. You can call him and send him money.",
        "You are not useless. When did you last talk to him?",
        "Not knowing, and not being there, are two weights at once. What would being useful look like to you?",
        "Feeling useless from far away shows how much he means to you. What would you do with him if you were there today?",
        {"situation": "father ill, lives far away", "emotionalState": "helpless, guilty", "needs": "a way to be close"},
    ),
    Talk(
        ("Everyone at work is faster than me.", "What makes you say so?", "My manager said I should ask fewer questions."),
        "That remark would make anybody doubt. Which questions have helped you most so far?",
        "You should work harder and ask your colleagues instead. I hope this helps!",
        "That was not kind of your manager. Which tasks go well?",
        "It is hard to learn where questions cost you. Which part of your work do you trust yourself with?",
        "A remark like that can make you doubt all you do. Which question do you wish you could still ask?",
        {"situation": "criticised by a manager", "emotionalState": "insecure", "needs": "trust in own ability"},
    ),
)  # fmt: skip


def turns(talk: Talk) -> list[Turn]:
    return [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(talk.turns)]  # type: ignore[arg-type]


def digest(*words: Any) -> str:
    return canonical_digest([str(each) for each in words])


def make_answers(model: int, contexts: int = 36, **fields: Any) -> list[Answer]:
    """Three contexts of each dialogue."""
    rows = []
    for number in range(contexts):
        talk = TALKS[number % len(TALKS)]
        known: dict[str, Any] = {
            "id": f"{digest(number // 3)[:16]}-{3 + 2 * (number % 3)}",
            "dialogue": digest(number // 3)[:16],
            "context": turns(talk),
            "human": talk.human,
            "answer": (talk.first, talk.second, talk.third)[model],
            "tokens": 24,
            "finish": "length" if model == 0 and number % 9 == 8 else "stop",
            "truncated_turns": 0,
            "nll": 30.0 - model,
            "nll_tokens": 10,
        }
        rows.append(Answer(**known | fields))
    return rows


def make_pairs(count: int = 28, **fields: Any) -> list[Pair]:
    rows = []
    for number in range(count):
        talk = TALKS[number % len(TALKS)]
        # Of many pairs, no two have the same text.
        tail = f" ({number})" if count > 100 else ""
        known: dict[str, Any] = {
            "id": f"{digest('pair', number)[:16]}-5",
            "turns": turns(talk),
            "chosen": talk.rewrite + tail,
            "rejected": talk.first + tail,
            "source": ("self", "teacher")[number % 4 == 3],
            "profile": talk.profile,
            "attempts": 1 + (number % 5 == 0),
        }
        rows.append(Pair(**known | fields))
    return rows


def make_rejects(count: int = 8) -> list[Reject]:
    rows = []
    for number in range(count):
        talk = TALKS[number % len(TALKS)]
        reason = ("too_long", "profile_unparsed", "too_long", "equal")[number % 4]
        row = {
            "turns": [turn.wire() for turn in turns(talk)],
            "human": talk.human,
            "rejected": talk.first,
            "source": "self",
        }
        row |= {} if reason == "profile_unparsed" else {"chosen": talk.rewrite}
        detail = "chosen has 60 words, rejected 19" if reason == "too_long" else ""
        rows.append(Reject(id=f"{digest('reject', number)[:16]}-7", reason=reason, detail=detail, row=row))
    return rows


def make_manifest(
    kind: str, iteration: int | None, outputs: Sequence[str], inputs: dict[str, str], **fields: Any
) -> Manifest:
    stage = kind if kind in ("prepare", "sft") else f"{kind}-{iteration}"
    key = digest("key", stage)
    named = {}
    for name in outputs:
        location = f"stages/{key}/attempts/a-1/{name}.jsonl"
        file = File(path=f"{name}.jsonl", location=location, sha256=digest(stage, name), size=1000)
        named[name] = Output(digest=digest(stage, name), files=[file])
    versions = {"python": "3.11.9", "evolution-operator": "0.1.0", "torch": "2.8.0", "transformers": "5.2.0"}
    known: dict[str, Any] = {
        **{"key": key, "kind": kind, "stage": stage, "iteration": iteration, "run": RUN, "attempt": "a-1"},
        **{"outputs": named, "inputs": inputs, "settings": {}, "seed": 7, "code": versions, "seconds": 60.0},
    }
    return Manifest(**known | fields)


def make_manifests() -> dict[str, Manifest]:
    """Prepare, M0, and two rounds, each with its evaluation."""
    prepared = ("train", "validation", "contexts", "test", "model")
    of_data = {name: digest("prepare", name) for name in prepared}
    sources = [
        {"role": role, "uri": f"hf://owner/{name}", "sha256": digest(name), "bytes": 10_000 * rows, "counts": {"read": rows, "kept": rows - 3, "turns.merged": 12}}
        for role, name, rows in (("seed", "esconv", 910), ("contexts", "extes", 400), ("test", "esconv", 195))
    ]  # fmt: skip
    details = {"sources": sources, "badRows": [], "contextsFrom": "data.contexts", "testFrom": "data.test", "model": {"uri": "hf://owner/small-chat", "reference": None}}  # fmt: skip
    counts = {"seed.read": 910, "turns.merged": 36, "dropped.short_history": 4, "train": 816, "validation": 91, "contexts": 36, "test": 576}  # fmt: skip
    losses = {"curve": [[step, 3.8 / step**0.25] for step in range(1, 41)], "validation": [[step, 2.1 - step / 100] for step in (10, 20, 30, 40)]}  # fmt: skip
    found = [
        make_manifest("prepare", None, prepared, {}, counts=counts, details=details, seconds=31.0, phases={"fetch": 0.1, "work": 30.9}),
        make_manifest("sft", 0, ["adapter"], {name: of_data[name] for name in ("model", "train", "validation")}, counts={"dialogues": 816}, metrics={"validation_loss": 1.7}, details=losses, tokens=410_000, gpus=1, seconds=1900.0, phases={"fetch": 4.0, "load": 21.0, "work": 1875.0}),
    ]  # fmt: skip
    before = "sft"
    for number in (1, 2):
        adapter = {"adapter": digest(before, "adapter"), "model": of_data["model"]}
        rejects = make_rejects(8)
        dropped = {
            f"dropped.{reason}": sum(each.reason == reason for each in rejects)
            for reason in ("equal", "profile_unparsed", "too_long")
        }
        margins = {"curve": [[step, 0.693 - number * step / 200] for step in range(1, 15)], "margins": [[step, number * step / 60] for step in range(1, 15)]}  # fmt: skip
        found += [
            make_manifest("generate", number, ["responses"], {"contexts": of_data["contexts"], **adapter}, counts={"read": 36}, tokens=9000, gpus=1, seconds=140.0, phases={"fetch": 3.0, "load": 14.0, "work": 123.0}),
            make_manifest("reflect", number, ["pairs", "rejects"], {"contexts": of_data["contexts"], "responses": digest(f"generate-{number}", "responses"), **adapter}, counts={"read": 36, "pairs": 28, **dropped}, metrics={"pair_similarity": 41.0 + 6 * number}, intervals={"pair_similarity": [38.0 + 6 * number, 45.0 + 6 * number]}, tokens=21_000, gpus=1, seconds=190.0, phases={"fetch": 3.0, "load": 14.0, "work": 173.0}),
            make_manifest("dpo", number, ["adapter"], {"pairs": digest(f"reflect-{number}", "pairs"), **adapter}, counts={"pairs": 28}, metrics={"heldout_margin": 0.3 * number, "heldout_accuracy": 61.0 + 4 * number}, details=margins, tokens=15_000, gpus=1, seconds=420.0, phases={"fetch": 3.0, "load": 15.0, "work": 402.0}, notes=[f"the reference was M{number - 1}"]),
        ]  # fmt: skip
        before = f"dpo-{number}"
    for number in range(3):
        maker = f"dpo-{number}" if number else "sft"
        found.append(make_manifest("evaluate", number, ["answers", "metrics"], {"test": of_data["test"], "adapter": digest(maker, "adapter"), "model": of_data["model"]}, counts={"read": 576, "kept": 36}, metrics=dict(FIGURES[number]), tokens=8700, gpus=1, seconds=95.0, phases={"fetch": 3.0, "load": 14.0, "work": 78.0}))  # fmt: skip
    return {each.stage: each for each in found}


FIGURES: Sequence[dict[str, float]] = (
    {"distinct1": 31.2, "distinct2": 71.4, "bleu2_ref": 4.11, "rougeL_ref": 12.9, "length_words": 17.8, "stock_phrase_rate": 38.9, "perplexity": 20.1, "question_rate": 8.3},
    {"distinct1": 33.0, "distinct2": 74.9, "bleu2_ref": 4.62, "rougeL_ref": 13.6, "length_words": 14.1, "stock_phrase_rate": 22.2, "perplexity": 19.4, "question_rate": 58.3, "kl_m0": 0.021},
    {"distinct1": 35.8, "distinct2": 80.6, "bleu2_ref": 5.02, "rougeL_ref": 14.8, "length_words": 19.5, "stock_phrase_rate": 2.8, "perplexity": 18.9, "question_rate": 86.1, "kl_m0": 0.064},
)  # fmt: skip
HUMAN = {"distinct1": 39.4, "distinct2": 84.0, "length_words": 17.3, "stock_phrase_rate": 1.9, "question_rate": 63.9}


def make_scores(number: int, **fields: Any) -> StoredScores:
    """metrics.json of one model."""
    values = FIGURES[number]
    asks = abs(values["question_rate"] - HUMAN["question_rate"]) > 20
    known = {
        "rows": 36,
        "metrics": values,
        "intervals": {name: [round(value * 0.93, 3), round(value * 1.07, 3)] for name, value in values.items()},
        "human": HUMAN,
        "figures": [],
        "signatures": [
            sign("stock_phrase_rate", number == 0, f"{values['stock_phrase_rate']:.0f} % of the answers have a stock phrase, of the human ones 2 %", "more than 10 points above the human answers"),
            sign("question_rate", asks, f"{values['question_rate']:.0f} % of the answers ask something, of the human ones 64 %", "more than 20 points from the human answers"),
            sign("openings", number == 0, "36 % of the answers begin with \"it sounds like\", of the human ones 0 %" if number == 0 else "no opening is over-represented against the human answers", "an opening of 3 words in at least 5 % of the answers", ["it sounds like (13 of 36, human 0)"] if number == 0 else []),
        ],
    }  # fmt: skip
    return StoredScores.stored(known | fields)


def sign(name: str, present: bool, sentence: str, threshold: str, examples: Sequence[str] = ()) -> dict[str, Any]:
    known = {"name": name, "value": 1.0, "human": 0.0, "threshold": threshold, "present": present, "sentence": sentence}
    return {**known, "examples": list(examples)}


def make_changes() -> list[Change]:
    found = []
    for model, factor in (("M1", 0.4), ("M2", 1.0)):
        sure = model == "M2"
        better, none = "better", "the interval of the difference includes zero"
        found += [
            Change("distinct2", "Distinct-2, %", "higher", model, "M0", 9.2 * factor, (9.2 * factor - 5, 9.2 * factor + 5), better if sure else none),
            Change("bleu2_ref", "BLEU-2 (reference)", "higher", model, "M0", 0.91 * factor, (-0.6, 2.1), none),
            Change("length_words", "answer length, words", "neither", model, "M0", 1.7 * factor, (-1.1, 4.2), none),
            Change("stock_phrase_rate", "answers with a stock phrase, %", "lower", model, "M0", -36.1 * factor, (-36.1 * factor - 9, -36.1 * factor + 9), better),
            Change("perplexity", "perplexity of the human answer", "lower", model, "M0", -1.2 * factor, (-1.2 * factor - 0.3, -1.2 * factor + 0.3), better),
        ]  # fmt: skip
    return found


def make_spec(**fields: Any) -> EvolutionRunSpec:
    return EvolutionRunSpec.model_validate(minimal_spec(**fields))


def make_status(phase: str = "Complete", **fields: Any) -> RunStatus:
    stages = [
        StageStatus(
            id=stage, name=each.kind, iteration=each.iteration, state="Succeeded", seconds=each.seconds, attempts=1
        )
        for stage, each in make_manifests().items()
    ]
    metrics = [IterationMetrics(iteration=number, figures=dict(values)) for number, values in enumerate(FIGURES)]
    known: dict[str, Any] = {"phase": phase, "stages": stages, "metrics": metrics, "champion": 2}
    return RunStatus(**known | fields)


def condition(type_: str, message: str) -> Condition:
    return Condition(type=type_, status="True", reason="Because", message=message, last_transition_time=MADE)  # type: ignore[arg-type]


def make_facts(**fields: Any) -> Facts:
    """The whole run; a test replaces what it is about."""
    known: dict[str, Any] = {
        **{"namespace": RUN.namespace, "name": RUN.name, "storage": "s3://evolution/runs", "made": MADE},
        "manifests": make_manifests(),
        "spec": make_spec(iterations=2),
        "status": make_status(),
        "scores": {number: make_scores(number) for number in range(3)},
        "answers": {f"M{number}": make_answers(number) for number in range(3)},
        "pairs": {1: make_pairs(), 2: make_pairs()},
        "rejects": {1: make_rejects(), 2: make_rejects()},
        "changes": make_changes(),
    }
    return Facts(**known | fields)
