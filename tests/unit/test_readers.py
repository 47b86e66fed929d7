"""From the layouts in which dialogues are published to turns."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.locations import DialogueMapping, Source
from evolution_jobs.contract.rows import Turn
from evolution_jobs.data.readers import BadRow, read_dialogue, read_instruction
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES = Path(__file__).parents[2] / "examples" / "quickstart" / "data"

MAPPING = DialogueMapping(
    turns="meta.turns",
    speaker="who",
    text="said.text",
    seeker=["0", "client"],
    supporter=["1", "true"],
    strategy="said.how",
)


def source(format_: str, mapping: DialogueMapping | None = None, **fields: Any) -> Source:
    return Source.model_validate({"uri": "file:///x.json", "format": format_, "mapping": mapping, **fields})


def brief(turns: list[Turn]) -> list[tuple[str, str, str | None]]:
    return [(turn.role, turn.text, turn.strategy) for turn in turns]


TWO = [("seeker", "I am sad.", None), ("supporter", "Why?", "Question")]


@pytest.mark.parametrize(
    ("format_", "record"),
    [
        (
            "esconv",
            {
                "dialog": [
                    {"text": "I am sad.", "speaker": "usr"},
                    {"text": "Why?", "speaker": "sys", "strategy": "Question"},
                ]
            },
        ),
        (
            "esconv",
            {
                "dialog": [
                    {"content": "I am sad.", "speaker": "seeker", "annotation": {}},
                    {"content": "Why?", "speaker": "supporter", "annotation": {"strategy": "Question"}},
                ]
            },
        ),
        (
            "extes",
            {
                "scene": "s",
                "description": "d",
                "content": [{"User": "I am sad."}, {"AI": "Why?", "AI Strategy": "Question"}],
            },
        ),
        # As Arrow unifies the turns of a hub data set.
        (
            "extes",
            {
                "content": [
                    {"User": "I am sad.", "AI": None, "AI Strategy": None},
                    {"User": None, "AI": "Why?", "AI Strategy": "Question"},
                ]
            },
        ),
        ("extes", {"content": [{"User": "I am sad.", "AI Strategy": "Question", "AI": "Why?"}]}),
        (
            "mapping",
            {
                "meta": {
                    "turns": [
                        {"who": 0, "said": {"text": "I am sad.", "how": "ignored: not the supporter's"}},
                        {"who": True, "said": {"text": "Why?", "how": "Question"}},
                    ]
                }
            },
        ),
    ],
)
def test_every_layout_gives_the_same_turns(format_: str, record: dict[str, Any]) -> None:
    turns, left_out = read_dialogue(record, source(format_, MAPPING if format_ == "mapping" else None))
    assert brief(turns) == TWO
    assert not left_out


@pytest.mark.parametrize(
    "content",
    [
        [{"user": "I am sad."}, {"ai": "Why?", "ai strategy": "Question"}],
        [{"User ": "I am sad."}, {"AI ": "Why?", "AI Strategy ": "Question"}],
        [{" USER": "I am sad.", "AI": None}, {"User": None, "Ai": "Why?", "AI strategy": "Question"}],
        [{"User": "I am sad.", "emotion": "sad"}, {"AI": "Why?", "AI Strategy": "Question"}],
    ],
)
def test_extes_is_read_in_the_spellings_that_occur(content: list[dict[str, Any]]) -> None:
    turns, _ = read_dialogue({"scene": "s", "description": "d", "content": content}, source("extes"))
    assert brief(turns) == TWO


def test_turns_of_extes_that_say_nothing_are_left_to_be_counted_as_empty() -> None:
    content = [{"User": "I am sad."}, {"AI": "", "AI Strategy": "Question"}, {"User": None, "AI": None}, {"AI": "Why?"}]
    turns, _ = read_dialogue({"content": content}, source("extes"))
    assert [turn.text for turn in turns] == ["I am sad.", "", "", "Why?"]
    for odd, words in (
        (None, "turn 2 is null"),
        ({}, "turn 2: neither User nor AI"),
        ({"AI": 3}, "turn 2: AI is a number"),
    ):
        with pytest.raises(BadRow) as caught:
            read_dialogue({"content": [{"User": "I am sad."}, odd]}, source("extes"))
        assert words in str(caught.value)
    narrated = [{"User": "I am sad."}, {"Narrator": "She sighs."}, {"AI": "Why?"}]
    reading = read_dialogue({"content": narrated}, source("extes", ignore=["narrator"]))
    assert ([turn.text for turn in reading.turns], dict(reading.left_out)) == (
        ["I am sad.", "Why?"],
        {"ignored.narrator": 1},
    )


def test_esconv_is_read_in_any_capitals() -> None:
    record = {"dialog": [{"speaker": "Seeker", "content": "I am sad."}, {"speaker": "SYS ", "content": "Why?"}]}
    turns, _ = read_dialogue(record, source("esconv"))
    assert [turn.role for turn in turns] == ["seeker", "supporter"]


def test_chat_messages_without_their_system_turns() -> None:
    record = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "I am sad."},
            {"role": "assistant", "content": "Why?"},
            {"role": "developer", "content": "Be brief."},
        ]
    }
    turns, left_out = read_dialogue(record, source("messages"))
    assert brief(turns) == [("seeker", "I am sad.", None), ("supporter", "Why?", None)]
    assert left_out == {"system": 2}


def test_chat_messages_in_text_parts() -> None:
    parts = [{"type": "text", "text": "I am"}, {"type": "text", "text": "sad."}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "Why?"}]}
    turns, _ = read_dialogue(record, source("messages"))
    assert brief(turns)[0] == ("seeker", "I am sad.", None)


def test_a_row_of_a_text_data_set_is_one_line_of_json() -> None:
    record = {"dialog": [{"text": "I am sad.", "speaker": "usr"}, {"text": "Why?", "speaker": "sys"}]}
    turns, _ = read_dialogue({"text": json.dumps(record)}, source("esconv"))
    assert len(turns) == 2


def test_a_key_that_occurs_twice_in_a_line_of_a_text_data_set_is_refused() -> None:
    with pytest.raises(BadRow, match="the key 'text' occurs twice"):
        read_dialogue({"text": '{"dialog": [{"text": "a", "text": "b", "speaker": "usr"}]}'}, source("esconv"))


@pytest.mark.parametrize(
    ("format_", "record", "words"),
    [
        ("esconv", [1], ["a list, not an object"]),
        ("esconv", {}, ["turns 'dialog' is not there"]),
        ("esconv", {"dialog": []}, ["the dialogue is empty"]),
        ("esconv", {"dialog": [{"text": "  ", "speaker": "usr"}]}, ["the dialogue is empty"]),
        ("esconv", {"dialog": "text"}, ["leads to text, not to a list"]),
        ("esconv", {"dialog": [{"text": "a", "speaker": "sys"}]}, ["no seeker turn"]),
        ("esconv", {"dialog": [{"text": "a", "speaker": "narrator"}]}, ["turn 1", "'narrator'", "none of seeker, usr"]),
        ("esconv", {"dialog": [{"text": 5, "speaker": "usr"}]}, ["turn 1", "text 'text' is a number, not text"]),
        ("esconv", {"dialog": [{"text": "\ud800", "speaker": "usr"}]}, ["turn 1", "surrogate"]),
        (
            "esconv",
            {"dialog": [{"text": "a", "speaker": "usr"}, {"text": "b", "speaker": "sys", "strategy": "\ud800"}]},
            ["turn 2", "strategy", "surrogate"],
        ),
        ("esconv", {"dialog": [7]}, ["turn 1 is a number, not an object"]),
        ("extes", {"content": [{"Narrator": "x"}]}, ["turn 1", "neither User nor AI", "Narrator"]),
        ("extes", {"content": ["x"]}, ["turn 1", "text"]),
        ("extes", {}, ["content is missing"]),
        (
            "messages",
            {"messages": [{"role": "tool", "content": "x"}]},
            ["turn 1", "'tool'", "none of user, human", "ignore: [tool]"],
        ),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["is a list, not text"]),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}]},
            ["is a list, not text"],
        ),
        ("messages", {}, ["messages is missing"]),
        ("mapping", {"meta": {}}, ["mapping.turns 'meta.turns' is not there"]),
        ("mapping", {"meta": {"turns": [{"who": 2, "said": {"text": "x"}}]}}, ["mapping.speaker 'who' holds '2'"]),
        ("mapping", {"meta": {"turns": [{"who": 0, "said": {}}]}}, ["turn 1", "mapping.text 'said.text' is not there"]),
        ("alpaca", {"instruction": "x"}, ["format alpaca has no dialogues"]),
    ],
)
def test_what_is_no_dialogue_is_refused_by_the_name_of_its_field(format_: str, record: Any, words: list[str]) -> None:
    with pytest.raises(BadRow) as caught:
        read_dialogue(record, source(format_, MAPPING if format_ == "mapping" else None))
    for word in words:
        assert word in str(caught.value)


def test_alpaca_samples() -> None:
    plain = read_instruction({"instruction": " Say hi. ", "input": "", "output": " Hi. "})
    assert (plain.prompt, plain.response) == ("Say hi.", "Hi.")
    with_input = read_instruction({"instruction": "Add.", "input": "1, 2", "output": "3"})
    assert with_input.prompt == "Add.\n\n1, 2"
    assert with_input.id != plain.id
    assert read_instruction({"instruction": "Say hi.", "output": "Hi."}) == plain
    assert read_instruction({"instruction": "Say hi.", "input": None, "output": "Hi."}) == plain


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"instruction": "x"}, "output is missing"),
        ({"output": "x"}, "instruction is missing"),
        ({"instruction": "x", "output": 3}, "output is a number"),
        ({"instruction": "x", "input": 7, "output": "y"}, "input is a number"),
        ({"instruction": "x", "output": None}, "output is missing"),
        ("x", "text, not an object"),
    ],
)
def test_what_is_no_instruction_is_refused(record: Any, word: str) -> None:
    with pytest.raises(BadRow, match=word):
        read_instruction(record)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "dialog",
                    "messages",
                    "conversations",
                    "content",
                    "text",
                    "speaker",
                    "role",
                    "from",
                    "value",
                    "weight",
                    "User",
                    "AI",
                    "meta",
                    "turns",
                    "\ud800",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["esconv", "extes", "messages", "sharegpt", "mapping", "alpaca"]))
def test_hostile_records_are_read_or_refused_and_never_crash(record: Any, format_: str) -> None:
    read = read_instruction if format_ == "alpaca" else lambda value: read_dialogue(value, source(format_, mapping))
    mapping = MAPPING if format_ == "mapping" else None
    with suppress(BadRow):
        assert read(record)


def test_the_example_dialogues_are_read() -> None:
    for name, count in {"seed": 34, "contexts": 14, "test": 10}.items():
        lines = (EXAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == count
        for line in lines:
            turns, _ = read_dialogue(json.loads(line), source("esconv"))
            assert {turn.role for turn in turns} == {"seeker", "supporter"}
            assert any(turn.strategy for turn in turns)
    replay = (EXAMPLES / "replay.jsonl").read_text("utf-8").splitlines()
    assert len({read_instruction(json.loads(line)).id for line in replay}) == 24
