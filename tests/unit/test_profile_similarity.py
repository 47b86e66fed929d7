"""Fields of profiles compared with texts of the data: figures against plain definitions, the part, and the packaged model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from evolution_jobs.contract.figures import kind_of
from evolution_jobs.contract.settings import EvaluationSettings
from evolution_jobs.metrics.bootstrap import Z
from evolution_jobs.metrics.profile_similarity import Described, nearness
from evolution_jobs.stages import evaluate
from evolution_jobs.stages.profiles import Profiles
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_profiles import ANSWERED, FEELS, SETTINGS, context, make_workspace

# Figures


def described(rows):
    """`rows` are dialogue, field and label; a field that is None did not parse."""
    dialogues, fields, labels = zip(*rows, strict=True)
    wide = np.array([(0, 0) if field is None else field for field in fields], float)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    tall = np.array(labels, float)
    ids = [f"{dialogue}-{place}" for place, dialogue in enumerate(dialogues)]
    texts = [str(label) for label in labels]
    unit = wide / np.where(lengths == 0, 1, lengths)
    return Described(ids, list(dialogues), texts, unit, tall / np.linalg.norm(tall, axis=1, keepdims=True))


def values(rows):
    return {figure.name: figure for figure in nearness("situation", described(rows), "a model")}


HALF = 100 / np.sqrt(2)


def test_figures_by_hand():
    rows = [("x", (1, 0), (1, 0)), ("x", (1, 1), (1, 0)), ("y", (0, 1), (0, 1)), ("y", None, (0, 1))]
    found = values(rows)
    assert found["profile_situation_similarity"].value == pytest.approx((100 + HALF + 100 + 0) / 4)
    # Each of x's two fields with both of y's labels, and the other way round.
    assert found["profile_situation_similarity_chance"].value == pytest.approx((0 + 2 * HALF + 0 + 0) / 8)
    assert found["profile_situation_similarity_chance"].interval is None
    assert all(figure.method.endswith("; a model") and figure.rows == 4 for figure in found.values())
    assert set(values(rows[:2])) == {"profile_situation_similarity"}, "of one dialogue there are no other labels"


VECTOR = st.tuples(st.integers(1, 5), st.integers(-5, 5))
ROWS = st.lists(st.tuples(st.sampled_from("abcd"), VECTOR | st.none(), VECTOR), min_size=2, max_size=12)


def chance(rows):
    """By its definition; None without a pair."""
    each = described(rows)
    found = [
        100 * float(each.inferred[one] @ each.described[other])
        for one in range(len(rows))
        for other in range(len(rows))
        if each.dialogues[one] != each.dialogues[other]
    ]
    return np.mean(found) if found else None


@settings(max_examples=50)
@given(ROWS)
def test_chance_is_the_mean_over_all_other_dialogues_labels_whatever_the_order(rows):
    found = values(rows).get("profile_situation_similarity_chance")
    dialogues = {row[0] for row in rows}
    assert (found is None) == (len(dialogues) < 2)
    if found is None:
        return
    assert found.value == pytest.approx(chance(rows), abs=1e-9)
    again = values(rows[::-1])
    assert found.value == pytest.approx(again[found.name].value, abs=1e-9)
    assert (found.interval is None) == (len(dialogues) < 3)
    if found.interval:
        without = np.array([chance([row for row in rows if row[0] != name]) for name in sorted(dialogues)])
        error = np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum())
        assert found.interval == pytest.approx(
            [max(found.value - Z * error, -100), min(found.value + Z * error, 100)], abs=1e-9
        )


@settings(max_examples=50)
@given(st.lists(VECTOR, min_size=2, max_size=8), VECTOR)
def test_what_is_said_of_everyone_is_as_near_as_by_chance(labels, field):
    found = values([(f"d{place}", field, label) for place, label in enumerate(labels)])
    near, by_chance = found["profile_situation_similarity"], found["profile_situation_similarity_chance"]
    assert near.value == pytest.approx(by_chance.value, abs=1e-9)
    low, high = near.interval
    assert low - 1e-9 <= near.value <= high + 1e-9


def test_the_names_say_what_is_better():
    near, by_chance = kind_of("profile_life_stage_similarity"), kind_of("profile_life_stage_similarity_chance")
    assert (near.label, near.better) == ("profile, life stage: nearness to the label, %", "higher")
    assert by_chance.label == "profile, life stage: nearness to labels of other dialogues, %"
    assert (by_chance.better, by_chance.headline) == ("neither", True)


# The part, with words in place of a sentence model

WORDS = ["job", "lost", "mother", "ill"]


class CountedWords:
    """A stand-in for the sentence model, which needs torch: a text is how often it has each of `WORDS`."""

    method = "counted words"

    def vectors(self, texts):
        counts = np.array([[text.split().count(word) for word in WORDS] for text in texts], float)
        return counts.reshape(-1, len(WORDS)) / np.maximum(np.linalg.norm(counts, axis=-1, keepdims=True), 1)


SENTENCES = SimpleNamespace(model=CountedWords())


def wrote(name, situation, emotion="sadness", problem="job crisis"):
    row = context(name, emotion, problem)
    return row.model_copy(update={"labels": {**(row.labels or {}), **({"situation": situation} if situation else {})}})


CONTEXTS = [
    wrote("aa", "i lost my job"),
    wrote("bb", "my mother is ill"),
    wrote("cc", "i lost my mother"),
    wrote("dd", None),
    wrote("ee", "only this is known", emotion=None, problem=None),
]
TEXTS = {
    "aa": FEELS % ("sad", "job"),
    "bb": FEELS % ("sad", "mother ill"),
    "cc": "{",
    "dd": FEELS % ("sad", "nothing known"),
}


def outcome(directory, contexts=CONTEXTS, sentences=SENTENCES, **profile):
    directory.mkdir(exist_ok=True)
    asked = EvaluationSettings.model_validate({**SETTINGS, "profile": profile})
    part = Profiles(contexts, asked, 3, sentences)
    rows = {f"{each.id}/profile": {**ANSWERED, "text": TEXTS[each.dialogue]} for each in part.contexts}
    return part.outcome(rows, directory)


def figures(found):
    return {figure.name: figure for figure in found.figures}


def test_with_a_sentence_model_the_situation_that_the_seeker_wrote_is_compared_too(tmp_path):
    with_model, without = outcome(tmp_path / "a"), outcome(tmp_path / "b", sentences=None)
    found, fewer = figures(with_model), figures(without)
    near, by_chance = found.pop("profile_situation_similarity"), found.pop("profile_situation_similarity_chance")
    assert found == fewer, "the other figures are what they were"
    assert with_model.details == without.details
    assert (near.rows, near.method.endswith("counts as 0; counted words")) == (3, True)
    assert near.value == pytest.approx((HALF + 100 + 0) / 3)
    # aa's field with bb's and cc's labels, bb's with aa's and cc's, and cc's, which is none.
    assert by_chance.value == pytest.approx((0 + 0 + 0 + 50 + 0 + 0) / 6)
    rows = [json.loads(line) for line in with_model.outputs["profiles"].read_text("utf-8").splitlines()]
    assert [row.get("similarity") for row in rows] == [
        {"situation": pytest.approx(HALF, abs=1e-4)},
        {"situation": pytest.approx(100)},
        {"situation": 0},
        None,
    ]
    assert rows[0]["labels"]["situation"] == "i lost my job"
    assert set(rows[0]["meant"]) == {"emotion", "problem"}
    assert [note for note in with_model.notes if "1 of 4 texts are no profiles" in note and "as 0" in note]


def test_without_that_text_in_the_data_nothing_is_missed(tmp_path):
    found = outcome(tmp_path, [wrote("aa", None), wrote("bb", None)])
    assert figures(found).keys() == figures(outcome(tmp_path, sentences=None)).keys()
    assert "similarity" not in found.outputs["profiles"].read_text("utf-8")


def test_a_run_may_compare_texts_alone_and_they_may_all_differ(tmp_path, monkeypatch):
    compare = [{"name": "story", "field": "situation", "label": "situation", "by": "similarity"}]
    contexts = [wrote(f"d{number}", f"job {number}") for number in range(250)]
    monkeypatch.setattr("tests.unit.test_profile_similarity.TEXTS", {row.dialogue: TEXTS["aa"] for row in contexts})
    found = outcome(tmp_path, contexts, compare=compare)
    assert {name: figure.value for name, figure in figures(found).items()} == pytest.approx(
        {"profile_story_similarity": 100, "profile_story_similarity_chance": 100}
    )
    assert found.details == {}


def test_where_no_text_is_a_profile_nothing_is_near(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.test_profile_similarity.TEXTS", dict.fromkeys(TEXTS, "{"))
    found = figures(outcome(tmp_path))
    assert found["profile_situation_similarity"].value == found["profile_situation_similarity_chance"].value == 0


# The packaged model


@pytest.mark.model
def test_evaluate_finds_the_nearer_of_two_profiles_with_the_packaged_model(tmp_path, minilm):
    wanted = ["I was fired last week and have no income.", "My best friend moved away and I feel alone."]
    contexts = [wrote("aa", wanted[0]), wrote("bb", wanted[1])]
    profiles = [FEELS % ("sad", "lost their job"), FEELS % ("sad", "misses a close friend")]

    def similarity(name, texts):
        space = make_workspace(tmp_path / name, SETTINGS, contexts, inputs={"sentence-model": minilm})
        for row, text in zip(contexts, texts, strict=True):
            space.rows.append(
                [
                    {"id": f"{row.id}/answer", **ANSWERED},
                    {"id": f"{row.id}/likelihood", "nll": 4, "tokens": 4},
                    {"id": f"{row.id}/profile", **ANSWERED, "text": text},
                ]
            )
        result = evaluate.run(space)
        (figure,) = (
            each
            for each in json.loads(result.outputs["metrics"].read_text())["figures"]
            if each["name"] == "profile_situation_similarity"
        )
        assert "first 256 tokens" in figure["method"]
        assert figure["interval"]
        return result.metrics["profile_situation_similarity"], result.metrics["profile_situation_similarity_chance"]

    right, by_chance = similarity("right", profiles)
    assert right > by_chance + 20
    assert similarity("wrong", profiles[::-1]) == pytest.approx((by_chance, right), abs=1e-3)
