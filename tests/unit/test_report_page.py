"""The report's page: text is escaped once, nothing comes from elsewhere, many pairs stay small, a file is written as a whole."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Reject, Turn
from evolution_jobs.store.file import FileStore
from evolution_operator.reporting.browsers import MOST_ROWS, answer_rows, pack, pair_rows
from evolution_operator.reporting.page import render, write_report
from evolution_operator.reporting.scores import StoredScores
from evolution_operator.results.results import Results

from tests.support.report import (
    make_answers,
    make_facts,
    make_manifests,
    make_pairs,
    make_scores,
    make_spec,
    make_status,
)
from tests.support.study import HOSTILE

CONTROL = "\x1b[2J\x00\u202e"
ATTACK = f"</script>{HOSTILE}<img src=x onerror=alert(1)>{CONTROL}"


def unpack(page: str, id_: str) -> Any:
    found = re.search(rf'<script type="text/plain" id="{id_}">([^<]*)</script>', page)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_facts())


def test_sections_come_in_the_order_in_which_a_stranger_reads(page: str) -> None:
    wanted = [
        "happened",
        "now",
        "next",
        "curves",
        "signs",
        "answers",
        "pairs",
        "drops",
        "data",
        "lineage",
        "cost",
        "environment",
    ]
    assert re.findall(r'<section id="(\w+)"', page) == wanted
    assert re.findall(r'<li><a href="#(\w+)"', page)[: len(wanted)] == wanted


def test_nothing_comes_from_elsewhere(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    links = {
        attrs[name]
        for _, attrs in Elements(page).found
        for name in ("src", "href", "action", "data", "poster")
        if name in attrs
    }
    assert {link for link in links if not str(link).startswith("#")} == set()
    # The namespace of SVG is a name, not an address that is fetched.
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<)]*", page)) <= {"//www.w3.org/2000/svg"}
    assert "style=" not in page


def test_every_anchor_has_its_target(page: str) -> None:
    elements = Elements(page).found
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for _, attrs in elements if str(attrs.get("href", "")).startswith("#")}
    assert {each for each in targets if not each.startswith(("pair=", "answer="))} <= set(ids)


def test_hostile_text_is_escaped_once_and_everywhere() -> None:
    stages = make_manifests()
    notes = stages["sft"].model_copy(update={"notes": [ATTACK], "details": {ATTACK: ATTACK}, "code": {"torch": ATTACK}})
    reject = Reject(
        id=ATTACK,
        reason="equal",
        detail=ATTACK,
        row={"turns": [{"role": "seeker", "text": ATTACK}], "rejected": ATTACK, "chosen": ATTACK},
    )
    facts = make_facts(
        name=ATTACK,
        storage=ATTACK,
        manifests=stages | {"sft": notes},
        answers={"M0": make_answers(0, 3, id=ATTACK, human=ATTACK, answer=ATTACK, set=ATTACK, context=[Turn(role="seeker", text=ATTACK)])[:1]},
        pairs={1: make_pairs(1, id=ATTACK, chosen=ATTACK, rejected=ATTACK, turns=[Turn(role="seeker", text=ATTACK)])},
        rejects={1: [reject]},
        unread=[ATTACK],
        scores={0: StoredScores.stored({"signatures": [{"name": "openings", "present": True, "sentence": ATTACK, "threshold": ATTACK, "examples": [ATTACK]}]})},
    )  # fmt: skip
    page = render(facts)
    elements = Elements(page)
    assert {tag for tag, _ in elements.found} & {"img", "b onerror", "iframe"} == set()
    assert len(re.findall(r"<script", page)) == 3
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    assert "&amp;lt;" not in page
    assert HOSTILE.replace("\u202e", "\ufffd") in elements.text
    assert not set(CONTROL) & set(page) - set("[2J")
    # Packed rows have the text as it is; the page's script sets it as text.
    assert unpack(page, "pairs-data")["rows"][0]["chosen"] == ATTACK
    assert unpack(page, "answers-data")["rows"][0]["human"] == ATTACK


def test_twenty_thousand_pairs_stay_small() -> None:
    pairs = make_pairs(10_000)
    page = render(make_facts(pairs={1: pairs, 2: pairs}, rejects={}))
    assert len(page) < 3_000_000
    packed = unpack(page, "pairs-data")
    assert len(packed["rows"]) == 20_000
    # A history is stored once, however many rows have it.
    assert len(packed["histories"]) == 5
    assert "20,000 rows" in page


def test_more_pairs_than_a_page_holds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ROWS >= 20_000
    monkeypatch.setattr("evolution_operator.reporting.browsers.MOST_ROWS", 10)
    page = render(make_facts())
    assert len(unpack(page, "pairs-data")["rows"]) == 10
    assert "The page holds the first 10 of them." in page


def test_rows_of_the_browsers_have_what_they_show() -> None:
    rows = pair_rows(make_facts())["rows"]
    assert {row.get("reason", "kept") for row in rows} == {"kept", "too_long", "equal", "profile_unparsed"}
    assert rows[0] | {"round": 1, "source": "self", "attempts": 2, "history": 0} == rows[0]
    found = answer_rows(make_facts(answers={"M0": make_answers(0), "M1": make_answers(1)[:1]}))
    assert found["models"] == ["M0", "M1"]
    assert [each is None for each in found["rows"][1]["answers"]] == [False, True]


def test_packing_is_the_same_each_time() -> None:
    assert pack(["a"]) == pack(["a"])


@pytest.mark.parametrize(
    "fields",
    [
        {"manifests": {}, "answers": {}, "pairs": {}, "rejects": {}, "scores": {}, "changes": [], "spec": None, "status": None},
        {"manifests": {}, "answers": {}, "pairs": {}, "rejects": {}, "scores": {}, "changes": [], "status": make_status("Failed", stages=[], metrics=[], champion=None)},
        {"spec": None, "status": None},
        {"manifests": {}},
        {"manifests": {}, "scores": {1: StoredScores()}, "changes": []},
    ],
)  # fmt: skip
def test_a_run_of_which_little_is_known_has_a_report(fields: dict[str, Any]) -> None:
    assert "What to do next" in render(make_facts(**fields))


STRANGE = (None, 3, "words", ["words", None, 3], {"uri": None, "cost": None}, [[1], ["a", "b"], [1, 2, 3], [1, None]])
"""What another version may have written in place of a value."""


@pytest.mark.parametrize("strange", STRANGE)
def test_details_of_another_form_are_left_out(strange: Any) -> None:
    names = (
        "sources",
        "model",
        "testFrom",
        "contextsFrom",
        "neverTrainedOn",
        "badRows",
        "curve",
        "validation",
        "margins",
        "judge",
    )
    details = dict.fromkeys(names, strange)
    stages = {id_: each.model_copy(update={"details": details}) for id_, each in make_manifests().items()}
    assert "What to do next" in render(make_facts(manifests=stages))


@pytest.mark.parametrize("strange", STRANGE)
def test_a_source_of_another_form_is_shown_as_far_as_it_is_known(strange: Any) -> None:
    sources = [{"role": "seed", **dict.fromkeys(("uri", "sha256", "commit", "bytes", "counts"), strange)}]
    sources.append({"role": "test", "counts": {"read": 5, "kept": strange}})
    stages = make_manifests()
    stages["prepare"] = stages["prepare"].model_copy(update={"details": {"sources": sources}})
    assert "read 5" in render(make_facts(manifests=stages))


def test_the_page_has_the_run_file_without_what_it_leaves_out() -> None:
    page = render(make_facts(spec=make_spec(iterations=3)))
    assert "iterations: 3" in page
    assert "championRule" not in page


def test_test_sets_whose_names_differ_in_case_stay_apart() -> None:
    known = {"name": "distinct2", "unit": "percent", "better": "higher", "rows": 3, "rowSet": "0", "method": "any", "headline": True, "value": 70.0}  # fmt: skip
    figures = [known | {"set": name} for name in ("far", "Far")]
    page = render(make_facts(scores={0: make_scores(0, figures=figures)}))
    assert re.findall(r'<summary>Test set <span dir="auto">(\w+)', page) == ["Far", "far"]


def results(directory: Path) -> Results:
    return Results("lab", "empty", FileStore(directory), {})


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path, run = tmp_path / "report.html", results(tmp_path / "store")
    write_report(run, path)
    write_report(run, path)
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["report.html"]
    assert path.read_text().startswith("<!doctype html>")
    notes = tmp_path / "notes.html"
    notes.write_text("my notes")
    for place, words in (
        (notes, "is there already and is no report"),
        (tmp_path, "is a directory"),
        (tmp_path / "no/report.html", "is no directory"),
    ):
        with pytest.raises(PermanentError, match=words) as caught:
            write_report(run, place)
        assert caught.value.reason == "ReportUnwritable"
    assert notes.read_text() == "my notes"


def test_a_report_goes_where_a_link_leads_and_the_link_stays(tmp_path: Path) -> None:
    link, target, run = tmp_path / "latest.html", tmp_path / "kept/report.html", results(tmp_path / "store")
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):
        write_report(run, link)
        assert link.is_symlink()
        assert target.read_text().startswith("<!doctype html>")


def test_what_is_no_regular_file_stays_as_it_is(tmp_path: Path) -> None:
    pipe, link, loop = tmp_path / "pipe", tmp_path / "link", tmp_path / "loop"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    loop.symlink_to(loop)
    for place, words in ((pipe, "is no regular file"), (link, "is no regular file"), (loop, "symbolic links")):
        with pytest.raises(PermanentError, match=words) as caught:
            write_report(results(tmp_path / "store"), place)
        assert caught.value.reason == "ReportUnwritable"
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_a_file_that_only_speaks_of_a_report_is_none(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("How to make an evolution report")
    with pytest.raises(PermanentError, match="is no report"):
        write_report(results(tmp_path / "store"), notes)
    assert notes.read_text() == "How to make an evolution report"


@pytest.mark.parametrize(
    ("joules", "said"),
    [
        ({}, "Energy was not measured."),
        ({"sft": 720_000.0}, "The GPUs used 200 Wh in 1 of the 10 stages that had one; of the others it is not known."),
        ({stage: 360_000.0 for stage in make_manifests() if stage != "prepare"}, "The GPUs used 1.00 kWh."),
    ],
)
def test_the_energy_of_gpus_is_said_as_far_as_it_is_known(joules: dict[str, float], said: str) -> None:
    stages = make_manifests()
    for stage, value in joules.items():
        stages[stage] = stages[stage].model_copy(update={"gpu_joules": value})
    page = render(make_facts(manifests=stages))
    assert said in " ".join(page.split())
    assert page.count("GPU energy</th>") == bool(joules)
