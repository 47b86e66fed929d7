"""What to do if rows become no preference pairs. Pure."""

ADVICE = {
    "profile_unparsed": "raise reflection.maxAttempts or reflection.maxProfileTokens, or take a larger model",
    "empty": "look at the responses: one side says nothing",
    "equal": "raise reflection.temperature, or take a larger model",
    "too_long": "raise reflection.maxLengthRatio",
    "truncated": "raise maxNewTokens of generation and reflection, or teacher.maxTokens",
    "margin_small": "lower reward.margin, or raise reward.candidates or reflection.temperature",
    "unscored": "raise reward.maxLength, if the reward model has the positions; of a judge, raise reward.judge.maxTokens or "
    "take another one",
    "teacher_refused": "rejects.jsonl has the endpoint's own words; take another teacher, or shorter histories (data.contexts)",
}
"""By the reason of a reject."""
