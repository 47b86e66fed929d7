"""Metrics against values worked out by hand, against NLTK and sacrebleu themselves, and by what must hold of any text."""

import json
import math
import random

import numpy as np
import pytest
import sacrebleu
import torch
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import OF_ANSWERS
from evolution_jobs.metrics.answered import Answered
from evolution_jobs.metrics.bootstrap import bootstrap, holm, jackknife, per_row, ratio
from evolution_jobs.metrics.measures import BY_NAME
from evolution_jobs.metrics.overlap import (
    bleu_of_sums,
    bleu_sacre,
    bleu_statistics,
    rouge_l,
    sacre_of_sums,
    sacre_statistics,
    sacre_words,
)
from evolution_jobs.metrics.perplexity import Passage, answer_losses
from evolution_jobs.metrics.score import score as score_rows
from evolution_jobs.metrics.score import score_files
from evolution_jobs.metrics.stock_phrases import holds_stock_phrase
from evolution_jobs.metrics.style import self_repeat
from evolution_jobs.metrics.words import reference_words
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from transformers import LlamaConfig, LlamaForCausalLM

word = st.sampled_from(["i", "you", "feel", "sad", "alone", "today", ".", "?", "never"])
words = st.lists(word, max_size=12)
corpora = st.lists(st.tuples(words, words), min_size=1, max_size=6)
texts = st.lists(
    st.tuples(words.map(" ".join), st.lists(word, min_size=1, max_size=12).map(" ".join)), min_size=1, max_size=6
)


def score(answers, humans, dialogues=None):
    return score_rows(Answered(answers, humans, dialogues))


def value(name, answers):
    """A reference-free figure of the answers."""
    return BY_NAME[name].estimate(Answered(answers, answers)).value


def sums_of(pairs, statistics=bleu_statistics):
    return np.array([statistics(*pair) for pair in pairs], float).sum(axis=0, keepdims=True)


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's hard. I can't.", "it 's hard . i ca n't ."),
        ("I am ok. Thanks.", "i am ok. thanks ."),  # Punkt takes "ok." for Oklahoma
        ("Dr. Lee helped, e.g. by listening.", "dr. lee helped , e.g . by listening ."),
        ("In 2019. then we met!", "in 2019. then we met !"),  # no sentence ends after a number
        ("Wait... what?!", "wait ... what ? !"),
        ('She said "no". I left.', "she said `` no '' . i left ."),
        ("(I did.) Why?", "( i did . ) why ?"),
        ("  ", ""),
    ],
)
def test_reference_words(text, expected):
    assert reference_words(text) == expected.split()


def test_a_period_is_a_word_at_the_end_of_each_sentence_not_only_of_the_text():
    assert reference_words("I lost. I cried.").count(".") == 2


@given(st.text(alphabet="aAiI okr.?!\"'()1,;:-\n", max_size=60))
def test_reference_words_equal_word_tokenize_where_its_data_is_installed(text):
    try:
        expected = word_tokenize(text.lower())
    except LookupError:
        pytest.skip("NLTK's punkt_tab data is not installed")
    assert reference_words(text) == expected


# BLEU and ROUGE-L


@pytest.mark.parametrize(
    ("hypothesis", "reference", "order", "expected"),
    [
        ("the cat sat", "the cat ran", 2, math.sqrt(2 / 3 * 1 / 2)),
        # No trigram matches (1/2 of 1), and there is no 4-gram (1/4 of 1): smoothing method 3.
        ("the cat sat", "the cat ran", 4, (2 / 3 * 1 / 2 * 1 / 2 * 1 / 4) ** 0.25),
        ("the cat", "the cat sat on", 2, math.exp(1 - 4 / 2)),
        ("the the the", "the cat", 2, math.sqrt(1 / 3 * 1 / 4)),
        ("dogs bark", "the cat", 2, 0),
        ("", "the cat", 4, 0),
    ],
)
def test_bleu_by_hand(hypothesis, reference, order, expected):
    assert bleu_of_sums(sums_of([(hypothesis.split(), reference.split())]), order)[0] == pytest.approx(100 * expected)


@given(corpora)
def test_bleu_of_summed_statistics_is_the_corpus_bleu_of_nltk(pairs):
    hypotheses, references = zip(*pairs, strict=True)
    for order in (1, 2, 3, 4):
        # The reference implementation's own call: weights of four orders, those above `order` being 0.
        weights = [1 / order] * order + [0.0] * (4 - order)
        expected = corpus_bleu([[r] for r in references], hypotheses, weights, SmoothingFunction().method3)
        assert bleu_of_sums(sums_of(pairs), order)[0] == pytest.approx(100 * expected, abs=1e-9)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        # Longest common subsequence 2: precision 2/3, recall 2/4.
        ("a b c", "a c d e", 2.44 * (2 / 3) * (1 / 2) / (1 / 2 + 1.44 * 2 / 3)),
        ("c b a", "a b c", 1 / 3),
        ("a b", "c d", 0),
        ("", "a", 0),
    ],
)
def test_rouge_l_by_hand(hypothesis, reference, expected):
    assert rouge_l(hypothesis.split(), reference.split()) == pytest.approx(100 * expected)


def test_sacrebleu_is_sacrebleus_own_with_its_signature():
    hypotheses = ["I hear that you are tired.", "What happened then?"]
    references = ["I hear you are very tired.", "What happened next?"]
    value, signature = bleu_sacre(hypotheses, references)
    assert value == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert 0 < value < 100
    assert "tok:13a" in signature
    assert f"version:{sacrebleu.__version__}" in signature


@given(texts)
@settings(deadline=None)
def test_the_words_of_sacrebleu_give_its_own_value(pairs):
    answers, humans = zip(*pairs, strict=True)
    words = zip(sacre_words(answers, humans), sacre_words(humans, humans), strict=True)
    assert sacre_of_sums(sums_of(words, sacre_statistics))[0] == pytest.approx(bleu_sacre(answers, humans)[0], abs=1e-9)


# Style


@pytest.mark.parametrize(
    ("order", "correct", "reference"),
    [
        # a b a | c: 4 words, 3 different; the reference drops a and c, and with c its whole answer.
        (1, 3 / 4, 2 / 2),
        (2, 2 / 2, 1 / 1),
        (3, 1 / 1, 0),
    ],
)
def test_distinct_by_hand_and_the_reference_that_drops_each_last_ngram(order, correct, reference):
    answers = ["a b a", "c"]
    assert value(f"distinct{order}", answers) == pytest.approx(100 * correct)
    assert value(f"distinct{order}_ref", answers) == pytest.approx(100 * reference)


def test_distinct_counts_over_all_answers_together():
    assert value("distinct1", ["a b", "a b"]) == 50


def test_self_repeat_and_duplicates_by_hand():
    assert self_repeat(["i", "am", "i", "am", "i", "am"]) == pytest.approx(100 / 3)  # 3 4-grams, 2 different
    assert self_repeat(["i", "am"]) == 0
    assert value("duplicate_rate", ["I see.", "i  see.", "Why?", "I see. "]) == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It sounds like you had a bad day.", True),
        ("I\N{RIGHT SINGLE QUOTATION MARK}m so sorry\nto hear that", True),
        ("im sorry to hear it", True),
        ("You're not alone.", True),
        ("What did the professor say?", False),
        ("It sounds likely to me.", False),
        ("", False),
    ],
)
def test_stock_phrases(text, expected):
    assert holds_stock_phrase(text) is expected


# Scores and their intervals


@given(texts, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_scores_are_bounded_and_do_not_depend_on_the_order_of_rows(pairs, generator):
    figures = score(*zip(*pairs, strict=True))["metrics"]
    generator.shuffle(pairs)
    assert score(*zip(*pairs, strict=True))["metrics"] == pytest.approx(figures)
    for name, value in figures.items():
        assert 0 <= value <= 100 + 1e-9, name


def test_an_interval_of_a_share_ends_where_a_share_can():
    """A jackknife's interval is symmetric: with these rows it would reach 104."""
    words = [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "h"]]
    low, high = jackknife(words, lambda distinct, total: 100 * distinct / total).interval()
    assert high > 100
    scores = score([" ".join(each) for each in words], ["x y z"] * 3)
    assert scores["intervals"]["distinct1"] == pytest.approx([low, 100])
    assert scores["intervals"]["duplicate_rate"][0] >= 0


@given(st.lists(st.lists(word, min_size=5, max_size=12).map(" ".join), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_copy_has_the_highest_scores_and_the_style_of_the_human(human):
    scores = score(human, human)
    for name in ("bleu2_ref", "bleu4_ref", "rougeL_ref", "bleu_sacre"):
        assert scores["metrics"][name] == pytest.approx(100), name
    assert scores["human"].items() <= scores["metrics"].items()
    assert scores["intervals"]["bleu2_ref"] == pytest.approx([100, 100])


CHINESE = (["我很难过，因为我丢了工作。", "谢谢你听我说话。"], ["我很难过，因为我没了工作。", "谢谢你听我说。"])
JAPANESE = (["今日はとても疲れました。"], ["今日はすごく疲れました。"])
THAI = (["วันนี้ฉันเหนื่อยมาก"], ["วันนี้ฉันเศร้ามาก"])


@pytest.mark.parametrize(("pair", "tokeniser"), [(CHINESE, "tok:zh"), (JAPANESE, "tok:char"), (THAI, "tok:char")])
def test_scripts_without_spaces_are_scored_by_character_and_say_so(pair, tokeniser):
    scores = score(*pair)
    assert scores["metrics"]["rougeL_ref"] > 50
    assert scores["metrics"]["bleu_sacre"] > 20
    assert scores["metrics"]["length_words"] > 7
    assert tokeniser in scores["methods"]["sacrebleu"]
    assert "each character counts as a word" in scores["methods"]["words"]
    for figures in (scores["metrics"], scores["human"], scores["intervals"]):
        assert "stock_phrase_rate" not in figures


def test_one_chinese_answer_among_english_ones_leaves_the_corpus_english():
    scores = score(["I am here for you.", "你好"], ["How are you today, my friend?", "Tell me more about it."])
    assert "tok:13a" in scores["methods"]["sacrebleu"]
    assert scores["metrics"]["stock_phrase_rate"] == 50
    assert "words" in scores["methods"]
    assert "words" not in score(["I am here."], ["Tell me more."])["methods"]


def test_scores_are_the_same_in_every_process():
    rows = ["You lost it?", "I hear you."], ["You lost your job?", "That is hard."]
    assert score(*rows) == score(*rows)
    assert json.loads(json.dumps(score(*rows)))["rows"] == 2


def test_interval_of_a_mean_holds_the_mean_and_widens_with_dialogues_that_are_alike():
    generator = random.Random(0)
    dialogues = [number // 5 for number in range(200)]
    levels = [generator.gauss(0, 1) for _ in range(40)]
    statistics = per_row([levels[dialogue] + generator.gauss(0, 0.1) for dialogue in dialogues])
    mean = statistics[:, 0].mean()
    low, high = bootstrap(statistics, ratio).interval()
    low_grouped, high_grouped = bootstrap(statistics, ratio, dialogues).interval()
    assert low < mean < high
    # Theory: a standard error of 1/sqrt(200) for rows that were independent, of 1/sqrt(40) for dialogues.
    assert (high - low) == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.3)
    assert (high_grouped - low_grouped) == pytest.approx(2 * 1.96 / math.sqrt(40), rel=0.3)


def test_few_and_many_dialogues_have_the_same_draws(monkeypatch):
    statistics = per_row(np.random.default_rng(3).normal(size=50))
    kept = bootstrap(statistics, ratio)
    monkeypatch.setattr("evolution_jobs.metrics.bootstrap.KEPT_GROUPS", 49)
    assert bootstrap(statistics, ratio).replicates.tolist() == pytest.approx(kept.replicates.tolist(), rel=1e-12)


def test_no_interval_from_one_dialogue():
    alone = bootstrap(per_row([1.0, 2.0]), ratio, ["d", "d"])
    assert (alone.interval(), alone.p_value()) == (None, None)
    assert score(["yes", "no"], ["yes", "yes"], ["d", "d"])["intervals"] == {}


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], ["a", "b"], "1 hypotheses but 2 references"),
        ([], [], "nothing to score"),
        (["a", "b"], ["a", " "], "reference 2 is empty"),
    ],
)
def test_score_refuses_lists_that_do_not_match(hypotheses, references, message):
    with pytest.raises(PermanentError, match=message):
        score(hypotheses, references)


def test_score_files_reads_lines_and_the_answers_of_evaluate(tmp_path):
    rows = [{"answer": "You lost it?\nWhen?", "human": "You lost your job?"}, {"answer": "", "human": "I see."}]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hypotheses, references = tmp_path / "hypotheses.txt", tmp_path / "references.txt"
    hypotheses.write_text("You lost it? When?\n\n")
    references.write_text("You lost your job?\r\nI see.\r\n")
    assert score_files(answers, answers)["metrics"] == score_files(hypotheses, references)["metrics"]
    assert score_files(answers, answers)["metrics"]["empty_rate"] == 50


def test_score_files_knows_which_answers_were_cut_if_all_rows_say_so(tmp_path):
    rows = [
        {"answer": "I see. Why?", "human": "Yes.", "finish": "stop"},
        {"answer": "so you", "human": "Yes.", "finish": "length"},
        {"answer": "well it", "human": "Yes.", "finish": "length"},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {figure["name"]: figure for figure in score_files(path, path)["figures"]}
    assert figures["cut_rate"]["value"] == pytest.approx(200 / 3)
    assert (figures["shape_share"]["rows"], figures["shape_share"]["value"]) == (1, 100)
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"answer": "Oh.", "human": "Yes."}, *rows]))
    figures = {figure["name"]: figure for figure in score_files(path, path)["figures"]}
    assert "cut_rate" not in figures
    assert figures["shape_share"]["rows"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.jsonl cannot be read: No such file"),
        (b"", "x.jsonl is empty"),
        (b'"a"\n\xff\n', "x.jsonl is not UTF-8 at byte 4"),
        (b'"a"\n{"answer":\n', "x.jsonl:2: not JSON"),
        (b'"a"\n{"text": "b"}\n', "x.jsonl:2: expected a string, or an object whose `answer` is one"),
        (b"7\n", "x.jsonl:1: expected a string"),
        (b'"a"\n"b\\ud800"\n', "x.jsonl:2: the text has half of a surrogate pair"),
        (b'{"answer": "\\udc00", "human": "b"}\n', "x.jsonl:1: the text has half of a surrogate pair"),
    ],
)
def test_score_files_names_file_and_line_of_what_it_cannot_read(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PermanentError, match=message):
        score_files(path, path)


# Perplexity


@pytest.fixture(scope="module")
def tiny_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def losses_by_hand(model, passages):
    """One token at a time, each from a forward pass of its own."""
    sums = []
    for prompt, answer in passages:
        total = 0.0
        for position, token in enumerate(answer):
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer[:position]])).logits[0, -1]
            total -= float(torch.log_softmax(logits, -1)[token])
        sums.append(total)
    return sums


DIALOGUE = [7, 3, 9, 4, 11, 12, 5, 6]
PASSAGES = [
    Passage(DIALOGUE[:5], DIALOGUE[5:8]),
    Passage(DIALOGUE[:2], DIALOGUE[2:4]),  # an earlier turn of the same dialogue
    Passage([1, 2, 3], [4]),
    Passage([1, 2, 3], [4, 5]),  # begins with the passage before it
    Passage(DIALOGUE[:2], [9, 8, 8]),  # another answer to the same context
    Passage([1, 2, 3], [4]),
]


@pytest.mark.parametrize("token_budget", [1, 16, 10_000])
def test_losses_equal_those_of_one_token_at_a_time(tiny_model, token_budget):
    found = dict(entry for batch in answer_losses(tiny_model, PASSAGES, token_budget) for entry in batch)
    assert [found[position] for position in range(len(PASSAGES))] == pytest.approx(
        losses_by_hand(tiny_model, PASSAGES), rel=1e-4
    )


def test_a_passage_that_begins_another_costs_no_pass_of_its_own(tiny_model):
    shapes = []
    hook = tiny_model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    list(answer_losses(tiny_model, PASSAGES, token_budget=10_000))
    hook.remove()
    assert shapes == [(3, 8)]  # the whole dialogue, its other answer, and [1, 2, 3, 4, 5]


def test_perplexity_weighs_tokens_alike():
    # 1 token of probability 1/2 and 3 of 1/8: the mean is over 4 tokens, not over 2 rows. The third answer did not fit.
    rows = Answered(["a"] * 3, ["b"] * 3, likelihoods=[(math.log(2), 1), (3 * math.log(8), 3), None])
    assert BY_NAME["perplexity"].estimate(rows).value == pytest.approx(2 ** (10 / 4))


def test_rows_without_a_likelihood_are_no_part_of_perplexity():
    """A resample that draws only their dialogues would have no tokens, and a perplexity of 1."""
    likelihoods = [(40.0 + number, 10) if number < 3 else None for number in range(30)]
    rows = Answered(["a"] * 30, ["b"] * 30, [str(number) for number in range(30)], likelihoods=likelihoods)
    estimate = BY_NAME["perplexity"].estimate(rows)
    assert estimate.groups == 3
    assert estimate.replicates.min() >= math.exp(4)
    (figure,) = [each for each in score_rows(rows)["figures"] if each["name"] == "perplexity"]
    assert figure["rows"] == 3
    assert figure["rowSet"] == rows.only([0, 1, 2]).row_set
    assert figure["rowSet"] != rows.row_set


# Paired differences


def test_a_jackknife_interval_of_distinct_words_covers_the_population_as_often_as_it_says():
    # Each dialogue has 20 of 400 words. The expected share of different words is known by the law of the draws.
    generator = np.random.default_rng(0)
    expected = 400 * (1 - (1 - 1 / 400) ** (20 * 30)) / (20 * 30)
    covered = 0
    for _ in range(200):
        items = generator.integers(400, size=(30, 20)).tolist()
        low, high = jackknife(items, lambda distinct, total: distinct / total).interval()
        covered += low <= expected <= high
    assert 180 <= covered <= 200


def test_leaving_a_dialogue_out_is_counted_as_by_hand():
    rows, groups = [["a", "b"], ["b"], ["c", "a"], ["d"]], ["x", "x", "y", "z"]
    estimate = jackknife(rows, lambda distinct, total: distinct / total, groups)
    assert estimate.value == 4 / 6
    assert estimate.replicates.tolist() == [3 / 3, 3 / 4, 3 / 5]


def test_a_paired_difference_is_narrower_than_two_intervals_apart():
    generator = np.random.default_rng(1)
    hard = generator.normal(size=60)
    first, second = (bootstrap(per_row(hard + shift + generator.normal(0, 0.1, 60)), ratio) for shift in (0, 0.2))
    low, high = second.minus(first).interval()
    assert 0 < low < 0.2 < high
    assert high - low < (first.interval()[1] - first.interval()[0]) / 2
    assert second.minus(first).p_value() == pytest.approx(2 / 1001)
    assert first.minus(first).p_value() == 1


def test_differences_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="not over the same rows"):
        bootstrap(per_row([1.0, 2.0]), ratio).minus(jackknife([["a"], ["b"]], lambda distinct, total: distinct / total))
    with pytest.raises(ValueError, match="not over the same rows"):
        bootstrap(per_row([1.0, 2.0]), ratio).minus(bootstrap(per_row([1.0, 2.0, 3.0]), ratio))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(values):
    adjusted = holm(values)
    for p, corrected in zip(values, adjusted, strict=True):
        assert p <= corrected <= min(1, p * len(values)) or corrected == pytest.approx(max(values))
    assert sorted(adjusted) == [adjusted[position] for position in sorted(range(len(values)), key=values.__getitem__)]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


# Figures


def test_every_kind_of_figure_is_computed_in_the_order_of_tables():
    assert list(BY_NAME) == list(OF_ANSWERS)


def test_each_test_set_has_figures_of_its_own_over_its_own_rows():
    rows = Answered(["a b", "a c", "d d"], ["a b", "b c", "d"], ["x", "y", "z"])
    scores = score_rows(rows, ["one", "one", "two"])
    found = {(figure.get("set"), figure["name"]): figure for figure in scores["figures"]}
    assert [found[name, "length_words"]["rows"] for name in (None, "one", "two")] == [3, 2, 1]
    assert found["two", "distinct1"]["value"] == 50
    assert found["one", "bleu1_ref"] == {
        **found["one", "bleu1_ref"],
        "value": pytest.approx(75),
        "unit": "percent",
        "better": "higher",
        "rowSet": rows.only([0, 1]).row_set,
    }
    assert {figure.get("set") for figure in score_rows(rows, ["one"] * 3)["figures"]} == {None}


def test_the_row_set_names_the_rows_in_any_order():
    rows = Answered(["a", "b"], ["c", "d"], ids=["1", "2"])
    assert rows.row_set == Answered(["x", "y"], ["d", "c"], ids=["2", "1"]).row_set
    assert rows.row_set != Answered(["a", "b"], ["c", "e"], ids=["1", "2"]).row_set
