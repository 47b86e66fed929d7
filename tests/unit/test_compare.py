"""Models compared on the same rows: paired differences, what they mean in words, and where the answers are read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Answer
from evolution_jobs.metrics.bootstrap import holm
from evolution_jobs.metrics.compare import compare
from evolution_operator.cli.main import app
from evolution_operator.planner.observed import Run
from evolution_operator.results.answers import answers_of_file
from typer.testing import CliRunner

from tests.support.run_document import run_document
from tests.support.stages.published import answers, publish, write
from tests.unit.test_load import manifest


def without_likelihood(rows: list[Answer], count: int) -> list[Answer]:
    """The human answers to the first contexts did not fit."""
    return [row.model_copy(update={"nll": None, "nll_tokens": 0}) for row in rows[:count]] + rows[count:]


def row(**fields: Any) -> str:
    """A line of answers.jsonl."""
    return json.dumps(answers(1)[0].wire() | fields) + "\n"


def verdicts(found: Any) -> dict[str, str]:
    return {each.name: each.verdict for each in found.differences}


def test_a_model_that_opens_every_answer_alike_is_worse_and_longer() -> None:
    found = compare({"M0": answers(1), "M1": answers(1, stock=True)})
    assert verdicts(found) | {
        "stock_phrase_rate": "worse",
        "length_words": "higher",
        "perplexity": "the interval of the difference includes zero",
    } == verdicts(found)
    (stock,) = [each for each in found.differences if each.name == "stock_phrase_rate"]
    assert (stock.baseline_value, stock.value, stock.difference) == (0, 100, 100)
    assert stock.interval == [100, 100]


def test_two_draws_of_one_model_are_seldom_called_different() -> None:
    unsure = {"the interval of the difference includes zero", "not shown, once corrected for the number of figures"}
    false = [
        seed
        for seed in range(20)
        if set(verdicts(compare({"a": answers(2 * seed + 1), "b": answers(2 * seed + 2)})).values()) - unsure
    ]
    # Holm keeps the chance of any false difference at 5 % for each comparison, so 1 of 20 is expected.
    assert len(false) <= 4


def test_a_comparison_is_over_the_rows_that_all_have_and_says_how_many_were_left_out() -> None:
    found = compare({"all": answers(1), "some": answers(2)[4:], "others": answers(3)[:-2]}, ["bleu2_ref"])
    assert (found.rows, found.dialogues) == (34, 17)
    assert found.left_out == {"all": 6, "some": 2, "others": 4}
    assert [(each.model, each.baseline) for each in found.differences] == [("some", "all"), ("others", "all")]
    assert "smoothing method 3" in found.methods["bleu2_ref"]
    # The order of a file's rows changes nothing.
    again = compare({"all": answers(1)[::-1], "some": answers(2)[4:], "others": answers(3)[:-2]}, ["bleu2_ref"])
    assert again.row_set == found.row_set
    assert again.values["some"]["bleu2_ref"] == pytest.approx(found.values["some"]["bleu2_ref"])


def test_a_figure_that_is_named_twice_counts_once() -> None:
    models = {"a": answers(1), "b": answers(2)}
    assert compare(models, ["bleu2_ref", "bleu2_ref"]) == compare(models, ["bleu2_ref"])


def test_a_figure_that_is_not_defined_is_named_with_its_reason() -> None:
    chinese = [row.model_copy(update={"human": "我很难过，因为我丢了工作。"}) for row in answers(1)]
    unscored = without_likelihood(answers(1), 40)
    for rows, name, words in (
        (chinese, "stock_phrase_rate", "a: its phrases are English"),
        (unscored, "perplexity", "a: no human answer has a likelihood"),
        (
            [row.model_copy(update={"finish": "length"}) for row in answers(1)],
            "shape_share",
            "a: all answers were cut off",
        ),
    ):
        found = compare({"a": rows, "b": rows}, [name, "length_words"])
        assert found.not_compared == {name: words}
        with pytest.raises(PermanentError, match=f"no figure can be compared: {name}: {words}") as caught:
            compare({"a": rows, "b": rows}, [name])
        assert caught.value.reason == "CompareInput"


def test_one_dialogue_is_too_little_for_an_interval() -> None:
    found = compare({"a": answers(1, dialogues=1), "b": answers(2, dialogues=1)})
    assert set(verdicts(found).values()) == {"too few dialogues to say"}
    assert all(each.interval is None and each.p is None for each in found.differences)


@pytest.mark.parametrize(("dialogues", "said"), [(2, False), (9, False), (10, True)])
def test_few_dialogues_say_nothing_however_alike_they_are(dialogues: int, said: bool) -> None:
    """Every resample agrees that all answers have the stock phrase, also if there are but two dialogues to draw."""
    found = compare({"a": answers(1, dialogues=dialogues), "b": answers(1, dialogues=dialogues, stock=True)})
    assert verdicts(found)["stock_phrase_rate"] == ("worse" if said else "too few dialogues to say")
    assert ("too few dialogues to say" in verdicts(found).values()) is not said


def test_what_cannot_be_compared_is_said() -> None:
    other = [row.model_copy(update={"human": f"{row.human} now"}) for row in answers(2)]
    regrouped = [row.model_copy(update={"dialogue": "0"}) for row in answers(2)]
    apart = [row.model_copy(update={"id": f"x-{row.id}"}) for row in answers(2)]
    for models, names, message in (
        ({"a": answers(1)}, None, "one model only: name a second run"),
        ({"a": answers(1), "b": other}, None, "context '0-0': a and b have different human answers"),
        ({"a": answers(1), "b": regrouped}, None, "context '1-0': a and b name different dialogues"),
        ({"a": answers(1), "b": apart}, None, "no context was answered by all"),
        ({"a": answers(1), "b": answers(2)}, ["bleu9"], "figure 'bleu9' is not one of"),
    ):
        with pytest.raises(PermanentError, match=message):
            compare(models, names)


def test_shapes_are_compared_over_the_answers_that_no_model_has_cut() -> None:
    def cut(rows: list[Answer], first: int, last: int) -> list[Answer]:
        return [
            row.model_copy(update={"finish": "length"}) if first <= number < last else row
            for number, row in enumerate(rows)
        ]

    one, other = answers(1), [row.model_copy(update={"answer": f"{row.answer}. Why?"}) for row in answers(2)]
    found = compare({"a": cut(one, 0, 10), "b": cut(other, 6, 20)}, ["shape_share", "length_words"])
    assert found.rows_of == {"shape_share": 20, "length_words": 40}
    apart = compare({"a": cut(one, 0, 20), "b": cut(other, 20, 40)}, ["shape_share", "length_words"])
    assert apart.not_compared == {"shape_share": "no context has what it needs in all models"}


def test_neither_perplexity_nor_tokens_are_compared_across_tokenisers() -> None:
    other = [row.model_copy(update={"nll_tokens": 11}) for row in answers(2)]
    found = compare({"a": answers(1), "b": answers(3), "c": other})
    words = "a and c have different tokenisers: the numbers of tokens differ for 40 human answers"
    assert found.not_compared == {"length_tokens": words, "perplexity": words}
    assert found.values["c"].keys().isdisjoint(found.not_compared)
    assert {each.name for each in found.differences}.isdisjoint(found.not_compared)
    assert compare({"a": answers(1), "b": answers(3)}).not_compared == {}


def test_perplexity_is_not_compared_over_different_human_answers() -> None:
    found = compare({"a": without_likelihood(answers(1), 3), "b": without_likelihood(answers(2), 1)})
    words = "a and b have likelihoods of different human answers: 2 have one under one model only"
    assert found.not_compared == {"perplexity": words}
    alike = compare({"a": without_likelihood(answers(1), 3), "b": without_likelihood(answers(2), 3)})
    assert alike.not_compared == {}
    assert verdicts(alike)["perplexity"] == "the interval of the difference includes zero"
    assert [rows for name, rows in alike.rows_of.items() if rows != 40] == [alike.rows_of["perplexity"]] == [37]


def test_a_figure_over_few_dialogues_says_nothing_although_others_do() -> None:
    """The answers of 9 dialogues have a likelihood."""
    found = compare({"a": without_likelihood(answers(1), 22), "b": without_likelihood(answers(1, stock=True), 22)})
    assert verdicts(found) | {"perplexity": "too few dialogues to say", "length_words": "higher"} == verdicts(found)
    alone = compare({"a": without_likelihood(answers(1), 38), "b": without_likelihood(answers(2), 38)})
    figures = {each.name: each for each in alone.differences}
    assert (figures["perplexity"].p, figures["perplexity"].p_holm) == (None, None)
    others = [each for each in alone.differences if each.name != "perplexity"]
    assert [each.p_holm for each in others] == holm([each.p for each in others if each.p is not None])


def test_the_command_compares_files_and_prints_a_table_or_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", answers(1))
    write(tmp_path / "b.jsonl", answers(1, stock=True))
    shown = CliRunner().invoke(app, ["compare", "a.jsonl", "b.jsonl", "--figures", "stock_phrase_rate,perplexity"])
    assert shown.exit_code == 0, shown.output
    assert "40 contexts of 20 dialogues" in shown.output
    assert "+100.00 to +100.00" in shown.output
    assert "corrected for 2 figures" in shown.output
    write(tmp_path / "[red]c.jsonl", answers(2))
    assert "[red]c.jsonl against a.jsonl" in CliRunner().invoke(app, ["compare", "a.jsonl", "[red]c.jsonl"]).output
    write(tmp_path / "d.jsonl", without_likelihood(answers(2), 1))
    write(tmp_path / "e.jsonl", without_likelihood(answers(1), 1))
    shown = CliRunner().invoke(app, ["compare", "d.jsonl", "e.jsonl"])
    assert "perplexity of the human answer: over 39 of the 40 contexts" in shown.output
    apart = "a.jsonl and d.jsonl have likelihoods of different human answers: 1 has one under one model only"
    shown = CliRunner().invoke(app, ["compare", "a.jsonl", "d.jsonl"])
    assert f"perplexity of the human answer: not compared; {apart}" in shown.output
    document = json.loads(CliRunner().invoke(app, ["compare", "a.jsonl", "d.jsonl", "-o", "json"]).stdout)
    assert document["notCompared"] == {"perplexity": apart}
    document = json.loads(CliRunner().invoke(app, ["compare", "a.jsonl", "b.jsonl", "-o", "json"]).stdout)
    assert document["values"]["b.jsonl"]["stock_phrase_rate"] == 100


def test_rows_without_a_likelihood_are_read(tmp_path: Path) -> None:
    """evaluate does not write a field that is unset."""
    rows = without_likelihood(answers(1), 2)
    assert answers_of_file(write(tmp_path / "a.jsonl", rows)) == rows


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("a.jsonl:M2", "a.jsonl:M2: a file of answers is of one model; leave out :M2"),
        ("s3://bucket/runs:M2", "s3://bucket/runs: compare reads no addresses"),
        ("s3://bucket/answers.jsonl", "s3://bucket/answers.jsonl: compare reads no addresses"),
        ("runs/first:M2", "'runs/first' is no run file"),
        ("run.yaml:m2", "'run.yaml:m2' is no run file"),
        ("\x1b[2J", r"'\x1b[2J' is no run file"),
        ("", "'' is no run file"),
    ],
)
def test_what_cannot_name_a_run_is_no_question_to_a_cluster(reference: str, message: str) -> None:
    found = CliRunner().invoke(app, ["compare", "--", "first:M0", reference])
    assert isinstance(found.exception, PermanentError)
    assert found.exception.reason == "CompareInput"
    assert message in str(found.exception)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a.jsonl cannot be read: No such file"),
        ("", "a.jsonl is empty"),
        ('{"id": "1"}\n', "a.jsonl:1: dialogue: Field required"),
        (2 * (json.dumps(answers(1)[0].wire()) + "\n"), "a.jsonl:2: context '0-0' occurs twice"),
        ("nonsense\n", "a.jsonl:1: row: Invalid JSON"),
        (row(nll=1e300), "a.jsonl:1: row: nll of 1e+300 for 10 tokens: a working model stays below 100 nats a token"),
        (row(nll=1000), "a.jsonl:1: row: nll of 1000 for 10 tokens"),
        (row(nll=5, nllTokens=0), "a.jsonl:1: row: nll of 5 for 0 tokens"),
        (row(nll=-1e300), "a.jsonl:1: row: nll of -1e+300 for 10 tokens"),
        (row(tokens=10**400), "a.jsonl:1: tokens: Input should be less than or equal to 1000000000"),
        (row(nllTokens=10**400), "a.jsonl:1: nllTokens: Input should be less than or equal to 1000000000"),
    ],
)
def test_a_file_that_holds_no_answers_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_text(content)
    found = CliRunner().invoke(app, ["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")])
    assert message in str(found.exception)


def test_an_id_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    escape = [row.model_copy(update={"id": "\x1b[2J"}) for row in answers(1)[:1]]
    other = [row.model_copy(update={"human": "Other."}) for row in escape]
    files = [str(write(tmp_path / name, rows)) for name, rows in (("a.jsonl", escape), ("b.jsonl", other))]
    write(tmp_path / "twice.jsonl", 2 * escape)
    for given in (files, [files[0], str(tmp_path / "twice.jsonl")]):
        message = str(CliRunner().invoke(app, ["compare", *given]).exception)
        assert r"context '\x1b[2J'" in message
        assert message.isprintable()


def test_a_run_file_stands_for_the_models_that_its_storage_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, iterations=1)
    missing = CliRunner().invoke(app, ["compare", str(file)])
    assert "run first" in str(missing.exception)
    assert "has no finished evaluation" in str(missing.exception)

    publish(file, capsys)
    other = write(tmp_path / "other.jsonl", answers(1))
    found = CliRunner().invoke(app, ["compare", f"{file}:M0", str(other), "-o", "json"])
    assert found.exit_code == 0, found.exception
    assert list(json.loads(found.stdout)["values"]) == ["first:M0", str(other)]
    alone = CliRunner().invoke(app, ["compare", str(file)])
    assert "one model only" in str(alone.exception)
    absent = CliRunner().invoke(app, ["compare", f"{file}:M1", str(other)])
    assert "the run has answers of M0, not of M1" in str(absent.exception)
    twice = CliRunner().invoke(app, ["compare", str(other), str(other)])
    assert "is there already" in str(twice.exception)


def test_run_files_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        publish(manifest(tmp_path / folder, iterations=1), capsys)
    given = ["a/first.yaml:M0", "b/first.yaml:M0"]
    found = CliRunner().invoke(app, ["compare", *given, "-o", "json"])
    assert found.exit_code == 0, found.exception
    assert list(json.loads(found.stdout)["values"]) == given
    twice = CliRunner().invoke(app, ["compare", given[0], given[0]])
    assert "a/first.yaml:M0: first:M0 is there already" in str(twice.exception)


def test_a_run_file_and_a_run_on_the_cluster_of_one_name_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = on_the_cluster(*publish(manifest(tmp_path, iterations=1), capsys))
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *_: document)
    found = CliRunner().invoke(app, ["compare", "first.yaml", "first", "-o", "json"])
    assert found.exit_code == 0, found.exception
    assert list(json.loads(found.stdout)["values"]) == ["first.yaml:M0", "first:M0"]


def test_a_run_on_the_cluster_is_read_by_the_keys_of_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server's answer is played here; tests/api shows that the status has these fields."""
    document = on_the_cluster(*publish(manifest(tmp_path, iterations=1), capsys))
    asked = []
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *where: asked.append(where) or document)
    other = write(tmp_path / "other.jsonl", answers(1))
    found = CliRunner().invoke(app, ["compare", "first:M0", str(other), "-n", "lab", "-o", "json"])
    assert found.exit_code == 0, found.exception
    assert list(json.loads(found.stdout)["values"]) == ["first:M0", str(other)]
    assert asked == [("first", "lab")]


def test_a_run_on_the_cluster_is_read_from_a_copy_of_its_storage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, keys = publish(manifest(tmp_path, iterations=1), capsys)
    document = on_the_cluster(run, keys)
    document["spec"]["storage"] = {"uri": "s3://bucket/runs", "endpoint": "http://minio.lab:9000"}
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *_: document)
    other = write(tmp_path / "other.jsonl", answers(1))
    copy = run.spec.storage.uri.removeprefix("file://")
    found = CliRunner().invoke(app, ["compare", "first", str(other), "--storage", copy, "-o", "json"])
    assert found.exit_code == 0, found.exception
    assert list(json.loads(found.stdout)["values"]) == ["first:M0", str(other)]


def test_a_run_on_the_cluster_whose_spec_cannot_be_read_is_read_if_its_storage_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer operator may take a spec that this command does not know."""
    document = on_the_cluster(*publish(manifest(tmp_path, iterations=1), capsys))
    document["spec"]["preferenceSource"] = "oracle"
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *_: document)
    other = write(tmp_path / "other.jsonl", answers(1))
    assert CliRunner().invoke(app, ["compare", "first", str(other)]).exit_code == 0
    for storage, words in (
        (
            {"uri": "ftp://host/"},
            "spec.storage.uri on the cluster (must start with file:// or s3://, not 'ftp://host/')",
        ),
        ({"uri": "s3://bucket//runs"}, "spec.storage on the cluster (uri: "),
        ({}, "spec.storage.uri on the cluster (is required)"),
        (None, "spec.storage on the cluster (must be a mapping, not null)"),
    ):
        document["spec"]["storage"] = storage
        found = CliRunner().invoke(app, ["compare", "first", str(other)])
        assert isinstance(found.exception, PermanentError)
        assert found.exception.reason == "SpecUnreadable"
        assert f"first: this command cannot read {words}" in str(found.exception)


def on_the_cluster(run: Run, keys: dict[str, str]) -> dict[str, Any]:
    """The run as the API server has it while its second model is evaluated."""
    states = {"evaluate-0": "Succeeded", "evaluate-1": "Running"}
    stages = [{"id": id_, "name": "evaluate", "state": state, "key": keys[id_]} for id_, state in states.items()]
    document = {**run_document(run.spec.wire(), name="first"), "status": {"phase": "Running", "stages": stages}}
    document["metadata"] |= {"namespace": "lab", "uid": "u"}
    document["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    return document
