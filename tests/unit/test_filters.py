"""What becomes a preference pair and what is dropped, and what of a rewrite is no part of the answer."""

import json

import pytest
from evolution_jobs.contract.profiles import ProfileField
from evolution_jobs.contract.rows import Reject, Response
from evolution_jobs.preference.filters import (
    clean,
    judge,
    normalise,
    usable,
    whole_sentences,
    words,
)
from evolution_jobs.preference.reflection import ProfileError, ProfileForm
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


FORM = ProfileForm()
PROFILE = {"personality": "shy", "emotionalState": "sad", "situation": "new in town", "needs": "a friend"}


# Python and pydantic disagree on whether control characters are white space.
PHRASE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200).filter(str.strip)


@given(st.fixed_dictionaries(dict.fromkeys(PROFILE, PHRASE)))
def test_a_profile_survives_its_json(fields):
    assert FORM.parse(json.dumps(fields)) == {name: value.strip() for name, value in fields.items()}


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
        FORM.parse(text)


def test_the_schema_bounds_every_field_and_allows_no_other():
    schema = FORM.schema
    assert list(schema["properties"]) == schema["required"] == list(PROFILE)
    assert schema["additionalProperties"] is False
    assert all(field["type"] == "string" and field["maxLength"] == 200 for field in schema["properties"].values())


FIELD = st.builds(
    ProfileField,
    # Names that are methods of a pydantic model, too.
    name=st.sampled_from(["schema", "json", "model_config", "copy"])
    | st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True),
    values=st.none()
    | st.lists(st.from_regex(r"[^\s\x00-\x1f\x7f]{1,9}", fullmatch=True), min_size=1, max_size=4, unique=True),
)


@given(st.lists(FIELD, min_size=1, max_size=16, unique_by=lambda field: field.name), st.data())
def test_declared_fields_have_their_values_or_a_phrase_and_no_others(fields, data):
    form = ProfileForm(fields)
    given_ = {field.name: data.draw(st.sampled_from(field.values) if field.values else PHRASE) for field in fields}
    assert form.parse(json.dumps(given_)) == {
        field.name: given_[field.name] if field.values else given_[field.name].strip() for field in fields
    }
    assert list(form.schema["properties"]) == form.schema["required"] == [field.name for field in fields]
    for field in fields:
        for other in ({name: text for name, text in given_.items() if name != field.name}, {**given_, field.name: " "}):
            with pytest.raises(ProfileError, match=field.name):
                form.parse(json.dumps(other))


def test_a_value_that_was_not_declared_says_which_are():
    form = ProfileForm([ProfileField(name="mood", values=["calm", "angry"])])
    with pytest.raises(ProfileError, match="mood: Input should be 'calm' or 'angry'"):
        form.parse('{"mood": "Calm"}')
