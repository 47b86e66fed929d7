"""What becomes a preference pair and what is dropped, and what of a rewrite is no part of the answer."""

import json

import pytest
from evolution_jobs.contract.rows import Reject, Response
from evolution_jobs.preference.filters import (
    clean,
    judge,
    normalise,
    usable,
    whole_sentences,
    words,
)
from evolution_jobs.preference.reflection import SCHEMA, Profile, ProfileError, parse_profile
from hypothesis import given
from hypothesis import strategies as st

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
# Texts in which what clean() looks for is likely.
PIECES = st.lists(
    st.sampled_from(
        [
            "Supporter:",
            "user:",
            "\n",
            '"',
            "'",
            "“",
            "”",
            " ",
            "Here is my answer:",
            "I hear you.",
            "Sure,",
            "**",
            "new",
        ]
    ),
    max_size=12,
).map("".join)


def answer(text, cut=False):
    return Response(id="a-1", text=text, finish="length" if cut else "stop", tokens=1)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  I hear you. \n", "I hear you."),
        ("Supporter: I hear you.", "I hear you."),
        ("**Assistant:** I hear you.", "I hear you."),
        ("Therapist : I hear you.", "I hear you."),
        ('"I hear you."', "I hear you."),
        ("“I hear you.”", "I hear you."),
        ("'I don't know yet.'", "I don't know yet."),
        ("Here is the rewritten answer:\n\nI hear you.", "I hear you."),
        ("Sure! Here's a more personalised version of the response: I hear you.", "I hear you."),
        ("Rewritten answer: I hear you.", "I hear you."),
        ("**Response:**\nI hear you.", "I hear you."),
        ('Here is my new answer: "Supporter: I hear you."', "I hear you."),
        ("I hear you.\nUser: Thanks!\nSupporter: Any time.", "I hear you."),
        ("I hear you.\n\n**Seeker:** Thanks!", "I hear you."),
        # What looks alike and is part of the answer stays.
        ("Here is what helped me: a walk.", "Here is what helped me: a walk."),
        ("The answer is: nobody knows.", "The answer is: nobody knows."),
        ('He said "no", and then "yes"', 'He said "no", and then "yes"'),
        ('"No" is a full sentence, and so is "Yes"', '"No" is a full sentence, and so is "Yes"'),
        ("Sure, that sounds hard.", "Sure, that sounds hard."),
        ("Okay: one step at a time.", "Okay: one step at a time."),
        ("My therapist said: rest.", "My therapist said: rest."),
        # Nothing but wrapping.
        ("Here is the rewritten answer:", ""),
        ('""', ""),
        ("", ""),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


@given(ANY | PIECES)
def test_clean_only_removes_and_finds_nothing_more_the_second_time(text):
    cleaned = clean(text)
    assert cleaned in text
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("One. Two", "One."),
        ("One! Two? Thr", "One! Two?"),
        ('She said "stay." Then', 'She said "stay."'),
        ("Well... I thi", "Well..."),
        ("Version 2.5 of", ""),
        ("No end", ""),
        ("我很难过。你呢", "我很难过。"),
        ("Done.", "Done."),
        ("", ""),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole


@given(ANY)
def test_whole_sentences_keep_a_beginning_of_the_text(text):
    assert text.strip().startswith(whole_sentences(text))


@pytest.mark.parametrize(
    ("chosen", "rejected", "verdict"),
    [
        # Twice as long is kept, one word more is not.
        (answer("a b c d"), answer("e f"), ("a b c d", "e f")),
        (answer("a b c d e"), answer("f g"), "too_long"),
        (answer("你今天看起来很累。"), answer("你累。"), "too_long"),
        (answer("你好，朋友。"), answer("你好朋友"), "equal"),
        (answer("  I SEE — you.. "), answer("i see you"), "equal"),
        (answer(""), answer("I see."), "empty"),
        (answer(" ...\n"), answer("I see."), "empty"),
        (answer("I see."), answer("\n"), "empty"),
        (answer("I see. And the", cut=True), answer("Tell me."), ("I see.", "Tell me.")),
        (answer("Tell me."), answer("I see. And the", cut=True), ("Tell me.", "I see.")),
        (answer("I see and the", cut=True), answer("Tell me."), "truncated"),
        (answer("Tell me."), answer("I see and the", cut=True), "truncated"),
        # Equal and too long are judged by what would be trained on, not by what was cut away.
        (answer("I see. And", cut=True), answer("I see."), "equal"),
        (answer("One two. " + "three " * 50, cut=True), answer("I see."), ("One two.", "I see.")),
    ],
)
def test_judge(chosen, rejected, verdict):
    judged = judge(chosen, rejected, 2)
    if isinstance(verdict, str):
        assert isinstance(judged, Reject)
        assert judged.reason == verdict
        assert judged.detail
    else:
        assert judged == verdict


@given(ANY, ANY, st.booleans(), st.booleans(), st.floats(1, 5))
def test_a_kept_pair_keeps_every_rule(chosen, rejected, chosen_cut, rejected_cut, ratio):
    judged = judge(answer(chosen, chosen_cut), answer(rejected, rejected_cut), ratio)
    if not isinstance(judged, Reject):
        better, worse = judged
        assert 0 < words(better) <= ratio * words(worse)
        assert normalise(better) != normalise(worse)
        assert better in chosen
        assert worse in rejected


@given(ANY, st.booleans())
def test_nothing_is_preferred_to_itself(text, cut):
    assert isinstance(judge(answer(text, cut), answer(text, cut), 2), Reject)


@given(ANY.filter(lambda text: normalise(text)))
def test_an_answer_that_was_not_cut_off_is_usable_as_it_is(text):
    assert usable(answer(text), "chosen") == text.strip()


PROFILE = {"personality": "shy", "emotionalState": "sad", "situation": "new in town", "needs": "a friend"}


# Python and pydantic disagree on whether control characters are white space.
PHRASE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200).filter(str.strip)


@given(st.fixed_dictionaries(dict.fromkeys(PROFILE, PHRASE)))
def test_a_profile_survives_its_json(fields):
    assert parse_profile(json.dumps(fields)).wire() == {name: value.strip() for name, value in fields.items()}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "JSON"),
        ("She is shy.", "JSON"),
        (json.dumps(PROFILE)[:-1], "JSON"),
        (json.dumps([PROFILE]), "object"),
        (json.dumps({**PROFILE, "needs": None}), "needs"),
        (json.dumps({**PROFILE, "needs": "  "}), "needs"),
        (json.dumps({**PROFILE, "needs": "a" * 201}), "needs"),
        (json.dumps({**PROFILE, "age": "12"}), "age"),
        (json.dumps({name: value for name, value in PROFILE.items() if name != "situation"}), "situation"),
    ],
)
def test_what_is_no_profile_says_why(text, fault):
    with pytest.raises(ProfileError, match=fault):
        parse_profile(text)


def test_the_schema_bounds_every_field_and_allows_no_other():
    assert set(SCHEMA["properties"]) == set(SCHEMA["required"]) == set(PROFILE)
    assert SCHEMA["additionalProperties"] is False
    assert all(field["type"] == "string" and field["maxLength"] == 200 for field in SCHEMA["properties"].values())
    assert Profile.model_validate(PROFILE).emotional_state == "sad"
