"""METEOR: only where it is asked for, with nltk's own values, and a clear word where WordNet is missing."""

from types import SimpleNamespace

import nltk
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.metrics import meteor
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.compare import compare
from evolution_jobs.metrics.measures import BY_NAME
from evolution_jobs.metrics.score import score
from evolution_jobs.stages import evaluate

from tests.unit.test_evaluate import CONTEXTS, finished, make_workspace, rows
from tests.unit.test_strategies import answer

SYNONYMS = [{"sad", "blue"}]


class Synonyms:
    """WordNet with one set of synonyms."""

    def synsets(self, word):
        return [SimpleNamespace(lemmas=lambda each=each: map(lemma, each)) for each in SYNONYMS if word in each]

    def get_version(self):
        return "of two words"


def lemma(word):
    return SimpleNamespace(name=lambda: word)


@pytest.fixture
def present(monkeypatch):
    monkeypatch.setattr(meteor, "wordnet", Synonyms)


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setattr(meteor, "wordnet", lambda: None)


def of(answer, human):
    return BY_NAME["meteor"].estimate(Answered([answer], [human])).value


def test_values_by_hand_and_of_the_library(present):
    # One chunk of all words: the penalty is 0.5 / 3^3.
    assert of("i am happy", "i am happy") == pytest.approx(100 * (1 - 0.5 / 27))
    assert of("i am sad", "i am blue") == pytest.approx(100 * (1 - 0.5 / 27))
    # Precision 2/3, recall 1: 10 P R / (R + 9 P), by which nltk weighs recall; one chunk of two words.
    assert of("i am so", "i am") == pytest.approx(100 * (1 - 0.5 / 8) * (2 / 3) / (0.9 * 2 / 3 + 0.1))
    assert of("running", "runs") == pytest.approx(50)
    assert of("", "yes") == of("no", "yes") == 0
    # From nltk's own documentation.
    said = "It is a guide to action which ensures that the military always obeys the commands of the party"
    human = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert of(said, human) == pytest.approx(69.44, abs=0.01)


def test_it_is_computed_only_where_it_is_asked_for(present):
    answered = Answered(["i am sad"], ["i am blue"])
    assert "meteor" not in score(answered)["metrics"]
    found = {each["name"]: each for each in score(answered, also=["meteor"])["figures"]}
    assert nltk.__version__ in found["meteor"]["method"]
    assert "WordNet of two words" in found["meteor"]["method"]
    models = {name: [answer(1, "I see.", None)] for name in ("one", "two")}
    assert "meteor" not in compare(models).values["one"]
    assert set(compare(models, ["meteor"]).values["one"]) == {"meteor"}


def test_without_wordnet_evaluate_says_so_before_it_loads_a_model(tmp_path, absent):
    space = make_workspace(tmp_path, {"optionalFigures": ["meteor"]})
    with pytest.raises(PermanentError, match=r"evaluation\.optionalFigures: METEOR needs WordNet") as caught:
        evaluate.run(space)
    assert caught.value.reason == "DependencyMissing"
    models = {name: [answer(1, "I see.", None)] for name in ("one", "two")}
    assert "nltk.downloader" in compare(models, ["meteor", "distinct1"]).not_compared["meteor"]


def test_evaluate_has_it_if_the_run_asks(tmp_path, present):
    settings = {"driftContexts": 0, "optionalFigures": ["meteor"]}
    result = finished(make_workspace(tmp_path, settings), CONTEXTS, [row.human for row in CONTEXTS])
    assert len(rows(result)) == len(CONTEXTS)
    assert result.metrics["meteor"] > 98


def test_absence_is_found_in_nltk_itself(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    from nltk.corpus import wordnet

    if type(wordnet).__name__ == "LazyCorpusLoader":  # not loaded by another test yet
        assert meteor.wordnet() is None
