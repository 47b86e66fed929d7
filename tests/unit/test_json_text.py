"""Almost JSON: what is wrong is said in words, with its place."""

import json

import pytest
from evolution_jobs.data.json_text import JsonReader, NotJson
from hypothesis import given
from hypothesis import strategies as st

ALMOST = {
    '{"a": "We said "no" twice."}': ("an unescaped quote inside a text", 17),
    "{'a': 'b'}": ("single quotes, as Python prints", 2),
    "{\"a\": 'b'}": ("single quotes", 7),
    '{"a": True}': ("True is Python's word", 7),
    '{"a": None}': ("None is Python's word", 7),
    '{"a": undefined}': ("undefined is not a JSON value", 7),
    '{"a": nan}': ("nan is not a JSON value", 7),
    '{"a": [1, 2,]}': ("a comma too many before the list's end", 13),
    '{"a": 1, }': ("a comma too many before the object's end", 10),
    '{"a": 1},': ("a comma behind the value", 9),
    '{"a": 1} {"a": 2}': ("two values on one line", 10),
    '{"a": 1}\n\n{"a": 2}': ("a second value behind the first", 1),
    "// note": ("a comment", 1),
    '{"a": 1, # note': ("a comment", 10),
    '{"a": 1} /* note */': ("a comment", 10),
    "{\u201ca\u201d: 1}": ("a typographic quote", 2),
    "{a: 1}": ("a key without double quotes", 2),
    '{"a" 1}': ("a colon is missing", 6),
    '{"a": 1 "b": 2}': ("a comma is missing", 9),
    '[{"a": 1} {"b": 2}]': ("a comma is missing", 11),
    '{"a": }': ("something is missing before '}'", 7),
    '{"a": "one\ttwo"}': ("a tab inside a text", 11),
    '{"a": "one\ntwo"}': ("a line break inside a text", 11),
    '{"a": "one\x00two"}': ("a NUL byte inside a text", 11),
    "\x00\x00\x00": ("a NUL byte", 1),
    '{"a": "C:\\dir"}': ("a backslash inside a text that escapes nothing", 10),
    '{"a": "\\u12"}': ("\\u without four hexadecimal digits", 9),
    '{"a": .5}': ("a number that JSON does not have", 7),
    "words": ("no value that JSON has begins with 'w'", 1),
    '{"a": 1}\ufeff{"a": 2}': ("a byte order mark inside the file", 9),
    "[" * 100_000: ("nested too deeply", 1),
}


@pytest.mark.parametrize("text", ALMOST, ids=lambda text: text[:20])
def test_what_is_wrong_is_said_in_words_with_its_column(text: str) -> None:
    words, column = ALMOST[text]
    with pytest.raises(NotJson) as caught:
        JsonReader().read(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.column == column
    assert not caught.value.cut


@pytest.mark.parametrize("text", ["", "{", '{"a"', '{"a": 1,', '{"a": "tw', "[1, 2"])
def test_what_ends_too_early_is_cut(text: str) -> None:
    with pytest.raises(NotJson) as caught:
        JsonReader().read(text)
    assert caught.value.cut


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        ('{"a": [{"b": [1, {"c": 2, "c": 3}]}]}', "the key 'c' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ('{"a": 1e400}', "too large"),
        ('{"a": ' + "7" * 4001 + "}", "a number of 4001 digits is too long"),
    ],
)
def test_a_value_that_python_would_take_is_a_fault(text: str, words: str) -> None:
    reader = JsonReader()
    assert words in str(reader.fault(reader.read(text)))
    assert reader.fault(reader.read('{"a": 1}')) is None


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_json_is_read_as_python_reads_it(value: object) -> None:
    reader = JsonReader()
    found = reader.read(json.dumps(value))
    assert found == value
    assert reader.fault(found) is None


@given(st.text("{}[]\":,\\ \n\t019aetrufslNn.-+'#/\ufeff", max_size=24))
def test_any_text_is_read_or_explained(text: str) -> None:
    try:
        json.loads(text, parse_constant=lambda name: None)
    except ValueError:
        with pytest.raises(NotJson) as caught:
            JsonReader().read(text)
        assert str(caught.value)
    else:
        JsonReader().read(text)
