"""Words in scripts without spaces between them."""

import pytest
from evolution_jobs.unspaced import count_words, has_unspaced, mostly_han, mostly_unspaced, spaced
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我很难过，谢谢你。", 7),
        ("今日は雨です", 6),
        ("ผมเสียใจ", 8),
        ("我用 iPhone 15。", 4),
        ("我用iPhone15打电话", 6),
        ("\N{LEFT DOUBLE QUOTATION MARK}好\N{RIGHT DOUBLE QUOTATION MARK}", 1),
        ("……。", 1),
        ("저는 슬퍼요", 2),
        ("I am sad -- really.", 5),
        ("", 0),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_characters_and_their_punctuation_stand_apart() -> None:
    assert spaced("你好，iPhone很贵。").split() == ["你", "好", "，", "iPhone", "很", "贵", "。"]


@given(st.text(alphabet="aZéß한국 \n.,!?'\"-()0\N{RIGHT SINGLE QUOTATION MARK}", max_size=40))
def test_other_text_is_as_it_was(text: str) -> None:
    assert spaced(text) == text
    assert count_words(text) == len(text.split())
    assert not has_unspaced([text])


def test_what_a_corpus_is_mostly_written_in() -> None:
    chinese, japanese, english = "你今天感觉怎么样？", "今日はとても疲れました。", "How do you feel today, then?"
    assert mostly_unspaced([chinese, "OK"])
    assert not mostly_unspaced([english, "你"])
    assert not mostly_unspaced([])
    assert mostly_han([chinese])
    assert not mostly_han([japanese])
