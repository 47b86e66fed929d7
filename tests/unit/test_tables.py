"""CSV, TSV and Parquet: a row is a record, and a cell may hold a dialogue's turns as JSON text."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.data.record import Record
from evolution_jobs.data.records import read_records
from hypothesis import given
from hypothesis import strategies as st

TURNS = [
    {"role": "user", "content": 'She said "no",\nthen left; \u2028 sad.'},
    {"role": "assistant", "content": "Why?"},
]


def read(path: Path, content: str | bytes, turns: str = "messages") -> list[Record]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_records(path, "data.seed[0]", turns=turns))


def refusal(path: Path, content: str | bytes, turns: str = "messages") -> str:
    with pytest.raises(PermanentError) as caught:
        read(path, content, turns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(rows: list[list[str]], **style: Any) -> str:
    out = io.StringIO()
    csv.writer(out, **style).writerows(rows)
    return out.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_instructions_as_a_spreadsheet_saves_them(path: Path, end: str, delimiter: str, encoding: str) -> None:
    rows = [
        ["instruction", "input", "output"],
        ["Add; all", "1, 2\nand 3", '"6"'],
        ["", "", ""],
        ["Say {hi}", "", "Hi"],
    ]
    found = read(path, table(rows, delimiter=delimiter, lineterminator=end).encode(encoding), "instruction")
    assert [record.value for record in found] == [
        {"instruction": "Add; all", "input": "1, 2\nand 3", "output": '"6"'},
        {"instruction": "Say {hi}", "input": "", "output": "Hi"},
    ]
    assert [record.place for record in found] == ["line 2", "line 5"]


def test_the_line_that_excel_writes_to_name_the_delimiter(path: Path) -> None:
    (record,) = read(path, "sep=;\r\ninstruction;output\r\na, b;c\r\n", "instruction")
    assert record == Record("line 3", {"instruction": "a, b", "output": "c"})


def test_dialogues_as_json_text_in_a_column(path: Path) -> None:
    found = read(path, table([["id", "messages"], ["1", json.dumps(TURNS)], ["2", json.dumps(TURNS)]]))
    assert [record.value for record in found] == [{"id": name, "messages": TURNS} for name in ("1", "2")]


def test_a_table_is_known_by_its_header_also_without_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "download"
    content = table([["id", "messages"], ["1", json.dumps(TURNS)]])
    (record,) = read(path, content)
    assert record.value["messages"] == TURNS
    (titled,) = read_records(path, "x", turns="messages", title="s3://bucket/talks.csv")
    assert titled == record


@pytest.mark.parametrize(
    ("content", "turns", "words"),
    [
        (
            "id,speaker,text\n1,a,b\n",
            "messages",
            ["line 1", "a column 'messages'", "as JSON text", "id, speaker, text"],
        ),
        ("prompt,output\na,b\n", "instruction", ["instruction, input and output", "prompt, output"]),
        ("messages,messages\na,b\n", "messages", ["the column 'messages' occurs twice"]),
        ('messages\n"[]"\n"[\n[]\n', "messages", ["line 3", "a quoted cell has no end"]),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(path: Path, content: str, turns: str, words: list[str]) -> None:
    message = refusal(path, content, turns)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"a,b,c", "3 cells, but the header has 2"),
        (b"a", "only 1 cells"),
        (b'a,"b" c', "a quote inside a cell is not doubled"),
        (b"a,caf\xe9", "in Windows-1252"),
        (b'a,"[{""role"": ]"', "column 'messages', character 11: not JSON"),
        (b'a,"[{""b"": 1, ""b"": 2}]"', "the key 'b' occurs twice"),
    ],
)
def test_a_bad_row_is_named_and_the_next_is_read(path: Path, row: bytes, words: str) -> None:
    found = read(path, b"id,messages\n1,[]\n" + row + b"\n3,[]\n")
    assert [record.value for record in found if record.error is None] == [
        {"id": "1", "messages": []},
        {"id": "3", "messages": []},
    ]
    assert (found[1].place, words in str(found[1].error)) == ("line 3", True)


def test_a_long_dialogue_fits_in_a_cell(path: Path) -> None:
    turns = [{"role": "user", "content": "x" * 300_000}]
    (record,) = read(path, table([["messages"], [json.dumps(turns)]]))
    assert record.value == {"messages": turns}


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@given(st.lists(st.tuples(cells, cells).filter(lambda row: any(cell.strip() for cell in row)), max_size=5))
def test_what_csv_writes_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("tables") / "data.csv"
    found = read(path, table([["instruction", "output"], *map(list, rows)]), "instruction")
    assert [tuple(record.value.values()) for record in found] == rows


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    arrow, parquet_ = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet_.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)


def test_rows_of_parquet(path: Path) -> None:
    parquet(path, [{"id": number, "messages": TURNS} for number in range(5)])
    found = list(read_records(path, "x"))
    assert [record.place for record in found] == [f"row {number}" for number in range(1, 6)]
    assert [record.value for record in found] == [{"id": number, "messages": TURNS} for number in range(5)]


def test_dialogues_as_json_text_in_parquet(path: Path) -> None:
    parquet(path, [{"messages": json.dumps(TURNS)}, {"messages": "[{]"}])
    good, bad = read_records(path, "x")
    assert good.value == {"messages": TURNS}
    assert (bad.place, "column 'messages'" in str(bad.error)) == ("row 2", True)


def test_parquet_that_is_damaged_is_refused(path: Path) -> None:
    parquet(path, [{"messages": json.dumps(TURNS)}] * 400)
    content = path.read_bytes()
    assert "damaged or was cut off" in refusal(path, content[:-40])
    assert "damaged or was cut off" in refusal(path, b"PAR1rest")


def test_parquet_without_its_library_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path.write_bytes(b"PAR1rest")
    with pytest.raises(PermanentError, match="pip install pyarrow") as caught:
        list(read_records(path, "x"))
    assert caught.value.reason == "DataUnreadable"
