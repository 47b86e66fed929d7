"""Chats of instruction-tuned models: who speaks, what is left out, and which answers are history only."""

from typing import Any

import pytest
from evolution_jobs.contract.locations import Source
from evolution_jobs.data.load import _dialogue
from evolution_jobs.data.readers import BadRow, read_dialogue
from pydantic import ValidationError

ASK, ANSWER = {"from": "human", "value": "I am sad."}, {"from": "gpt", "value": "Why?"}


def source(format_: str = "sharegpt", **fields: Any) -> Source:
    return Source.model_validate({"uri": "file:///x.json", "format": format_, **fields})


def share(*turns: dict[str, Any] | None, **record: Any) -> dict[str, Any]:
    return {"id": "x", "conversations": list(turns), **record}


def said(record: dict[str, Any], source_: Source) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in read_dialogue(record, source_).turns]


TWO = [("seeker", "I am sad."), ("supporter", "Why?")]


@pytest.mark.parametrize("format_", ["sharegpt", "messages"])
@pytest.mark.parametrize(
    "record",
    [
        share(ASK, ANSWER),
        share({"from": "User", "value": "I am sad."}, {"from": " GPT ", "value": "Why?"}),
        share({"from": "human", "value": "I am sad."}, {"from": "chatgpt", "value": "Why?"}),
        share({"role": "user", "content": "I am sad."}, {"role": "assistant", "content": "Why?"}),
        {"conversation": [ASK, ANSWER]},
        {"messages": [ASK, ANSWER]},
        {"messages": [{"role": "user", "content": "I am sad."}, {"role": "assistant", "content": "Why?"}]},
        {"messages": None, "conversations": [ASK, ANSWER]},
    ],
)
def test_both_formats_read_the_keys_that_occur_in_the_wild(format_: str, record: dict[str, Any]) -> None:
    assert said(record, source(format_)) == TWO


def test_system_turns_are_left_out_and_counted_wherever_they_stand() -> None:
    system = {"from": "system", "value": "Be kind."}
    reading = read_dialogue(share(system, ASK, ANSWER, system, ASK, system="Be brief."), source())
    assert [turn.text for turn in reading.turns] == ["I am sad.", "Why?", "I am sad."]
    assert reading.left_out == {"system": 3}


TOOLS = share(
    ASK,
    {"from": "function_call", "value": "{}"},
    {"from": "observation", "value": "2"},
    ANSWER,
    {"from": "gpt", "value": ""},
)


def test_tool_turns_are_a_bad_row_unless_they_are_declared() -> None:
    with pytest.raises(BadRow) as caught:
        read_dialogue(TOOLS, source())
    for word in (
        "turn 2",
        "'function_call'",
        "ignore: [function_call]",
        "ignore: [function_call, observation] would read",
    ):
        assert word in str(caught.value)
    reading = read_dialogue(TOOLS, source(ignore=["function_call", "observation"]))
    assert [turn.text for turn in reading.turns] == ["I am sad.", "Why?", ""]
    assert reading.left_out == {"ignored.function_call": 1, "ignored.observation": 1}


def test_an_answer_that_only_calls_a_tool_is_a_tool_turn() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    record = {
        "messages": [
            {"role": "user", "content": "I am sad."},
            call,
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "Why?"},
        ]
    }
    with pytest.raises(BadRow, match=r"turn 2 calls a tool and says nothing; ignore: \[tool\]"):
        read_dialogue(record, source("messages"))
    reading = read_dialogue(record, source("messages", ignore=["tool"]))
    assert [turn.text for turn in reading.turns] == ["I am sad.", "Why?"]
    assert reading.left_out == {"ignored.tool": 2}


def test_what_is_ignored_in_a_mapping_must_be_no_speaker_of_it() -> None:
    mapping = {"turns": "t", "speaker": "who", "text": "said", "seeker": ["a"], "supporter": ["b"]}
    turns = [{"who": name, "said": name} for name in ("a", "system", "b", "N")]
    reading = read_dialogue({"t": turns}, source("mapping", mapping=mapping, ignore=["system", "N"]))
    assert [turn.text for turn in reading.turns] == ["a", "b"]
    assert reading.left_out == {"system": 1, "ignored.N": 1}
    with pytest.raises(ValidationError, match="shares a value"):
        source("mapping", mapping=mapping, ignore=["b"])
    with pytest.raises(ValidationError, match="dialogues only"):
        source("alpaca", ignore=["b"])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (share(ASK, None, ANSWER), "turn 2 is null, not an object"),
        ({"messages": '[{"role": "user"}]'}, "is text that holds JSON, not a list"),
        ({"messages": 3}, "leads to a number, not to a list"),
        (share({"value": "x"}), "speaker 'from' is not there"),
        (share({"from": "human"}), "text 'value' is not there"),
        (share({"from": "human", "value": None}), "text 'value' is null, not text"),
        (share({"from": "human", "value": "a\0b"}), "NUL character"),
        (share({"from": "human", "value": [{"type": "image"}]}), "found image"),
        ({}, "conversations is missing"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_turn(record: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_dialogue(record, source())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"train": False},
        {"trainable": False},
        {"training": False},
        {"loss_mask": 0},
        {"loss": False},
        {"masked": True},
        {"weight": 1, "train": False},
    ],
)
@pytest.mark.parametrize("format_", ["sharegpt", "messages", "mapping", "esconv"])
def test_a_marked_answer_is_history_only(format_: str, mark: dict[str, Any]) -> None:
    ask, answer = ASK, ANSWER
    key, fields = "conversations", {}
    if format_ == "mapping":
        fields["mapping"] = {
            "turns": key,
            "speaker": "from",
            "text": "value",
            "seeker": ["human"],
            "supporter": ["gpt"],
        }
    if format_ == "esconv":
        key = "dialog"
        ask, answer = {"speaker": "usr", "text": "I am sad."}, {"speaker": "sys", "text": "Why?"}
    turns = read_dialogue({key: [ask, answer | mark, ask | mark, answer]}, source(format_, **fields)).turns
    assert [turn.learnt for turn in turns] == [None, False, None, None]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"weight": None}, {"train": True}, {"loss_mask": 1}, {"loss": 1.7}])
def test_an_answer_that_is_to_be_learnt_carries_no_mark(mark: dict[str, Any]) -> None:
    turns = read_dialogue(share(ASK, ANSWER | mark), source()).turns
    assert [turn.learnt for turn in turns] == [None, None]
    assert "learnt" not in turns[1].wire()


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ({"weight": 0.5}, "turn 2: weight '0.5' is not supported"),
        ({"weight": "0"}, "turn 2: weight '0' is not supported"),
        ({"weight": -1}, "write 0 (history only) or 1 (learnt)"),
        ({"train": "no"}, "turn 2: train 'no'"),
        ({"train_detail": [{"train": False}]}, "train_detail marks parts of a turn"),
    ],
)
def test_a_mark_that_says_neither_is_refused(mark: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRow) as caught:
        read_dialogue(share(ASK, ANSWER | mark), source())
    assert words in str(caught.value)


def test_a_record_may_mark_its_turns() -> None:
    answers = [ASK, ANSWER, ASK, ANSWER]
    for marks in ({"loss_mask": [0, 0, 0, 1]}, {"train": [True, False, True, True]}):
        turns = read_dialogue(share(*answers, **marks), source()).turns
        assert [turn.learnt for turn in turns] == [None, False, None, None]
    turns = read_dialogue(share(*answers, weight=0), source()).turns
    assert [turn.learnt for turn in turns] == [None, False, None, False]
    # A weight of the record itself may be its share in a mixture.
    assert all(turn.learnt is None for turn in read_dialogue(share(*answers, weight=0.3), source()).turns)


def test_what_is_history_only_is_counted_and_a_dialogue_without_anything_to_learn_is_dropped() -> None:
    from collections import Counter

    tally: Counter[str] = Counter()
    cruel = {"from": "gpt", "value": "Stop it.", "weight": 0}
    row = _dialogue(share(ASK, cruel, ANSWER, {"from": "human", "value": "Fine."}, ANSWER), source(), "here", tally)
    assert not isinstance(row, str)
    assert [turn.learnt for turn in row.turns] == [None, False, None, None]
    assert tally == {"turns.merged": 1, "turns.unlearnt": 1, "turns.unlearnt_by_merge": 1}
    assert _dialogue(share(ASK, cruel), source(), "here", Counter()) == "nothing_learnt"
