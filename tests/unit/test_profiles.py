"""How accurate inferred profiles are: words and labels, figures against plain definitions, and the stage on the real model."""

import json
from dataclasses import replace

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import kind_of
from evolution_jobs.contract.profiles import ESCONV
from evolution_jobs.contract.rows import Context, Response, Turn
from evolution_jobs.contract.settings import EvaluationSettings, ReflectionSettings
from evolution_jobs.metrics.profiles import NO_WORD, UNPARSED, Compared, Vocabulary, agreement, confusion
from evolution_jobs.stages import evaluate
from evolution_jobs.stages.profiles import HOLDING, Profiles
from evolution_jobs.stages.rewriting import Candidate, Rewriter
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stages.workspace import LocalWorkspace

# Words


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("anxious and sad", "anxiety"),
        ("Sad, and a little anxious", "sadness"),
        ("ON  EDGE", "nervousness"),
        ("saddled with work", None),
        ("madly in love", None),
        ("", None),
        ("heartbroken", "sadness"),
        ("nervousness", "nervousness"),
    ],
)
def test_the_first_whole_word_decides_what_an_emotion_means(text, meant):
    assert Vocabulary(ESCONV[0].values, []).meant(text) == meant


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("was laid off last week", "job crisis"),
        ("her boyfriend left her", "breakup with partner"),
        ("cannot sleep before exams", "sleep problems"),
        ("quarrels with her mother", "conflict with parents"),
    ],
)
def test_a_situation_means_a_problem(text, label):
    assert Vocabulary(ESCONV[1].values, []).meant(text) == label


def test_labels_of_the_data_are_known_in_any_case_by_another_name_and_unlisted():
    known = Vocabulary({"tired": ["worn out"]}, ["TIRED", "Worn  out", "Puzzled"])
    assert [known.of_data(label) for label in ("TIRED", "Worn  out", "Puzzled")] == ["tired", "tired", "puzzled"]
    assert known.meant("puzzled, and worn out") == "puzzled"


def test_the_longer_word_counts_where_two_begin_at_one_place():
    known = Vocabulary({"ill": ["sick"], "fed up": ["sick and tired"]}, [])
    assert known.meant("sick and tired of it") == "fed up"
    assert known.meant("sick and alone") == "ill"


def test_scripts_without_spaces_have_no_ends_of_words():
    assert Vocabulary({"悲伤": ["难过"]}, []).meant("他很难过了") == "悲伤"


def test_the_defaults_name_each_word_once():
    for comparison in ESCONV:
        words = [word.casefold() for label, others in comparison.values.items() for word in (label, *others)]
        assert len(set(words)) == len(words)


WORD = st.text("abc", min_size=1, max_size=3)


@given(
    st.dictionaries(WORD, st.lists(WORD, max_size=3), max_size=4),
    st.lists(WORD, max_size=4),
    st.text("abc ", max_size=20),
)
def test_what_a_text_means_is_the_first_of_its_known_words(values, data, text):
    known = Vocabulary(values, data)
    labels = {label: label for label in values}
    for label, words in values.items():
        labels |= {word: label for word in words if word not in labels}
    labels |= {label: label for label in data if label not in labels}
    assert known.meant(text) == next((labels[word] for word in text.split() if word in labels), None)


# Figures

LABELS = st.sampled_from(["a", "b", "c"])
ROWS = st.lists(
    st.builds(
        Compared, st.uuids().map(str), st.sampled_from("xyz"), LABELS, LABELS | st.sampled_from([NO_WORD, UNPARSED])
    ),
    min_size=1,
    max_size=30,
)


def values(rows):
    return {figure.name: figure for figure in agreement("mood", rows)}


def f1(rows, label):
    right = sum(row.label == row.meant == label for row in rows)
    wrong = sum((row.label == label) != (row.meant == label) for row in rows)
    return 2 * right / (2 * right + wrong)


@given(ROWS)
def test_figures_are_those_of_their_definitions(rows):
    found = values(rows)
    assert set(found) == {"profile_mood_accuracy", "profile_mood_macro_f1"}
    labels = {row.label for row in rows}
    accuracy = 100 * sum(row.label == row.meant for row in rows) / len(rows)
    assert found["profile_mood_accuracy"].value == pytest.approx(accuracy)
    macro = 100 * sum(f1(rows, label) for label in labels) / len(labels)
    assert found["profile_mood_macro_f1"].value == pytest.approx(macro)
    for figure in found.values():
        assert figure.unit == "percent"
        assert kind_of(figure.name).better == "higher"
        assert (figure.interval is None) == (len({row.dialogue for row in rows}) < 2)
        low, high = figure.interval or (0, 100)
        assert -1e-9 <= low <= figure.value + 1e-9
        assert figure.value - 1e-9 <= high <= 100 + 1e-9


@given(ROWS)
def test_right_profiles_have_all_points_and_order_does_not_count(rows):
    right = [row._replace(meant=row.label) for row in rows]
    assert {figure.value for figure in agreement("mood", right)} == {100}
    assert {name: figure.value for name, figure in values(rows[::-1]).items()} == {
        name: pytest.approx(figure.value) for name, figure in values(rows).items()
    }


@given(ROWS)
def test_a_confusion_counts_every_row_once(rows):
    table = confusion(rows)
    assert sum(sum(each.values()) for each in table.values()) == len(rows)
    assert [sum(each.values()) for each in table.values()] == sorted(sum(each.values()) for each in table.values())[
        ::-1
    ]
    for row in rows:
        assert table[row.label][row.meant] == sum(other[2:] == row[2:] for other in rows)


def test_the_interval_of_macro_f1_includes_its_value_where_labels_are_rare():
    common = [Compared(f"{label}{n}", f"{label}{n}", label, label) for label in "abc" for n in range(20)]
    rare = [Compared(f"rare{n}", f"rare{n}", f"rare{n}", NO_WORD) for n in range(10)]
    figure = values([*common, *rare])["profile_mood_macro_f1"]
    low, high = figure.interval
    assert figure.value == pytest.approx(100 * 3 / 13)
    assert low < figure.value < high


@pytest.mark.parametrize("name", ["profile_accuracy", "profile_x_recall", "profile__accuracy", "profiles"])
def test_no_other_figure_is_taken_for_a_profile_s(name):
    assert kind_of(name) is None


# The stage

SPOKEN = ["My sister stopped talking to me.", "When was that?", "Last month. I cry every day.", "That hurts."]
ANSWERED = {"text": "I see.", "tokens": 4, "finish": "stop", "truncated_turns": 0}
SETTINGS = {"temperature": 0, "maxNewTokens": 4, "driftContexts": 0, "profile": {}}
FEELS = '{"personality":"shy","emotionalState":"%s","situation":"%s","needs":"rest"}'


def context(name, emotion=None, problem=None):
    labels = {"emotion_type": emotion, "problem_type": problem}
    labels = {path: label for path, label in labels.items() if label}
    turns = [Turn(role=("seeker", "supporter")[place % 2], text=text) for place, text in enumerate(SPOKEN[:3])]
    return Context(id=f"{name}-3", dialogue=name, turns=turns, human=SPOKEN[3], labels=labels or None)


CONTEXTS = [
    context("aa", "sadness", "job crisis"),
    context("bb", "Sadness", "Issues with Parents"),
    context("cc", "fear"),
    context("dd"),
]


def make_workspace(root, settings, contexts=CONTEXTS, **options):
    root.mkdir(exist_ok=True)
    test_set = root / "test.jsonl"
    test_set.write_text("".join(json.dumps(row.wire()) + "\n" for row in contexts))
    inputs = {"test": test_set, **options.pop("inputs", {})}
    return LocalWorkspace(root, "evaluate", settings, inputs=inputs, **options)


def finished(root, texts, settings=SETTINGS):
    """The result where every row is there already: these texts were written as profiles."""
    space = make_workspace(root, settings)
    for row in CONTEXTS:
        space.rows.append(
            [{"id": f"{row.id}/answer", **ANSWERED}, {"id": f"{row.id}/likelihood", "nll": 4, "tokens": 4}]
        )
    space.rows.append({"id": f"{id_}/profile", **ANSWERED, "text": text} for id_, text in texts.items())
    return evaluate.run(space)


def profiles_of(result):
    return [json.loads(line) for line in result.outputs["profiles"].read_text("utf-8").splitlines()]


def test_profiles_are_compared_with_the_labels_of_their_contexts(tmp_path):
    texts = {"aa-3": FEELS % ("very sad", "lost her job"), "bb-3": FEELS % ("tired", "her mother is ill"), "cc-3": "{"}
    result = finished(tmp_path, texts)
    assert result.metrics["profile_emotion_accuracy"] == pytest.approx(100 / 3, abs=1e-4)
    assert result.metrics["profile_emotion_macro_f1"] == pytest.approx(100 * (2 / 3 + 0) / 2, abs=1e-4)
    assert result.metrics["profile_problem_accuracy"] == 100
    assert result.counts.items() >= {"profiles": 3, "profiles.unparsed": 1}.items()
    table = {
        "emotion": {"sadness": {"sadness": 1, NO_WORD: 1}, "fear": {UNPARSED: 1}},
        "problem": {"job crisis": {"job crisis": 1}, "conflict with parents": {"conflict with parents": 1}},
    }
    assert result.details["profiles"] == table
    assert json.loads(result.outputs["metrics"].read_text())["profiles"] == table
    rows = profiles_of(result)
    assert [row["id"] for row in rows] == ["aa-3", "bb-3", "cc-3"]
    assert rows[1]["labels"] == {"emotion": "Sadness", "problem": "Issues with Parents"}
    assert rows[1]["meant"] == {"emotion": NO_WORD, "problem": "conflict with parents"}
    assert rows[2] == {
        "id": "cc-3",
        "dialogue": "cc",
        "text": "{",
        "labels": {"emotion": "fear"},
        "meant": {"emotion": UNPARSED},
    }
    assert [note for note in result.notes if "1 of 3 texts are no profiles" in note]


def test_declared_fields_with_values_are_compared_word_for_word(tmp_path):
    settings = {
        **SETTINGS,
        "profile": {"compare": [{"name": "mood", "field": "mood", "label": "emotion_type"}]},
        "profileFields": [{"name": "mood", "values": ["sadness", "fear"]}],
    }
    texts = {"aa-3": '{"mood":"sadness"}', "bb-3": '{"mood":"fear"}', "cc-3": '{"mood":"fear"}'}
    result = finished(tmp_path, texts, settings)
    assert result.metrics["profile_mood_accuracy"] == pytest.approx(200 / 3, abs=1e-4)
    assert result.details["profiles"]["mood"]["sadness"] == {"sadness": 1, "fear": 1}


def test_a_label_that_no_context_has_is_named(tmp_path):
    with pytest.raises(PermanentError, match="none of 1 labelled contexts has the label 'problem_type'"):
        evaluate.run(make_workspace(tmp_path, SETTINGS, [CONTEXTS[2]]))


def test_a_label_that_is_free_text_is_refused():
    contexts = [context(f"d{number}", f"feeling {number}") for number in range(201)]
    compare = [{"name": "mood", "field": "emotionalState", "label": "emotion_type"}]
    settings = {**SETTINGS, "profile": {"compare": compare}}
    with pytest.raises(PermanentError, match="the label 'emotion_type' of comparison 'mood' has 201 values") as error:
        Profiles(contexts, EvaluationSettings.model_validate(settings), seed=3)
    assert error.value.reason == "TooManyLabels"
    # What counts is what the labels stand for.
    compare[0]["values"] = {"low": ["feeling 0", "feeling 1"]}
    Profiles(contexts, EvaluationSettings.model_validate(settings), seed=3)


def test_the_request_is_reflect_s_but_for_the_answer():
    fields = [{"name": "emotionalState"}, {"name": "situation", "values": ["alone", "with others"]}]
    settings = EvaluationSettings.model_validate({**SETTINGS, "temperature": 0.7, "profileFields": fields})
    asked = Profiles(CONTEXTS, settings, seed=3).request(CONTEXTS[0])
    draft = Response(id="aa-3", text=HOLDING, finish="stop", tokens=9)
    reflection = ReflectionSettings.model_validate({"temperature": 0.7, "fields": fields})
    usual = Rewriter(reflection, seed=3).start(Candidate(CONTEXTS[0], draft, "self"))
    ours = {"id": usual.id, "seed": usual.seed, "extended": usual.extended}
    assert replace(asked, **ours) == usual
    assert SPOKEN[3] not in json.dumps(asked.messages), "the human answer would tell what the person feels"


@pytest.mark.model
def test_the_small_model_s_profiles_have_figures(tmp_path, small_model):
    settings = {**SETTINGS, "profile": {"maxNewTokens": 48}}
    result = evaluate.run(make_workspace(tmp_path, settings, CONTEXTS[:1], inputs={"model": small_model}))
    (row,) = profiles_of(result)
    assert set(row["profile"]) == {"personality", "emotionalState", "situation", "needs"}
    assert result.counts.items() >= {"profiles": 1, "profiles.unparsed": 0}.items()
    assert result.metrics["profile_emotion_accuracy"] in (0, 100)
    assert set(result.details["profiles"]) == {"emotion", "problem"}
