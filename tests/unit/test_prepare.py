"""prepare as a whole: what it leaves from the example data, and what it refuses to leave."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.rows import Context, Dialogue, Instruction
from evolution_jobs.contract.settings import DataSettings
from evolution_jobs.contract.workspace import Result
from evolution_jobs.data.unseen import never_trained_on
from evolution_jobs.stages import prepare

from tests.support.stages.model_directory import model_directory
from tests.support.stages.workspace import LocalWorkspace

EXAMPLES = Path(__file__).parents[2] / "examples" / "quickstart" / "data"


def esconv(path: Path, **fields: Any) -> dict[str, Any]:
    return {"uri": path.as_uri(), "format": "esconv", **fields}


def record(*said: str) -> dict[str, Any]:
    """An ESConv record whose seeker speaks first."""
    return {"dialog": [{"speaker": ("usr", "sys")[at % 2], "text": text} for at, text in enumerate(said)]}


def talk(number: int, turns: int = 6) -> dict[str, Any]:
    rng = random.Random(number)
    return record(*(" ".join(f"w{rng.randrange(10**6)}" for _ in range(8)) for _ in range(turns)))


def lines(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), "utf-8")
    return path


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., LocalWorkspace]:
    """A workspace for prepare with these settings, a tiny model and the example data where nothing else is said."""
    model = model_directory(tmp_path / "model")

    def make(seed: int = 0, stop_after: int | None = None, **settings: Any) -> LocalWorkspace:
        values = {"seedData": [esconv(EXAMPLES / "seed.jsonl")], "baseModel": {"uri": model.as_uri()}, **settings}
        return LocalWorkspace(tmp_path / "run", "prepare", values, seed=seed, stop_after=stop_after)

    return make


WHOLE: dict[str, Any] = {
    "replay": [{"uri": (EXAMPLES / "replay.jsonl").as_uri(), "format": "alpaca", "samples": 10}],
    "contexts": [esconv(EXAMPLES / "contexts.jsonl")],
    "test": [esconv(EXAMPLES / "test.jsonl")],
    "contextSamples": 20,
    "contextsPerDialogue": 3,
}


def dialogues(result: Result, name: str) -> list[Dialogue]:
    return [Dialogue.model_validate_json(line) for line in result.outputs[name].read_text("utf-8").splitlines()]


def contexts(result: Result, name: str) -> list[Context]:
    return [Context.model_validate_json(line) for line in result.outputs[name].read_text("utf-8").splitlines()]


def digests(result: Result) -> dict[str, str]:
    files = {name: sorted(path.iterdir()) if path.is_dir() else [path] for name, path in result.outputs.items()}
    return {
        f"{name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for name in files for path in files[name]
    }


def refusal(workspace: LocalWorkspace) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        prepare.run(workspace)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_example_data(workspace: Callable[..., LocalWorkspace]) -> None:
    asked = workspace(**WHOLE)
    result = prepare.run(asked)
    assert list(result.outputs) == ["train", "validation", "replay", "contexts", "test", "model"]
    train, validation = dialogues(result, "train"), dialogues(result, "validation")
    assert (len(train), len(validation)) == (31, 3)
    assert len({each.id for each in [*train, *validation]}) == 34
    for each in [*train, *validation]:
        assert [turn.role for turn in each.turns] == (["seeker", "supporter"] * 99)[: len(each.turns)]
    replay = [
        Instruction.model_validate_json(line) for line in result.outputs["replay"].read_text("utf-8").splitlines()
    ]
    assert len(replay) == 10
    asks, tests = contexts(result, "contexts"), contexts(result, "test")
    assert len(asks) == 20
    per_dialogue = [sum(each.dialogue == other.dialogue for other in asks) for each in asks]
    assert max(per_dialogue) <= 3
    assert len({each.dialogue for each in tests}) == 10
    for context in [*asks, *tests]:
        assert len(context.turns) >= 3
        assert context.turns[-1].role == "seeker"
        assert context.human
    assert not {each.dialogue for each in asks} & {each.id for each in train}
    assert not {each.dialogue for each in tests} & {each.id for each in [*train, *validation]}
    counts = {name: result.counts[name] for name in ("train", "validation", "replay", "contexts", "test")}
    assert counts == {"train": 31, "validation": 3, "replay": 10, "contexts": 20, "test": len(tests)}
    assert (result.counts["seed.read"], result.counts["replay.read"]) == (34, 24)
    assert result.counts["turns.merged"] > 0
    assert result.counts["turns.greeting"] > 0
    assert result.details["testFrom"] == "data.test"
    pins = {Path(each["uri"]).name: each["sha256"] for each in result.details["sources"]}
    assert pins["seed.jsonl"] == hashlib.sha256((EXAMPLES / "seed.jsonl").read_bytes()).hexdigest()
    assert asked.reported[-1] == (6, 6, "parts")


def test_without_contexts_and_test_the_seed_data_stand_in(workspace: Callable[..., LocalWorkspace]) -> None:
    result = prepare.run(workspace(validationFraction=0.2))
    assert "replay" not in result.outputs
    train, validation = dialogues(result, "train"), dialogues(result, "validation")
    assert {each.dialogue for each in contexts(result, "contexts")} == {each.id for each in train}
    assert {each.dialogue for each in contexts(result, "test")} == {each.id for each in validation}
    assert "validation dialogues of data.seed" in result.details["testFrom"]
    assert "training dialogues of data.seed" in result.details["contextsFrom"]


def test_the_same_content_has_the_same_digests_wherever_it_lies(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    first = prepare.run(workspace(**WHOLE))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in EXAMPLES.glob("*.jsonl"):
        (moved / path.name).write_bytes(path.read_bytes())
    elsewhere = json.loads(json.dumps(WHOLE).replace(EXAMPLES.as_uri(), moved.as_uri()))
    again = prepare.run(workspace(**elsewhere, seedData=[esconv(moved / "seed.jsonl")]))
    assert digests(first) == digests(again)
    other = prepare.run(workspace(seed=1, **WHOLE))
    differing = {name for name, digest in digests(other).items() if digests(first)[name] != digest}
    assert differing == {
        "train/train.jsonl",
        "validation/validation.jsonl",
        "replay/replay.jsonl",
        "contexts/contexts.jsonl",
    }


def test_test_sets_keep_the_names_of_their_sources(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    other = lines(tmp_path / "other.jsonl", [talk(1), talk(2)])
    sources = [esconv(EXAMPLES / "test.jsonl", name="esconv"), esconv(other, name="talks"), esconv(other, name="again")]
    found = contexts(prepare.run(workspace(test=sources)), "test")
    of = {context.dialogue: context.set for context in found}
    assert Counter(of.values()) == {"esconv": len(of) - 2, "talks": 2}
    without = prepare.run(workspace(test=[esconv(EXAMPLES / "test.jsonl")]))
    assert b'"set"' not in without.outputs["test"].read_bytes()
    # Names of other sources are for people only.
    named = prepare.run(workspace(seedData=[esconv(EXAMPLES / "seed.jsonl", name="esconv")]))
    assert digests(named) == digests(prepare.run(workspace()))


def test_sets_of_data_that_is_never_trained_on_are_marked(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    other = lines(tmp_path / "other.jsonl", [talk(1), talk(2)])
    sources = [esconv(EXAMPLES / "test.jsonl", name="esconv"), esconv(other, name="talks")]
    seed = [esconv(EXAMPLES / "seed.jsonl", name="esconv")]
    result = prepare.run(workspace(seedData=seed, test=sources))
    assert result.details["neverTrainedOn"] == ["talks"]
    assert [note for note in result.notes if "test set talks: never trained on" in note]
    assert {(each.set, each.never_trained_on) for each in contexts(result, "test")} == {
        ("esconv", None),
        ("talks", True),
    }
    nameless = prepare.run(workspace(seedData=seed, test=[esconv(other)]))
    assert "neverTrainedOn" not in nameless.details
    assert b"neverTrainedOn" not in nameless.outputs["test"].read_bytes()


@pytest.mark.parametrize(
    ("trained", "tested", "unseen"),
    [
        ({}, {}, False),
        ({"split": "train"}, {"split": "test"}, False),
        ({"config": "a"}, {"config": "b", "revision": "v2"}, False),
        ({"uri": "hf://owner/other"}, {}, True),
        ({"uri": "hf://owner/data-2"}, {}, True),
        ({"uri": "hf://owner/other", "name": "set"}, {}, False),
        ({"uri": "hf://owner/other", "name": "another"}, {}, True),
        ({"uri": "s3://bucket/data/"}, {"uri": "s3://bucket/data/test.jsonl"}, False),
        ({"uri": "file:///data/train.jsonl"}, {"uri": "file:///data/test.jsonl"}, True),
    ],
)
@pytest.mark.parametrize("role", ["seed", "replay", "contexts"])
def test_another_part_of_a_data_set_that_is_trained_on_is_not_never_trained_on(
    role: str, trained: dict[str, str], tested: dict[str, str], unseen: bool
) -> None:
    source = {"uri": "hf://owner/data", "format": "alpaca" if role == "replay" else "esconv"}
    settings = DataSettings.model_validate(
        {
            "seed": [{"uri": "hf://nobody/else", "format": "esconv"}],
            role: [{**source, **trained}],
            "test": [
                {"uri": "hf://owner/third", "format": "extes", "name": "set"},
                {**source, "format": "extes", **tested, "name": "set"},
            ],
        }
    )
    assert never_trained_on(settings) == (["set"] if unseen else [])


def test_rows_are_one_a_line_in_utf_8(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [record("Ich bin müde\u2028heute 😊", "Warum?"), talk(1), talk(2)])
    result = prepare.run(workspace(seedData=[esconv(path)]))
    text = result.outputs["train"].read_bytes() + result.outputs["validation"].read_bytes()
    assert text.count(b"\n") == 3
    assert "müde heute 😊".encode() in text


def test_a_test_conversation_in_the_seed_data_is_refused_by_name(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    copied = json.loads((EXAMPLES / "seed.jsonl").read_text("utf-8").splitlines()[6])
    for turn in copied["dialog"]:
        turn["text"] = turn["text"].replace("the", "a").replace("I am", "I'm").upper()
    others = (EXAMPLES / "test.jsonl").read_text("utf-8").splitlines()
    path = lines(tmp_path / "mine.jsonl", [*map(json.loads, others), copied])
    error = refusal(workspace(test=[esconv(path)]))
    assert error.reason == "DataLeak"
    assert "data.test hold 1 of 11 conversations" in str(error)
    assert "mine.jsonl line 11 is seed.jsonl line 7 of data.seed" in str(error)


def test_a_test_conversation_among_the_contexts_is_refused(workspace: Callable[..., LocalWorkspace]) -> None:
    same = [esconv(EXAMPLES / "test.jsonl")]
    error = refusal(workspace(test=same, contexts=same))
    assert error.reason == "DataLeak"
    assert "hold 10 of 10" in str(error)
    assert str(error).count("of data.contexts (100% shared)") == 10


@pytest.mark.parametrize("tested", [True, False])
def test_a_test_conversation_among_the_replay_samples_is_refused(
    tested: bool, workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    """As a prompt that holds the history: the common way to make instruction samples of dialogues."""
    held = EXAMPLES / ("test.jsonl" if tested else "seed.jsonl")
    samples = []
    for line in held.read_text("utf-8").splitlines():
        *history, answer = (turn["text"] for turn in json.loads(line)["dialog"])
        samples.append({"instruction": "Go on:\n" + "\n".join(history), "output": answer})
    replay = [{"uri": lines(tmp_path / "replay.jsonl", samples).as_uri(), "format": "alpaca"}]
    error = refusal(workspace(replay=replay, **({"test": [esconv(held)]} if tested else {})))
    assert error.reason == "DataLeak"
    assert f"{held.name} line 1 is replay.jsonl line 1 of data.replay" in str(error) or not tested
    assert str(error).count("of data.replay") == (10 if tested else 3)


def test_only_the_first_leaks_are_listed(workspace: Callable[..., LocalWorkspace]) -> None:
    error = refusal(workspace(test=[esconv(EXAMPLES / "seed.jsonl")]))
    assert "hold 34 of 34" in str(error)
    assert "and 24 more" in str(error)


def test_validation_dialogues_that_stand_in_for_tests_must_not_be_contexts(
    workspace: Callable[..., LocalWorkspace],
) -> None:
    error = refusal(workspace(contexts=[esconv(EXAMPLES / "seed.jsonl")]))
    assert error.reason == "DataLeak"
    assert "the validation dialogues of data.seed, which stand in for data.test," in str(error)


def test_near_duplicates_within_the_seed_data_stay_on_one_side(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    """Else the validation dialogues that stand in for tests would leak, and nobody could say why."""
    twins = [talk(number) for number in range(20)]
    for number in range(20):
        twin = talk(number)
        twin["dialog"][-1]["text"] = "and something else"
        twins.append(twin)
    result = prepare.run(workspace(seedData=[esconv(lines(tmp_path / "x.jsonl", twins))], validationFraction=0.3))
    assert result.counts["seed.nearDuplicates"] == 20
    first = {name: {each.turns[0].text for each in dialogues(result, name)} for name in ("train", "validation")}
    assert not first["train"] & first["validation"]
    assert (result.counts["train"], result.counts["validation"]) == (28, 12)


def test_what_is_left_out_is_counted(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        [
            talk(1),
            talk(1),
            talk(2),
            talk(3),
            record("Hello!", "Hi, how are you?"),
            record("Nobody answers me"),
            record("Hi", "What is wrong?", "I am tired", "Why is that?"),
            {"dialog": [{"speaker": "usr", "text": ""}, *talk(4)["dialog"]]},
        ],
    )
    result = prepare.run(workspace(seedData=[esconv(path)], test=[esconv(EXAMPLES / "test.jsonl")]))
    kept = [*dialogues(result, "train"), *dialogues(result, "validation")]
    assert sorted(each.source for each in kept) == [f"x.jsonl line {line}" for line in (1, 3, 4, 7, 8)]
    expected = {
        "seed.read": 8,
        "dropped.duplicate": 1,
        "dropped.only_greetings": 1,
        "dropped.no_answer": 1,
        "dropped.short_history": 1,
    }
    assert {name: result.counts[name] for name in expected} == expected
    (seed, _) = result.details["sources"]
    assert seed["counts"]["kept"] == 5
    assert seed["counts"]["turns.leading_supporter"] == 1
    assert seed["counts"]["turns.empty"] == 1


def test_samples_are_drawn_by_seed_from_what_is_left(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [talk(1), *(talk(number) for number in range(40))])
    drawn = [
        sorted(each.source for name in ("train", "validation") for each in dialogues(result, name))
        for result in (
            prepare.run(workspace(seed=seed, seedData=[esconv(path, samples=12)], test=WHOLE["test"]))
            for seed in (1, 1, 2)
        )
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == len(drawn[2]) == 12


BAD = [b'{"dialog": [', b'{"dialog": []}', b"\xff\xfe", b'{"dialog": [{"speaker": "narrator", "text": "x"}]}']


def test_a_bad_row_refuses_the_run_and_is_named(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [talk(1), talk(2)])
    good = path.read_bytes()
    for bad, words in zip(BAD, ("not JSON", "is empty", "not UTF-8", "'narrator'"), strict=True):
        path.write_bytes(good + bad + b"\n" + good)
        error = refusal(workspace(seedData=[esconv(path)]))
        assert error.reason == "DataMalformed"
        assert f"data.seed[0]: {path.as_uri()} line 3: " in str(error)
        assert words in str(error)
        assert "data.onBadRow: skip" in str(error)


def test_bad_rows_are_skipped_counted_and_named_where_that_is_asked(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    path = lines(tmp_path / "x.jsonl", [talk(1), talk(2)])
    path.write_bytes(path.read_bytes() + b"\n".join(BAD * 8))
    result = prepare.run(workspace(seedData=[esconv(path)], test=WHOLE["test"], onBadRow="skip"))
    assert result.counts["dropped.bad_row"] == 32
    assert len(result.details["badRows"]) == 20
    assert f"data.seed[0]: {path.as_uri()} line 3: not JSON" in result.details["badRows"][0]


def test_a_list_that_is_cut_off_is_refused_even_where_bad_rows_are_skipped(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([talk(1), talk(2)])[:-20], "utf-8")
    error = refusal(workspace(seedData=[esconv(path)], onBadRow="skip"))
    assert (error.reason, "cut off" in str(error)) == ("DataMalformed", True)


@pytest.mark.parametrize(
    ("settings", "reason", "words"),
    [
        ({"seedData": [{"uri": "file:///there/is/none.jsonl", "format": "esconv"}]}, "DataMissing", "data.seed[0]"),
        ({"test": [esconv(EXAMPLES / "test.jsonl", sha256="0" * 64)]}, "ChecksumMismatch", "data.test[0].sha256"),
        ({"minHistoryTurns": 99}, "DataEmpty", "data.minHistoryTurns"),
        ({"baseModel": {"uri": "file:///there/is/none"}}, "ModelMissing", "baseModel"),
        (
            {"contexts": [esconv(EXAMPLES / "seed.jsonl") | {"format": "extes"}], "onBadRow": "skip"},
            "DataEmpty",
            "data.contexts: none of 34 records is left (34 dropped.bad_row); the first bad row: data.contexts[0]",
        ),
        ({"seedData": [esconv(EXAMPLES / "seed.jsonl", samples=1)]}, "DataEmpty", "at least two different dialogues"),
    ],
)
def test_what_cannot_be_prepared_is_refused_by_its_field(
    workspace: Callable[..., LocalWorkspace], settings: dict[str, Any], reason: str, words: str
) -> None:
    error = refusal(workspace(**settings))
    assert error.reason == reason
    assert words in str(error)


def test_labels_are_kept_with_test_contexts_alone_and_only_if_asked_for(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    asked = ["emotion_type", "survey_score.seeker.empathy"]
    plain, labelled = (
        {
            name: path.read_text("utf-8")
            for name, path in prepare.run(workspace(**WHOLE, **more)).outputs.items()
            if path.is_file()
        }
        for more in ({}, {"labels": asked})
    )
    assert {name for name in plain if plain[name] != labelled[name]} == {"test"}
    found = [json.loads(line) for line in labelled["test"].splitlines()]
    # One dialogue's seeker has not answered the survey.
    assert {tuple(row["labels"]) for row in found} == {tuple(asked), tuple(asked[:1])}
    assert "anxiety" in {row["labels"]["emotion_type"] for row in found}
    assert [{name: row[name] for name in row if name != "labels"} for row in found] == [
        json.loads(line) for line in plain["test"].splitlines()
    ]


def test_validation_dialogues_that_stand_in_for_a_test_set_have_labels_too(
    workspace: Callable[..., LocalWorkspace], tmp_path: Path
) -> None:
    records = [{**talk(number), "mood": number} if number % 2 else talk(number) for number in range(1, 9)]
    seed = {"seedData": [esconv(lines(tmp_path / "x.jsonl", records))], "validationFraction": 0.5}
    result = prepare.run(workspace(**seed, labels=["mood"]))
    known = [each.labels for each in contexts(result, "test")]
    assert None in known
    assert {"mood": "1"} in known or {"mood": "3"} in known or {"mood": "5"} in known or {"mood": "7"} in known
    assert 0 < result.counts["labelled.mood"] < 4
    assert "labels" not in result.outputs["validation"].read_text("utf-8")


def test_a_label_that_no_test_dialogue_has_is_refused(workspace: Callable[..., LocalWorkspace]) -> None:
    error = refusal(workspace(**WHOLE, labels=["emotion_type", "emotoin"]))
    assert error.reason == "LabelsMissing"
    assert "data.test: none of" in str(error)
    assert "'emotoin'" in str(error)


def test_an_optional_label_is_kept_where_it_is_and_missed_nowhere(workspace: Callable[..., LocalWorkspace]) -> None:
    result = prepare.run(workspace(**WHOLE, labels=["emotion_type"], optionalLabels=["situation", "diary"]))
    found = [each.labels or {} for each in contexts(result, "test")]
    assert {tuple(each) for each in found} == {("emotion_type", "situation")}
    dialogues_of = {each.dialogue for each in contexts(result, "test")}
    assert result.counts["labelled.situation"] == result.counts["labelled.emotion_type"] == len(dialogues_of)
    assert result.counts["labelled.diary"] == 0


def test_an_empty_file_is_refused(workspace: Callable[..., LocalWorkspace], tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [])
    error = refusal(workspace(seedData=[esconv(EXAMPLES / "seed.jsonl"), esconv(path)]))
    assert (error.reason, str(error)) == ("DataEmpty", f"data.seed[1]: {path.as_uri()} has no records")


def test_asked_to_stop_it_stops(workspace: Callable[..., LocalWorkspace]) -> None:
    for checks in range(1, 5):
        with pytest.raises(Terminated):
            prepare.run(workspace(stop_after=checks, **WHOLE))
