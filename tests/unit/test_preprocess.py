"""Preprocessing: alternation always holds, and no text is lost that is not counted."""

from collections import Counter

import pytest
from evolution_jobs.contract.rows import Turn
from evolution_jobs.data.preprocess import dialogue, is_greeting, preprocess
from hypothesis import given
from hypothesis import strategies as st

texts = st.one_of(
    st.sampled_from(["", "  ", "Hi", "Hello, how are you?", "How are you today?", "I lost my job.", "Tell\tme  more."]),
    st.text(max_size=20),
)
turns = st.builds(
    Turn,
    role=st.sampled_from(["seeker", "supporter"]),
    text=texts,
    strategy=st.none() | st.sampled_from(["Question", "Others"]),
    learnt=st.sampled_from([None, False]),
)


def seeker(text: str) -> Turn:
    return Turn(role="seeker", text=text)


def supporter(text: str, strategy: str | None = None) -> Turn:
    return Turn(role="supporter", text=text, strategy=strategy)


@given(st.lists(turns, max_size=12))
def test_turns_alternate_open_with_the_seeker_and_are_clean(raw: list[Turn]) -> None:
    found, _ = preprocess(raw)
    assert [turn.role for turn in found] == ["seeker", "supporter"] * (len(found) // 2) + ["seeker"] * (len(found) % 2)
    assert all(turn.text and turn.text == " ".join(turn.text.split()) for turn in found)
    assert not found or not is_greeting(found[0].text)


@given(st.lists(turns, max_size=12))
def test_no_word_that_is_history_only_is_learnt(raw: list[Turn]) -> None:
    numbered = [turn.model_copy(update={"text": f"{turn.text} w{at}"}) for at, turn in enumerate(raw)]
    found, counts = preprocess(numbered)
    history = {f"w{at}" for at, turn in enumerate(numbered) if turn.learnt is False}
    learnt = {word for turn in found if turn.learnt is not False for word in turn.text.split()}
    assert not learnt & history
    # Of the others, only those in a merge are lost.
    kept = {word for turn in found for word in turn.text.split() if word.startswith("w")}
    assert len((kept & {f"w{at}" for at in range(len(raw))}) - history - learnt) <= counts["unlearnt_by_merge"]


def test_a_turn_that_is_repeated_as_history_only_is_history_only() -> None:
    said = [seeker("a"), supporter("b"), supporter("b").model_copy(update={"learnt": False}), seeker("c")]
    found, counts = preprocess(said)
    assert [turn.learnt for turn in found] == [None, False, None]
    assert counts == {"repeated": 1}


@given(st.lists(turns, max_size=12))
def test_twice_is_once(raw: list[Turn]) -> None:
    once, _ = preprocess(raw)
    assert preprocess(once) == (once, Counter())


@given(st.lists(turns, max_size=12))
def test_every_turn_is_kept_merged_or_counted_as_left_out(raw: list[Turn]) -> None:
    found, counts = preprocess(raw)
    assert len(raw) == len(found) + counts.total() - counts["unlearnt_by_merge"]
    # What is left is the end of what was said: only greetings and the supporter's opening go, and what is said twice.
    said = [(turn.role, word) for turn in raw for word in turn.text.split()]
    kept = [(turn.role, word) for turn in found for word in turn.text.split()]
    if not counts["repeated"]:
        assert kept == said[len(said) - len(kept) :]
    if not set(counts) & {"greeting", "leading_supporter", "repeated"}:
        assert kept == said


def test_a_conversation() -> None:
    found, counts = preprocess(
        [
            supporter("Hello!"),
            seeker(" Hi, how are\nyou? "),
            supporter("Good. What is on your mind?", "Question"),
            seeker("I lost"),
            seeker("my job."),
            seeker("my job."),
            supporter(""),
            supporter("I am sorry.", "Reflection of feelings"),
            supporter("When?", "Question"),
            supporter("Today?", "Question"),
            seeker("Hello?"),
        ]
    )
    assert [(turn.role, turn.text, turn.strategy) for turn in found] == [
        ("seeker", "I lost my job.", None),
        ("supporter", "I am sorry. When? Today?", "Reflection of feelings; Question"),
        ("seeker", "Hello?", None),
    ]
    assert counts == {"greeting": 2, "leading_supporter": 1, "merged": 3, "repeated": 1, "empty": 1}


@pytest.mark.parametrize(
    "text",
    [
        "Hello good afternoon.",
        "Hi, good afternoon.",
        "hi",
        "HI!!",
        "Hey there",
        "Hello there!  How are you doing today?",
        "How are you?",
        "Hi. How are you today?",
        "hello how are you ?",
        "Good evening.",
        "Hi! 😊",
        "Hello, how is your day going?",
        "Hi there. How's it going?",
    ],
)
def test_greetings(text: str) -> None:
    assert is_greeting(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "Hello I am very sad",
        "Hi, I lost my job",
        "How can I help you today?",
        "Hello, what is on your mind?",
        "I am good, how are you?",
        "How are you feeling about your job?",
        "hell",
        "High",
        "History is hard",
        "hello " * 30,
    ],
)
def test_what_says_more_is_no_greeting(text: str) -> None:
    assert not is_greeting(text)


def test_a_think_block_of_the_data_is_left_out_and_counted() -> None:
    found, counts = preprocess(
        [
            seeker("I write <think>so</think>."),
            supporter("<think>\nShe is sad.\n</think>\n\nWhy?"),
            seeker("My dog died."),
            supporter("What do <think> tags mean?"),
        ]
    )
    assert [turn.text for turn in found] == [
        "I write <think>so</think>.",
        "Why?",
        "My dog died.",
        "What do <think> tags mean?",
    ]
    assert counts == {"thoughts": 1}


def test_equal_conversations_have_equal_names() -> None:
    one, other = [seeker("a"), supporter("b", "Question")], [seeker("a"), supporter("b")]
    assert dialogue(one, "here").id == dialogue(other, "there").id
    assert dialogue(one, "here").id != dialogue([seeker("a b")], "here").id
