"""Prompts of the method (arXiv 2505.16610, section 3). Each prompt extends the one before, so a prefix cache can be used."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..contract.profiles import ProfileField
from ..contract.rows import STRATEGIES, Message, Turn

SYSTEM = (
    "You are a supporter who helps a person in distress through conversation. Listen, show that you understand, and "
    "help the person take a next step. Keep to a few natural sentences. You may use these strategies: "
    + "; ".join(STRATEGIES)
    + "."
)

REFLECTION = (
    "Pause before that answer is sent, and think about the person you talk to. Infer from the conversation their "
    "personality, their emotional state, their situation and what they need now; be specific, and do not repeat the "
    "answer. Write compact JSON with the string fields personality, emotionalState, situation and needs, a short "
    "phrase each."
)

REFLECTION_OF_FIELDS = (
    "Pause before that answer is sent, and think about the person you talk to. Infer from the conversation what these "
    "fields ask for; be specific, and do not repeat the answer. Write compact JSON with these string fields, a short "
    "phrase each:"
)

REFINEMENT = (
    "Rewrite your answer for this very person, in the light of that profile. Speak to them directly and naturally, "
    "take up what they said, leave out stock phrases, and be no longer than needed. Write the new answer only."
)

REFINEMENT_WITHOUT_PROFILE = (
    "Rewrite that answer for this very person. Speak to them directly and naturally, take up what they said, leave out "
    "stock phrases, and be no longer than needed. Write the new answer only."
)


def answer_messages(turns: Sequence[Turn]) -> list[Message]:
    """The chat that the supporter answers next: system prompt, seeker as user, supporter as assistant.

    SFT, generation, DPO and evaluation all use it, so training and inference have one format.
    """
    roles = {"seeker": "user", "supporter": "assistant"}
    return [
        {"role": "system", "content": SYSTEM},
        *({"role": roles[turn.role], "content": turn.text} for turn in turns),
    ]


def reflection(fields: Sequence[ProfileField] | None) -> str:
    """What asks for the profile, with the declared fields; None asks for the paper's."""
    return REFLECTION if fields is None else "\n".join([REFLECTION_OF_FIELDS, *map(_described, fields)])


def _described(field: ProfileField) -> str:
    described = f"{field.name}: {field.description}" if field.description else field.name
    # In quotes, because a value may have a comma.
    values = ", ".join(json.dumps(value, ensure_ascii=False) for value in field.values or ())
    return f"- {described} (one of {values})" if values else f"- {described}"


def reflection_messages(
    turns: Sequence[Turn], draft: str, fields: Sequence[ProfileField] | None = None
) -> list[Message]:
    """The chat that the model answers with the seeker's profile as JSON, after its own draft.

    `fields` are those that the run declares; None takes the paper's.
    """
    return [
        *answer_messages(turns),
        {"role": "assistant", "content": draft},
        {"role": "user", "content": reflection(fields)},
    ]


def refinement_messages(
    turns: Sequence[Turn], draft: str, profile: str | None, fields: Sequence[ProfileField] | None = None
) -> list[Message]:
    """The chat that the model answers with the rewritten answer.

    `profile` is the JSON that answered `reflection_messages`; None asks for the rewrite without a profile (the paper's
    "no reflection" ablation).
    """
    if profile is None:
        return [
            *answer_messages(turns),
            {"role": "assistant", "content": draft},
            {"role": "user", "content": REFINEMENT_WITHOUT_PROFILE},
        ]
    return [
        *reflection_messages(turns, draft, fields),
        {"role": "assistant", "content": profile},
        {"role": "user", "content": REFINEMENT},
    ]
