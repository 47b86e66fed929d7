"""A study's pages over HTTP: what a rater may see and send, headers, limits, and a clean end of the server."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from evolution_operator.look import look_css
from evolution_operator.study.pages import HEADERS, LARGEST_FORM, application
from evolution_operator.study.records import SCRAMBLED
from evolution_operator.study.storage import StudyFile

from tests.support.study import HOSTILE, make_study, sample, samples

TOKEN = "rater-one"
HOME = f"/r/{TOKEN}"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
EVOLUTION = "import sys; sys.argv = ['evolution', *{!r}]; from evolution_operator.cli.main import main; main()"

Visit = Callable[[TestClient], Awaitable[None]]


@asynccontextmanager
async def client(study: StudyFile, clock: Callable[[], float] = lambda: 1.0) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(application(study, clock))) as opened:
        yield opened


def visit(path: Path, steps: Visit) -> None:
    """Run `steps` against the pages of a study."""

    async def run() -> None:
        with StudyFile(path) as study:
            async with client(study) as opened:
                await steps(opened)

    asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study.db", samples(6, 1), 4, 1, [TOKEN, "two"])


async def begin(opened: TestClient) -> None:
    answer = await opened.post(HOME, data={})
    assert (answer.status, str(answer.url.path)) == (200, f"{HOME}/1")


async def vote(opened: TestClient, position: int, **fields: str) -> ClientResponse:
    return await opened.post(f"{HOME}/{position}", data=fields, allow_redirects=False)


def test_from_introduction_to_thanks_and_back(path: Path) -> None:
    async def steps(opened: TestClient) -> None:
        first = await (await opened.get(HOME)).text()
        assert "distressing" in first
        assert "agree to take part" in first
        early = await opened.get(f"{HOME}/1", allow_redirects=False)
        assert (early.status, early.headers["Location"]) == (303, HOME), "not before consent"
        await begin(opened)
        for position in range(1, 6):
            page = await (await opened.get(HOME)).text()
            assert f"{position} of 5" in page
            assert (await vote(opened, position, q0="a")).headers["Location"] == HOME
        last = await (await opened.get(HOME)).text()
        assert "You have finished all 5 conversations" in last
        again = await (await opened.get(f"{HOME}/2")).text()
        assert re.search(r'value="a" required checked', again)
        assert (await vote(opened, 2, q0="b")).status == 303

    visit(path, steps)
    with StudyFile(path) as study:
        assert [each.changed for each in study.ballots().votes] == [False, True, False, False, False]


def test_no_page_tells_which_model_wrote_what_or_what_is_a_check(path: Path) -> None:
    async def steps(opened: TestClient) -> None:
        texts = [await (await opened.get(HOME)).text()]
        await begin(opened)
        shapes = set()
        for position in range(1, 6):
            answer = await opened.get(f"{HOME}/{position}")
            text = await answer.text()
            texts += [text, str(answer.headers)]
            if position > 1:
                shapes.add(re.sub(r"\d", "N", re.sub(r">[^<]*<", "><", text)))
            await vote(opened, position, q0="tie")
        texts.append(await (await opened.get(HOME)).text())
        for name in ("M0", "M1", "human", SCRAMBLED, "check", "d0-3"):
            assert not re.search(rf"\b{name}\b", "".join(texts)), name
        assert len(shapes) == 1, "a check looks like a pair"

    visit(path, steps)


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    given = [sample(f"d{number}", 3, human=HOSTILE * 8, M0=HOSTILE + str(number)) for number in range(2)]
    path = make_study(tmp_path / "s.db", given, 2, 0, [TOKEN], title=HOSTILE, contact=HOSTILE, questions=[HOSTILE])

    async def steps(opened: TestClient) -> None:
        for text in (await (await opened.get(HOME)).text(), await (await opened.post(HOME)).text()):
            assert "<script>alert" not in text
            assert "<b>" not in text
            assert "49" not in text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text

    visit(path, steps)


def test_without_a_vote_nothing_is_stored_and_the_page_says_so(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s.db", samples(3, 1), 2, 0, [TOKEN], questions=["main?", "more?"])

    async def steps(opened: TestClient) -> None:
        await begin(opened)
        for fields in ({}, {"q0": "a"}, {"q0": "a", "q1": "M0"}, {"q0": "first", "q1": "second"}):
            answer = await vote(opened, 1, **fields)
            text = await answer.text()
            assert answer.status == 422
            assert 'role="alert"' in text
            assert ("checked" in text) == (fields.get("q0") == "a"), "what was chosen stays chosen"
        assert (await vote(opened, 1, q0="a", q1="tie")).status == 303

    visit(path, steps)
    with StudyFile(path) as study:
        assert len(study.ballots().votes) == 2


def test_a_conversation_can_be_skipped_and_none_be_reached_early(path: Path) -> None:
    async def steps(opened: TestClient) -> None:
        await begin(opened)
        assert (await vote(opened, 3, q0="a")).status == 303, "not reached yet: not stored"
        assert (await vote(opened, 1, skip="1")).status == 303
        assert "2 of 5" in await (await opened.get(HOME)).text()
        assert "You skipped this conversation" in await (await opened.get(f"{HOME}/1")).text()

    visit(path, steps)
    with StudyFile(path) as study:
        known = study.ballots()
        assert (known.votes, known.raters[0].skipped) == ([], 1)


def test_seconds_are_from_the_page_to_the_vote(path: Path) -> None:
    now = 100.0

    async def run() -> None:
        nonlocal now
        with StudyFile(path) as study:
            async with client(study, lambda: now) as opened:
                await opened.post(HOME)
                now += 7
                await vote(opened, 1)
                now += 3
                await vote(opened, 1, q0="a")
            (found,) = study.ballots().votes
            assert found.seconds == 10.0, "a page that comes again for want of a vote does not begin anew"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "words"),
    [
        ("GET", "/", None, 404, "Open the whole link"),
        ("GET", "/r/nobody", None, 404, "Open the whole link"),
        ("POST", "/r/nobody/1", b"q0=a", 404, "Open the whole link"),
        ("GET", f"{HOME}/6", None, 404, "Open the whole link"),
        ("GET", f"{HOME}/0", None, 404, "Open the whole link"),
        ("GET", f"{HOME}/1' OR 1=1", None, 404, "Open the whole link"),
        ("GET", "/study.db", None, 404, "Open the whole link"),
        ("GET", "/..%2fpages.py", None, 404, "Open the whole link"),
        ("PUT", HOME, b"", 405, "does not take such a request"),
        ("POST", f"{HOME}/1", b"q0=a&x=" + b"x" * LARGEST_FORM, 413, "larger than any vote"),
    ],
)
def test_errors_are_pages_with_every_header(
    path: Path, method: str, target: str, body: bytes | None, status: int, words: str
) -> None:
    async def steps(opened: TestClient) -> None:
        await begin(opened)
        answer = await opened.request(method, target, data=body, headers=FORM if body else {})
        assert (answer.status, answer.content_type) == (status, "text/html")
        assert words in await answer.text()
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS

    visit(path, steps)


def test_a_form_of_another_kind_is_refused(path: Path) -> None:
    async def steps(opened: TestClient) -> None:
        await begin(opened)
        answer = await opened.post(f"{HOME}/1", json={"q0": "a"})
        assert answer.status == 415

    visit(path, steps)


def test_every_kind_of_page_is_hardened_and_none_sets_a_cookie(path: Path) -> None:
    async def steps(opened: TestClient) -> None:
        for target in ("/study.css", "/study.js", "/favicon.ico", HOME):
            answer = await opened.get(target)
            assert answer.ok
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
            assert "Set-Cookie" not in answer.headers
        text = await (await opened.get(HOME)).text()
        assert not re.search(r"(?:src|href|action)=\"(?!/)(?!#)", text), "nothing from elsewhere"
        assert " style=" not in text

    visit(path, steps)
    assert "'unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_vote_that_cannot_be_stored_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def steps(opened: TestClient) -> None:
        await begin(opened)
        monkeypatch.setattr(StudyFile, "vote", fails)
        answer = await vote(opened, 1, q0="a")
        assert answer.status == 503
        assert "could not be stored" in await answer.text()

    visit(path, steps)


class Outline(HTMLParser):
    """Headings, landmarks, and the ids of controls with and without a label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.inputs: set[str | None] = set()
        self.labelled: set[str | None] = set()
        self.ids: list[str] = []
        self.named_by: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.tags.append(tag)
        if tag == "input":
            self.inputs.add(given.get("id"))
        if tag == "label":
            self.labelled.add(given.get("for"))
        if given.get("id"):
            self.ids.append(given["id"] or "")
        for name in ("aria-labelledby", "aria-describedby"):
            self.named_by |= set((given.get(name) or "").split())


def test_pages_have_one_heading_landmarks_and_labels(tmp_path: Path) -> None:
    path = make_study(tmp_path / "s.db", samples(3, 1), 1, 0, [TOKEN], questions=["main?", "more?"])

    async def steps(opened: TestClient) -> None:
        pages = [await opened.get(HOME), await opened.get("/r/nobody"), await opened.post(HOME), await vote(opened, 1)]
        await vote(opened, 1, q0="a", q1="b")
        pages.append(await opened.get(HOME))
        for number, page in enumerate(pages):
            outline = Outline(await page.text())
            for tag in ("h1", "main", "header", "footer", "title"):
                assert outline.tags.count(tag) == 1, (number, tag)
            assert outline.inputs == outline.labelled
            assert len(outline.ids) == len(set(outline.ids))
            assert outline.named_by <= set(outline.ids)
            assert outline.tags.count("fieldset") == outline.tags.count("legend") == (2 if number in (2, 3) else 0)

    visit(path, steps)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_the_contrast_of_wcag_aa() -> None:
    css = look_css()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        texts = [(ink, on) for ink in ("ink", "quiet") for on in ("page", "card", "seeker")]
        texts += [
            ("ink", "chosen"),
            ("quiet", "chosen"),
            ("accent", "page"),
            ("on-accent", "accent"),
            ("alert", "alert-card"),
            ("accent", "card"),
        ]
        assert {
            pair: contrast(colours[pair[0]], colours[pair[1]])
            for pair in texts
            if contrast(colours[pair[0]], colours[pair[1]]) < 4.5
        } == {}
        edges = [("edge", "page"), ("edge", "card"), ("accent", "card"), ("accent", "page")]
        assert [pair for pair in edges if contrast(colours[pair[0]], colours[pair[1]]) < 3] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_cleanly_and_keeps_one_file(path: Path, number: signal.Signals) -> None:
    arguments = ("study", "serve", str(path), "--port", "0")
    with subprocess.Popen(
        [sys.executable, "-c", EVOLUTION.format(arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert address is not None
        # An open connection does not keep it from ending.
        with socket.create_connection(("127.0.0.1", int(address[1]))) as connection:
            connection.sendall(f"GET {HOME} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b"200 OK" in connection.recv(4096)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "all votes are kept" in out
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_port_in_use_is_one_message(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = ("study", "serve", str(path), "--port", str(taken.getsockname()[1]))
        done = subprocess.run(
            [sys.executable, "-c", EVOLUTION.format(arguments)], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: StudyAddress: --host 127.0.0.1 --port \d+: .*in use.*; choose a free port .*\n", done.stderr
    )
