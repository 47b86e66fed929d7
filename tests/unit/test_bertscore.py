"""BERTScore: only where it is asked for, with a sentence model and the library.

The library is in no pinned environment, so a stand-in plays it here: a text has the F1 of its shared words. What is tested is
what the library is given, and what is made of its values.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.engines import bertscore
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.embeddings import bertscore_figure
from evolution_jobs.stages import evaluate

from tests.unit.test_evaluate import CONTEXTS, finished, make_workspace

ASKED = {"driftContexts": 0, "optionalFigures": ["bertscore"]}


def shared_words(human, answer):
    one, other = set(human.split()), set(answer.split())
    return 2 * len(one & other) / (len(one) + len(other))


class Library(ModuleType):
    """What is used of bert-score, with its parameters."""

    def __init__(self):
        super().__init__("bert_score.utils")
        self.calls = []

    def bert_cos_score_idf(self, model, refs, hyps, tokenizer, idf_dict, device):
        assert all(text.strip() for text in [*refs, *hyps]), "it fails on empty texts with transformers 5"
        self.calls.append(SimpleNamespace(model=model, tokenizer=tokenizer, weights=idf_dict, device=device))
        return np.array([[0, 0, shared_words(*pair)] for pair in zip(refs, hyps, strict=True)])

    def get_hash(self, model, num_layers, idf, rescale_with_baseline, use_custom_baseline, use_fast_tokenizer):
        return f"{model}_L{num_layers}{'_idf' if idf else '_no-idf'}_version=stand-in"


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", ModuleType("bert_score"))
    monkeypatch.setitem(sys.modules, "bert_score.utils", Library())
    return sys.modules["bert_score.utils"]


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)


SENTENCES = SimpleNamespace(
    model=SimpleNamespace(config=SimpleNamespace(num_hidden_layers=6)),
    tokenizer=SimpleNamespace(sep_token_id=2, cls_token_id=1, is_fast=True),
    source="weights sha256 abc, first 256 tokens",
)


def test_an_empty_answer_has_0_and_is_not_given_to_the_library(library):
    answers, humans = ["a b", " \n", "", "c"], ["a b", "x", "y", "c d"]
    assert bertscore.f1(answers, humans, SENTENCES) == pytest.approx([100, 0, 0, 100 * 2 / 3])
    assert bertscore.f1(["", " "], ["x", "y"], SENTENCES).tolist() == [0, 0]
    (call,) = library.calls
    assert (call.model, call.tokenizer, call.device) == (SENTENCES.model, SENTENCES.tokenizer, "cpu")
    assert [call.weights[token] for token in (1, 2, 3)] == [0, 0, 1]


def test_the_method_has_the_librarys_signature_and_the_model(library):
    words = bertscore.method(SENTENCES)
    assert "bert-score model_L6_no-idf_version=stand-in; model: weights sha256 abc, first 256 tokens" in words


def test_the_figure_is_the_mean_with_an_interval_by_dialogue():
    rows = Answered(["a"] * 4, ["b"] * 4, dialogues=["one", "one", "two", "two"], ids=list("1234"))
    figure = bertscore_figure(rows, np.array([80.0, 80, 20, 20]), "as said")
    assert (figure.name, figure.value, figure.unit, figure.method) == ("bertscore_f1", 50, "percent", "as said")
    # Whole dialogues are drawn, so a resample is of 20, 50 or 80.
    assert figure.interval == pytest.approx([20, 80])
    assert bertscore_figure(rows.only([0, 1]), np.array([80.0, 80]), "as said", "set").interval is None


def test_without_the_library_evaluate_says_so_before_it_loads_a_model(tmp_path, absent):
    with pytest.raises(PermanentError, match=r"evaluation\.optionalFigures: bertscore needs .*\[bertscore\]") as caught:
        evaluate.run(make_workspace(tmp_path, ASKED))
    assert caught.value.reason == "DependencyMissing"


@pytest.mark.model
def test_evaluate_has_it_of_all_rows_and_of_each_set_if_the_run_asks(tmp_path, library, minilm):
    contexts = [row.model_copy(update={"set": "one" if row is CONTEXTS[0] else "two"}) for row in CONTEXTS]
    texts = ["", *(row.human for row in contexts[1:])]
    more = {"sentence-model": minilm}
    result = finished(make_workspace(tmp_path / "asked", ASKED, contexts=contexts, more=more), contexts, texts)
    mean = 100 * (len(contexts) - 1) / len(contexts)
    assert result.metrics["bertscore_f1"] == pytest.approx(mean, abs=1e-3)
    written = json.loads(result.outputs["metrics"].read_text())["figures"]
    found = {each.get("set"): each for each in written if each["name"] == "bertscore_f1"}
    assert {name: each["value"] for name, each in found.items()} == pytest.approx({None: mean, "one": 0, "two": 100})
    assert "model: weights sha256" in found[None]["method"]
    (call,) = library.calls
    # The model states 256, its tokenizer another number.
    assert call.tokenizer.model_max_length == 256
    assert call.model.config.num_hidden_layers == 6
    unasked = finished(
        make_workspace(tmp_path / "not", {"driftContexts": 0}, contexts=contexts, more=more), contexts, texts
    )
    assert "bertscore_f1" not in unasked.metrics
