"""Sentence embeddings: figures against plain definitions, the packaged model, what prepare refuses, and the stage."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import SentenceModelSource, Storage
from evolution_jobs.contract.rows import Context, Turn
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.embeddings import Vectors, diversity, figures
from evolution_jobs.models.sentence import resolve_sentence
from evolution_jobs.stages import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.support.stages.model_directory import model_directory
from tests.support.stages.workspace import LocalWorkspace

FILES = Storage(uri="file:///storage")


def unit(*rows):
    vectors = np.array(rows, float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_figures_by_hand():
    rows = Answered(["a", "b"], ["c", "d"], dialogues=["x", "x"], ids=["1", "2"])
    vectors = Vectors(answers=unit([1, 0], [1, 1]), humans=unit([1, 0], [0, 1]), asked=unit([0, 1], [0, 1]))
    found = {figure.name: figure for figure in figures(rows, vectors, "a model")}
    half = 100 / np.sqrt(2)
    assert found["embedding_relevance"].value == pytest.approx((0 + half) / 2)
    assert found["embedding_relevance"].human == pytest.approx((0 + 100) / 2)
    assert found["embedding_similarity"].value == pytest.approx((100 + half) / 2)
    assert found["embedding_similarity"].human is None
    assert found["embedding_diversity"].value == pytest.approx(100 - half)
    assert found["embedding_diversity"].human == pytest.approx(100)
    assert all(figure.interval is None and "a model" in figure.method for figure in found.values())
    alone = figures(rows.only([0]), vectors.only([0]), "a model", "set")
    assert [(figure.name, figure.set) for figure in alone] == [
        ("embedding_relevance", "set"),
        ("embedding_similarity", "set"),
    ]


def test_the_interval_of_diversity_ends_where_cosines_do():
    found = diversity(np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]]), [str(row) for row in range(5)]).interval()
    assert found is not None
    assert found[0] == 0


ROWS = st.lists(
    st.tuples(st.tuples(st.integers(1, 5), st.integers(-5, 5), st.integers(-5, 5)), st.sampled_from("abcd")),
    min_size=2,
    max_size=12,
)


@settings(max_examples=50)
@given(ROWS)
def test_diversity_is_the_mean_over_all_pairs_and_its_jackknife_leaves_out_dialogues(drawn):
    vectors, dialogues = unit(*(row for row, _ in drawn)), [dialogue for _, dialogue in drawn]

    def of_pairs(kept):
        return 100 * (1 - np.mean([one @ other for one, other in combinations(kept, 2)]))

    found = diversity(vectors, dialogues)
    assert found.value == pytest.approx(of_pairs(vectors), abs=1e-9)
    left = {each: vectors[[dialogue != each for dialogue in dialogues]] for each in dict.fromkeys(dialogues)}
    if len(left) < 2 or min(map(len, left.values())) < 2:
        assert found.interval() is None
    else:
        assert found.replicates == pytest.approx([of_pairs(kept) for kept in left.values()], abs=1e-9)
    assert diversity(np.repeat(vectors[:1], len(vectors), axis=0), dialogues).value == pytest.approx(0, abs=1e-9)


# What prepare refuses


def sentence_model(path: Path, **config) -> Path:
    directory = model_directory(path)
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", **config}), "utf-8")
    (directory / "tokenizer_config.json").write_text("{}", "utf-8")
    return directory


def refusal(uri: str, directory: Path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        resolve_sentence(SentenceModelSource(uri=uri), FILES, directory)
    assert str(caught.value).startswith("evaluation.sentenceModel.uri: ")
    return caught.value


def test_a_sentence_model_needs_no_chat_template(tmp_path):
    directory = sentence_model(tmp_path / "model")
    found = resolve_sentence(SentenceModelSource(uri=directory.as_uri()), FILES, tmp_path)
    assert found.reference == directory.as_uri()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["LlamaForCausalLM"]}, "it is a LlamaForCausalLM"),
        ({"model_type": "nothing"}, "no model of type 'nothing'"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, config, words):
    error = refusal(sentence_model(tmp_path / "model", **config).as_uri(), tmp_path)
    assert (error.reason, words in str(error)) == ("SentenceModelUnfit", True)


def test_a_missing_or_broken_one_is_refused_before_anything_runs(tmp_path):
    missing = refusal("package://there_is_no_such_package", tmp_path)
    assert (missing.reason, "pip install" in str(missing)) == ("ModelMissing", True)
    directory = sentence_model(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    assert refusal(directory.as_uri(), tmp_path).reason == "ModelIncomplete"
    save_file({"encoder.layer.0.x": np.ones(1, np.float32)}, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 2}', "utf-8")
    assert "lack 1 of 2 layers" in str(refusal(directory.as_uri(), tmp_path))


# The packaged model


TEXTS = ["I lost my job.", "My boss fired me last week.", "The recipe needs two eggs and a cup of sugar.", ""]


@pytest.mark.model
def test_vectors_are_mean_pooled_whatever_shares_their_batch(minilm):
    import torch
    from evolution_jobs.engines.sentences import SentenceModel
    from transformers import AutoModel, AutoTokenizer

    model = SentenceModel.load(minilm)
    vectors = model.vectors([*TEXTS, "word " * 600])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert model.vectors(["word " * 600])[0] == pytest.approx(model.vectors(["word " * 300])[0], abs=1e-5)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.4 > 0.2 > cosines[0, 2]
    tokenizer, plain = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm).eval()
    for text, vector in zip(TEXTS, vectors, strict=False):
        with torch.no_grad():
            states = plain(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        assert vector == pytest.approx((states / states.norm()).numpy(), abs=1e-5)
    assert "first 256 tokens" in model.method


@pytest.mark.model
def test_evaluate_has_the_figures_of_all_rows_and_of_each_set(tmp_path, minilm):
    contexts = [
        Context(
            id=f"{name}-1",
            dialogue=name,
            turns=[Turn(role="seeker", text=TEXTS[0])],
            human="Losing a job is hard.",
            set=of,
        )
        for name, of in (("aa", "one"), ("bb", "one"), ("cc", "two"))
    ]
    test_set = tmp_path / "test.jsonl"
    test_set.write_text("".join(json.dumps(row.wire()) + "\n" for row in contexts))
    space = LocalWorkspace(
        tmp_path, "evaluate", {"driftContexts": 0}, inputs={"test": test_set, "sentence-model": minilm}
    )
    for row, text in zip(contexts, (TEXTS[1], TEXTS[2], TEXTS[1]), strict=True):
        space.rows.append(
            [
                {"id": f"{row.id}/answer", "text": text, "tokens": 4, "finish": "stop", "truncated_turns": 0},
                {"id": f"{row.id}/likelihood", "nll": 4, "tokens": 4},
            ]
        )
    result = evaluate.run(space)
    written = json.loads(result.outputs["metrics"].read_text())
    found = {(each.get("set"), each["name"]): each for each in written["figures"] if "embedding" in each["name"]}
    assert found[None, "embedding_relevance"]["value"] == written["metrics"]["embedding_relevance"]
    assert found["two", "embedding_relevance"]["value"] > found["one", "embedding_relevance"]["value"]
    assert written["human"]["embedding_diversity"] == pytest.approx(0, abs=1e-4)
    assert result.metrics["embedding_diversity"] > 10
    assert ("two", "embedding_diversity") not in found
