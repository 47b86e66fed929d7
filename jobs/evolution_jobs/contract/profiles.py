"""Profiles in the spec: the fields that a model infers about the user, and how they are compared with labels of the data."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .document import Document, Rule

FieldName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=63)]
"""A key of the profile's JSON."""

Value = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S([^\r\n\t]*\S)?$")]


class ProfileField(Document):
    """One field of a profile."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "values",
            "names a value twice; remove one",
            "!has(self.values) || self.values.all(one, self.values.exists_one(other, other == one))",
            lambda field: field.values is None or len(set(field.values)) == len(field.values),
        ),
    )

    name: FieldName
    """Its key in the profile's JSON."""
    description: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\r\n]+$")] | None = None
    """What the model is to infer, as the prompt says it."""
    values: Annotated[list[Value], Field(min_length=1, max_length=64)] | None = None
    """The values that it may have; unset takes a phrase of at most 200 characters."""


ProfileFields = Annotated[list[ProfileField], Field(min_length=1, max_length=16)]

DISTINCT_FIELDS = Rule(
    "fields",
    "has two fields of one name; rename one",
    "!has(self.fields) || self.fields.all(one, self.fields.exists_one(other, other.name == one.name))",
    lambda settings: settings.fields is None or len({each.name for each in settings.fields}) == len(settings.fields),
)
"""A rule of the settings that have `fields`."""

PAPER_FIELDS: tuple[ProfileField, ...] = tuple(
    ProfileField(name=name) for name in ("personality", "emotionalState", "situation", "needs")
)
"""The user's personality, state, situation and needs, each in a short phrase (arXiv 2505.16610, section 3)."""

Words = Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=64)]


class Comparison(Document):
    """A field of the profile that is compared with a label of the test data."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "values",
            "has words for labels, and by: similarity compares texts; take one of the two out",
            "!has(self.by) || self.by != 'similarity' || !has(self.values) || size(self.values) == 0",
            lambda comparison: not (comparison.by_similarity and comparison.values),
        ),
    )

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    """For the names of its figures: `profile_<name>_accuracy` and `profile_<name>_macro_f1`, or `profile_<name>_similarity`."""
    field: FieldName
    """The profile's field."""
    label: Annotated[str, Field(min_length=1, max_length=256)]
    """Path from a record of the test data to its label, dot-separated keys: `emotion_type`."""
    by: Literal["label", "similarity"] | None = None
    """`label`: whether the field means the label, by its words. `similarity`: how near the field is to the label, which is a text, by `evaluation.sentenceModel`. Unset takes `label`."""
    values: Annotated[dict[str, Words], Field(max_length=64)] = {}
    """Each label with other words for it, in the profile or in the data: `{sadness: [sad, grief]}`. The field means the label whose word it says first. A label that is not listed is its own word."""

    @property
    def by_similarity(self) -> bool:
        """Whether texts are compared, not labels."""
        return self.by == "similarity"


class ProfileAccuracy(Document):
    """Mt infers a profile for each test context, which is compared with the data's labels."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "compare",
            "has two comparisons of one name; rename one",
            "!has(self.compare) || self.compare.all(one, self.compare.exists_one(other, other.name == one.name))",
            lambda profile: (
                profile.compare is None or len({each.name for each in profile.compare}) == len(profile.compare)
            ),
        ),
    )

    compare: Annotated[list[Comparison], Field(min_length=1, max_length=8)] | None = None
    """What is compared; unset takes the paper's fields with ESConv's labels: emotion and problem, and with `evaluation.sentenceModel` the situation by similarity if the data has it."""
    samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Contexts with labels for which a profile is inferred, drawn by seed; unset takes all."""
    max_new_tokens: Annotated[int, Field(ge=16, le=4096)] = 256
    """Longest profile in tokens."""

    @property
    def comparisons(self) -> list[Comparison]:
        """What is compared. The test data must have these labels."""
        return list(ESCONV if self.compare is None else self.compare)

    @property
    def optional_comparisons(self) -> list[Comparison]:
        """What is compared as well if there is a sentence model and the test data has the label."""
        return [ESCONV_SITUATION] if self.compare is None else []


_EMOTIONS: dict[str, list[str]] = {
    "anger": [
        "angry",
        "furious",
        "frustrated",
        "frustration",
        "irritated",
        "annoyed",
        "resentful",
        "resentment",
        "rage",
    ],
    "anxiety": [
        "anxious",
        "worried",
        "worry",
        "worrying",
        "stressed",
        "stress",
        "overwhelmed",
        "panic",
        "panicked",
        "uneasy",
    ],
    "depression": ["depressed", "hopeless", "hopelessness", "empty", "numb", "unmotivated", "worthless", "despair"],
    "sadness": [
        *("sad", "grief", "grieving", "heartbroken", "lonely", "loneliness", "hurt", "upset", "unhappy"),
        *("disappointed", "sorrow", "devastated", "miserable"),
    ],
    "disgust": ["disgusted", "repulsed", "revulsion"],
    "fear": ["afraid", "scared", "fearful", "frightened", "terrified"],
    "nervousness": ["nervous", "jittery", "on edge", "restless"],
    "shame": ["ashamed", "embarrassed", "embarrassment", "humiliated"],
    "guilt": ["guilty", "remorse", "regret", "regretful"],
    "jealousy": ["jealous", "envy", "envious"],
    "pain": ["painful", "suffering"],
}

_PROBLEMS: dict[str, list[str]] = {
    "ongoing depression": ["depression", "depressed", "hopeless"],
    "job crisis": [
        *("job", "jobs", "work", "workplace", "career", "boss", "employer", "coworker", "coworkers", "fired"),
        *("laid off", "unemployed", "unemployment"),
    ],
    "breakup with partner": [
        *("breakup", "break-up", "break up", "broke up", "broken up", "partner", "boyfriend", "girlfriend", "husband"),
        *("wife", "fiance", "divorce", "relationship", "ex"),
    ],
    "problems with friends": ["friend", "friends", "friendship", "friendships"],
    "academic pressure": [
        *("academic", "exam", "exams", "school", "college", "university", "class", "classes", "course", "grades"),
        *("study", "studies", "studying", "student", "homework"),
    ],
    # ESConv has both labels for one thing.
    "conflict with parents": ["issues with parents", "parents", "parent", "mother", "father", "mom", "dad"],
    "issues with children": ["children", "child", "kids", "kid", "son", "daughter"],
    "sleep problems": ["sleep", "sleeping", "insomnia", "nightmares"],
    "appearance anxiety": ["appearance", "looks", "body", "weight"],
    "alcohol abuse": ["alcohol", "drinking", "drunk"],
    "procrastination": ["procrastinating", "procrastinate"],
    "school bullying": ["bullying", "bullied", "bully", "bullies"],
}

ESCONV: tuple[Comparison, ...] = (
    Comparison(name="emotion", field="emotionalState", label="emotion_type", values=_EMOTIONS),
    Comparison(name="problem", field="situation", label="problem_type", values=_PROBLEMS),
)
"""The paper's fields with the labels of ESConv (Liu et al., ACL 2021). Its own labels are the keys; the words are ours."""

ESCONV_SITUATION = Comparison(name="situation", field="situation", label="situation", by="similarity")
"""ESConv's `situation` is what the seeker wrote about it before the dialogue."""
