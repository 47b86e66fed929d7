"""Records of JSON and JSON Lines: every fault has its place."""

import json
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.data import records
from evolution_jobs.data.record import Record
from evolution_jobs.data.records import read_records
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.json"


def read(path: Path, content: str | bytes, root: str | None = None) -> list[Record]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_records(path, "data.seed[0]", root))


def refusal(path: Path, content: str | bytes, root: str | None = None) -> str:
    with pytest.raises(PermanentError) as caught:
        read(path, content, root)
    assert caught.value.reason == "DataMalformed"
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ('{"a": 1}\n{"a": 2}\n', ["line 1", "line 2"]),
        ('{"a": 1}\n\n  \n{"a": 2}', ["line 1", "line 4"]),
        ('[{"a": 1}, {"a": 2}]', ["record 1", "record 2"]),
        ('\ufeff {"a": 1}\n{"a": 2}\n', ["line 1", "line 2"]),
        ('\ufeff\n [\n{"a": 1}\n,{"a": 2}\n]\n\n', ["record 1", "record 2"]),
    ],
)
def test_the_layout_follows_from_the_first_character(path: Path, content: str, places: list[str]) -> None:
    found = read(path, content)
    assert [record.value for record in found] == [{"a": 1}, {"a": 2}]
    assert [record.place for record in found] == places


@pytest.mark.parametrize("content", ["", "\n\n", "[]", " [ ] "])
def test_an_empty_file_has_no_records(path: Path, content: str) -> None:
    assert read(path, content) == []


def test_a_list_below_a_path(path: Path) -> None:
    found = read(path, '{"meta": {"rows": [{"a": 1}]}}', "meta.rows")
    assert [(record.place, record.value) for record in found] == [("record 1", {"a": 1})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 16"),
        (b'{"a": 2, "a": 3}', "the key 'a' occurs twice"),
        (b'{"a": [1e999]}', "too large"),
    ],
)
def test_a_broken_line_is_named_and_the_next_is_read(path: Path, line: bytes, reason: str) -> None:
    found = read(path, b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    assert [record.value for record in found if record.error is None] == [{"a": 1}, {"a": 3}]
    (bad,) = (record for record in found if record.error is not None)
    assert bad.place == "line 2"
    assert reason in str(bad.error)


def test_a_last_line_without_end_is_said_to_be_cut_off(path: Path) -> None:
    *_, last = read(path, '{"a": 1}\n{"a": "tw')
    assert last == Record("line 2", error="the file ends inside this record: it was cut off")


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        ('[{"a": 1},\n {"a": 2', ["line 2", "cut off"]),
        ('[{"a": 1},\n {"a": "tw', ["line 2", "cut off"]),
        ('[{"a": 1}\n', ["cut off"]),
        ('[{"a": 1},\n\n {"a": }]', ["line 3, column 8: not JSON: something is missing before '}'"]),
        ('[{"a": 1}\n {"a": 2}]', ["line 2, column 2: not JSON: a comma is missing"]),
        ('[{"a": 1}]\n{"a": 2}\n', ["line 2, column 1: not JSON: a second value behind the first"]),
        ('[{"a": 1},\n {"a": 2},\n]', ["line 3, column 1: not JSON: a comma too many before the list's end"]),
        ("[" * 100_000, ["nested too deeply"]),
        (b'\xef\xbb\xbf[{"a": "\xe9"}]', ["not UTF-8 at byte 11"]),
        (b'[{"a": "\xe2\x82', ["not UTF-8 at byte 8"]),
    ],
)
def test_a_broken_list_is_refused_with_its_place(path: Path, content: str | bytes, reasons: list[str]) -> None:
    message = refusal(path, content)
    assert message.startswith("data.seed[0]: ")
    for reason in reasons:
        assert reason in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"rows": [1', "line 1: the file ends inside the JSON document: it was cut off"),
        ('{"other": []}', "mapping.records 'rows': the file has no 'rows' there"),
        ('{"rows": {"a": 1}}', "mapping.records 'rows' leads to an object, not to a list"),
        ("[]", "mapping.records 'rows'"),
        ('{"rows": [], "rows": []}', "the key 'rows' occurs twice"),
    ],
)
def test_a_path_that_leads_to_no_list_is_refused(path: Path, content: str, reason: str) -> None:
    assert reason in refusal(path, content, "rows")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\u00e9\U0001f600", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(values, max_size=8), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_list_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, items: list[object], indent: int | str | None, ascii_: bool
) -> None:
    path = tmp_path_factory.mktemp("records") / "data.json"
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=ascii_), "utf-8")
    assert [record.value for record in read_records(path, "x")] == items


@pytest.mark.parametrize("root", [None, "rows"])
def test_a_large_json_document_is_refused_and_large_json_lines_are_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    monkeypatch.setattr(records, "JSON_LIMIT", 20)
    document = [{"a": 1}, {"a": 2}, {"a": 3}]
    message = refusal(path, json.dumps(document if root is None else {"rows": document}), root)
    assert "convert it to JSON Lines" in message
    assert len(read(path, '{"a": 1}\n' * 3)) == 3


@given(st.lists(values, min_size=1, max_size=4), st.data())
def test_a_list_that_is_cut_off_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, items: list[object], data: st.DataObject
) -> None:
    text = json.dumps(items, ensure_ascii=False).encode()
    path = tmp_path_factory.mktemp("records") / "data.json"
    path.write_bytes(text[: data.draw(st.integers(1, len(text) - 1))])
    with pytest.raises(PermanentError, match=r"cut off|not UTF-8|not JSON"):
        list(read_records(path, "x"))


@pytest.mark.parametrize("extra", ['"a": 2, "a": 3', '"a": NaN', '"a": ' + "9" * 5000, '"a": -1e999'])
def test_a_record_of_a_list_that_holds_no_json_value_is_named_and_the_next_is_read(path: Path, extra: str) -> None:
    found = read(path, f'[{{"a": 1}}, {{"b": [{{{extra}}}]}}, {{"a": 3}}]')
    assert [record.value for record in found] == [{"a": 1}, None, {"a": 3}]
    assert found[1].place == "record 2"
    assert str(found[1].error).startswith("not JSON: ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{\n "messages": []\n}\n{\n "messages": []\n}\n', "line 1: a JSON object that spans several lines"),
        ('{"messages": [\n{}]}\n{"messages": [\n{}]}\n', "line 1: a JSON object that spans several lines"),
        ('{"messages": []}\n{\n "messages": []\n}\n', "line 2: a JSON object that spans several lines"),
        ('{\n "messages": [{"role": "user"}]\n}\n', "one JSON object over several lines: put [ and ] around it"),
        ('{\n "rows": [{"messages": [{}]}]\n}\n', "for example records: rows"),
        ('{"version": 1, "rows": [{"messages": [{}]}]}', "for example records: rows"),
        ('{\n "d0": {"messages": []},\n "d1": {"messages": []}}', "with the keys d0, d1: make it a list"),
        ('{"d0": {"messages": []}, "d1": {"messages": []}}', "make it a list"),
    ],
)
def test_an_object_around_records_or_over_several_lines_is_refused_as_a_whole(
    path: Path, content: str, words: str
) -> None:
    assert words in refusal(path, content)


def test_one_line_of_json_may_be_one_record(path: Path) -> None:
    for content in (
        '{"messages": [{"role": "user"}]}',
        '{"text": "{}"}',
        '{"dialogue": [{"who": "a", "words": ["b"]}]}',
    ):
        assert read(path, content) == [Record("line 1", json.loads(content))]
