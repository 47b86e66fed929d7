"""Prompts extend one another, as text and, under the real chat template, as tokens."""

import pytest
from evolution_jobs.contract.profiles import ProfileField
from evolution_jobs.contract.rows import STRATEGIES, Turn
from evolution_jobs.preference.prompts import (
    REFLECTION,
    SYSTEM,
    answer_messages,
    refinement_messages,
    reflection_messages,
)
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip)
PROFILE = '{"personality": "shy", "emotionalState": "sad", "situation": "new in town", "needs": "a friend"}'


def turns(texts):
    return [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(texts)]


HISTORY = st.lists(TEXT, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2 == 1).map(turns)


def test_the_system_prompt_names_every_strategy():
    assert all(strategy in SYSTEM for strategy in STRATEGIES)


def test_the_seeker_is_the_user_and_has_the_last_word():
    messages = answer_messages(turns(["Hi.", "Hello.", "I feel low."]))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1]["content"] == "I feel low."


FIELDS = [
    ProfileField(name="goal", description="what the learner wants to understand"),
    ProfileField(name="level", description="how far they are", values=["new to it", "has tried", "stuck, or lost"]),
    ProfileField(name="mood"),
]


@given(HISTORY, TEXT, st.sampled_from([None, PROFILE]), st.sampled_from([None, FIELDS]))
def test_each_prompt_extends_the_one_before_and_roles_alternate(history, draft, profile, fields):
    answer, reflection = answer_messages(history), reflection_messages(history, draft, fields)
    refinement = refinement_messages(history, draft, profile, fields)
    assert reflection[: len(answer)] == answer
    assert refinement[: len(answer)] == answer
    if profile:
        assert refinement[: len(reflection)] == reflection
    for messages in (answer, reflection, refinement):
        assert [m["role"] for m in messages[1:]] == [("user", "assistant")[i % 2] for i in range(len(messages) - 1)]
        assert messages[-1]["role"] == "user"


def test_declared_fields_are_asked_for_with_description_and_values_and_none_of_the_paper_s():
    asked = reflection_messages(turns(["I failed."]), "Why?", FIELDS)[-1]["content"]
    assert asked.splitlines()[1:] == [
        "- goal: what the learner wants to understand",
        '- level: how far they are (one of "new to it", "has tried", "stuck, or lost")',
        "- mood",
    ]
    assert "emotional" not in asked
    assert reflection_messages(turns(["I failed."]), "Why?")[-1]["content"] == REFLECTION


def test_without_a_profile_no_profile_is_spoken_of():
    asked = " ".join(m["content"] for m in refinement_messages(turns(["I feel low."]), "Why?", None)[1:])
    assert "profile" not in asked.lower()


@pytest.mark.model
def test_the_tokens_of_each_prompt_begin_with_those_of_the_one_before(small_model):
    from evolution_jobs.chat.chats import Chats
    from evolution_jobs.models.load import load_tokenizer

    chats = Chats.of(load_tokenizer(small_model))

    @settings(max_examples=60, deadline=None)
    @given(HISTORY, TEXT)
    def check(history, draft):
        answer, reflection, refinement = (
            chats.prompt(messages)
            for messages in (
                answer_messages(history),
                reflection_messages(history, draft),
                refinement_messages(history, draft, PROFILE),
            )
        )
        assert reflection[: len(answer)] == answer
        assert refinement[: len(reflection)] == reflection

    check()
