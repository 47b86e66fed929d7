"""Files as Windows, spreadsheets and data lakes write them: each is read, or refused by what it is."""

import gzip
import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.data import opening
from evolution_jobs.data.record import Record
from evolution_jobs.data.records import read_records
from hypothesis import given
from hypothesis import strategies as st

ROWS = [{"messages": ["caf\u00e9 \u2028 \x85 \U0001f600"]}, {"messages": []}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
DOCUMENT = json.dumps(ROWS, ensure_ascii=False, indent=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.bin"


def read(path: Path, content: bytes) -> list[Record]:
    path.write_bytes(content)
    return list(read_records(path, "data.seed[0]"))


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(PermanentError) as caught:
        read(path, content)
    assert caught.value.reason == "DataMalformed"
    assert str(caught.value).startswith("data.seed[0]: ")
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [LINES, DOCUMENT], ids=["lines", "list"])
def test_every_encoding_and_line_end_is_read(path: Path, text: str, end: str, encoding: str, packed: bool) -> None:
    content = text.replace("\n", end).encode(encoding)
    found = read(path, gzip.compress(content) if packed else content)
    assert [record.value for record in found] == ROWS
    assert [record.place for record in found] in (["line 1", "line 2"], ["record 1", "record 2"])


def test_files_that_were_joined_keep_no_byte_order_mark(path: Path) -> None:
    found = read(path, LINES.encode("utf-8-sig") * 2)
    assert [record.value for record in found] == ROWS * 2


@pytest.mark.parametrize("list_", [False, True])
def test_windows_1252_is_named_with_its_byte_and_what_converts_it(path: Path, list_: bool) -> None:
    text = '{"a": "fine"}\n{"a": "caf\u00e9"}\n'
    content = (f"[{text.strip().replace(chr(10), ',' + chr(10))}]" if list_ else text).encode("cp1252")
    message = refusal(path, content) if list_ else str(read(path, content)[1].error)
    for word in (
        f"not UTF-8 at byte {content.index(0xE9)}",
        "'\u00e9' in Windows-1252",
        "iconv -f WINDOWS-1252 -t UTF-8",
    ):
        assert word in message
    if list_:
        assert "line 2: " in message


def test_another_encoding_is_not_called_windows_1252(path: Path) -> None:
    (record,) = read(path, '{"a": "\u4f60\u597d"}\n'.encode("gb18030"))
    assert "not UTF-8 at byte 7" in str(record.error)
    assert "1252" not in str(record.error)


def test_nul_bytes_are_named_by_their_line(path: Path) -> None:
    found = read(path, b'{"a": 1}\n' + b"\0" * 64 + b'\n{"a": 3}\n')
    assert [record.value for record in found] == [{"a": 1}, None, {"a": 3}]
    assert (found[1].place, "a NUL byte" in str(found[1].error)) == ("line 2", True)
    assert "a NUL byte" in str(read(path, b"\0" * 64)[0].error)


def test_utf_16_that_ends_in_half_a_character_is_refused(path: Path) -> None:
    content = LINES.encode("utf-16")
    assert "not UTF-16" in refusal(path, content[:-1])
    assert "not UTF-16" in refusal(path, DOCUMENT.encode("utf-16")[:-1])


def test_a_gzip_file_that_is_cut_off_or_damaged_is_refused(path: Path) -> None:
    content = gzip.compress(LINES.encode() * 50)
    assert "gzip file was cut off" in refusal(path, content[:-12])
    assert "gzip file is damaged" in refusal(path, content[:-6] + bytes(6))
    assert "gzip file is damaged" in refusal(path, content[:20] + bytes(20) + content[40:])


def test_a_file_that_is_packed_twice_is_refused(path: Path) -> None:
    assert "packed by gzip twice" in refusal(path, gzip.compress(gzip.compress(LINES.encode())))


def test_a_gzip_bomb_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "UNPACKED_LIMIT", 1 << 16)
    bomb = gzip.compress(b'{"a": 1}\n' + b" \n" * (8 << 20))
    assert "unpacks to more than" in refusal(path, bomb)
    # What shrinks as text does is read however large it is.
    assert len(read(path, gzip.compress(b"".join(b'{"a": "%d"}\n' % number**9 for number in range(9000))))) == 9000


def test_a_line_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LINE_LIMIT", 1 << 16)
    assert "line 2 has more than" in refusal(path, b'{"a": 1}\n' + b"x" * (1 << 17))
    assert "line 1 has more than" in refusal(path, gzip.compress(b"x" * (1 << 20)))


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_zip("[Content_Types].xml", "xl/workbook.xml"), "a spreadsheet"),
        (_zip("word/document.xml"), "a Word document"),
        (_zip("data.jsonl"), "a zip archive: unpack it"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), "an old Excel or Word file"),
        (b"BZh91AY&SY", "packed by bzip2"),
        (b"\xfd7zXZ\x00", "packed by xz"),
        (b"\x28\xb5\x2f\xfd\x00", "packed by Zstandard"),
        (bytes(257) + b"ustar\x00", "a tar archive"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (pickle.dumps([1]), "a Python pickle"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_what_it_is(path: Path, content: bytes, words: str, packed: bool) -> None:
    assert words in refusal(path, gzip.compress(content) if packed else content)


@given(st.binary(max_size=64))
def test_hostile_bytes_are_read_or_refused_and_never_crash(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("opening") / "data.jsonl"
    for each in (content, gzip.compress(content), b"\x1f\x8b" + content):
        path.write_bytes(each)
        with suppress(PermanentError):
            for record in read_records(path, "x"):
                assert record.error is None or "\n" not in record.error
