"""A record that its format cannot read: the message proposes what would read it, ready to paste."""

from contextlib import suppress
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.locations import Source
from evolution_jobs.data.readers import BadRow, read_dialogue
from hypothesis import given
from hypothesis import strategies as st


def source(format_: str, **fields: Any) -> Source:
    return Source.model_validate({"uri": "file:///x.json", "format": format_, **fields})


def refusal(record: dict[str, Any], format_: str = "esconv", **fields: Any) -> str:
    with pytest.raises(BadRow) as caught:
        read_dialogue(record, source(format_, **fields))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def talk(*names: Any, speaker: str = "speaker", text: str = "text", **extra: Any) -> list[dict[str, Any]]:
    return [
        {speaker: names[at % len(names)], text: f"Something is said here, number {at}.", **extra} for at in range(6)
    ]


@pytest.mark.parametrize(
    ("record", "seeker", "supporter"),
    [
        ({"dialog": talk("client", "therapist")}, ["client"], ["therapist"]),
        ({"dialog": talk("therapist", "client")}, ["client"], ["therapist"]),
        ({"dialog": talk("Help-Seeker", "Listener", text="content", annotation={})}, ["Help-Seeker"], ["Listener"]),
        ({"dialog": talk("Ann", "therapist")}, ["Ann"], ["therapist"]),
        ({"dialog": talk(0, 1)}, ["0"], ["1"]),
        ({"dialog": talk("yes", "no")}, ["yes"], ["no"]),
        ({"dialogue": talk("user", "system", speaker="who", text="utterance")}, ["user"], ["system"]),
        ({"meta": {"turns": talk("patient", "doctor", topic="work")}}, ["patient"], ["doctor"]),
        ({"turns": [{"by": {"name": n}, "said": {"text": f"{n} says"}} for n in "ABAB"]}, ["A"], ["B"]),
    ],
)
def test_the_mapping_that_would_read_the_record_is_ready_to_paste(
    record: dict[str, Any], seeker: list[str], supporter: list[str]
) -> None:
    message = refusal(record)
    pasted = yaml.safe_load("{" + message.partition("format: mapping, ")[2] + "}")
    assert (pasted["mapping"]["seeker"], pasted["mapping"]["supporter"]) == (seeker, supporter)
    turns, _ = read_dialogue(record, source("mapping", **pasted))
    assert {turn.role for turn in turns} == {"seeker", "supporter"}
    assert ("is a guess" in message) == (
        not {"client", "Listener", "therapist", "user", "patient"} & {*seeker, *supporter}
    )


def test_a_strategy_is_found_and_a_third_speaker_is_left_out() -> None:
    turns = [
        {"speaker": "client", "content": "I am sad."},
        {"speaker": "narrator", "content": "She sighs."},
        {"speaker": "counselor", "content": "Why?", "annotation": {"strategy": "Question"}},
        {"speaker": "client", "content": "I lost my job."},
    ]
    pasted = yaml.safe_load("{" + refusal({"dialog": turns}).partition("format: mapping, ")[2] + "}")
    assert pasted["ignore"] == ["narrator"]
    found = read_dialogue({"dialog": turns}, source("mapping", **pasted)).turns
    assert [turn.strategy for turn in found] == [None, "Question", None]


@pytest.mark.parametrize(
    ("record", "format_", "proposed"),
    [
        ({"messages": talk("user", "assistant", speaker="role", text="content")}, "esconv", "format: messages would"),
        ({"conversations": talk("human", "gpt", speaker="from", text="value")}, "esconv", "format: sharegpt would"),
        ({"dialog": talk("usr", "sys")}, "messages", "format: esconv would read this record"),
        ({"content": [{"User": "a"}, {"AI": "b"}]}, "messages", "format: extes would read this record"),
        ({"instruction": "a", "output": "b"}, "messages", "move the source to data.replay, with format: alpaca"),
    ],
)
def test_another_format_that_would_read_the_record_is_named(
    record: dict[str, Any], format_: str, proposed: str
) -> None:
    assert proposed in refusal(record, format_)


def test_a_mapping_is_extended_so_that_it_still_reads_other_records() -> None:
    own = {
        "turns": "t",
        "speaker": "who",
        "text": "said",
        "seeker": ["guest"],
        "supporter": ["host"],
        "records": "rows",
    }
    record = {"t": [{"who": name, "said": f"{name} says this"} for name in ("guest", "bot", "guest")]}
    pasted = yaml.safe_load("{" + refusal(record, "mapping", mapping=own).partition("format: mapping, ")[2] + "}")
    assert pasted["mapping"] == own | {"supporter": ["host", "bot"]}


def test_nothing_is_proposed_where_leaving_out_a_speaker_is_enough() -> None:
    record = {"dialog": [{"speaker": name, "text": f"{name} says this"} for name in ("usr", "sys", "narrator", "usr")]}
    message = refusal(record)
    assert "ignore: [narrator] leaves such turns out" in message
    assert "mapping" not in message
    assert read_dialogue(record, source("esconv", ignore=["narrator"])).left_out == {"ignored.narrator": 1}


def test_nothing_is_proposed_that_would_not_read_the_record() -> None:
    for record in ({}, {"dialog": []}, {"dialog": [*talk("usr", "sys")[:1], {}]}, {"x": [{"a": 1}, {"a": 2}]}):
        assert "would read" not in refusal(record)


keys = st.sampled_from(["dialog", "turns", "speaker", "text", "a.b", "", "\ud800", "k" * 300])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["usr", "sys", "client", "", "\ud800", "x" * 300]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=16,
)


@given(st.dictionaries(keys, json_values, max_size=3))
def test_no_record_makes_the_search_fail(record: dict[str, Any]) -> None:
    with suppress(BadRow):
        read_dialogue(record, source("esconv"))
