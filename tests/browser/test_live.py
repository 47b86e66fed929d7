"""The live page in Chromium: a run that goes on, its end, many runs, a phone, a keyboard, hostile text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from evolution_operator.api.status import RunStatus
from evolution_operator.controller.process.cluster_runs import ClusterRuns
from evolution_operator.controller.process.health import HealthServer
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.controller.seen.told import EventReader
from evolution_operator.live.local_run import LocalRun
from evolution_operator.live.pages import Pages
from evolution_operator.live.server import LocalServer
from playwright.sync_api import Browser, Page, expect
from prometheus_client import CollectorRegistry

from tests.support.live import played_plan, played_run, played_status
from tests.support.study import HOSTILE

PHONE = {"width": 375, "height": 740}
NO_REST = itertools.count().__next__
"""A clock by which every answer is built anew."""


class Local:
    """A run on this machine that a test takes from state to state."""

    def __init__(self, farewell: float = 60) -> None:
        self.source = LocalRun(played_run())
        self.server = LocalServer(Pages(self.source, clock=NO_REST), farewell=farewell)
        self._status: RunStatus | None = None

    def see(self, status: RunStatus) -> None:
        self.source.watch(played_plan(status, self._status))
        self._status = status

    def end(self) -> None:
        self.source.end()
        self.server.stop()


@pytest.fixture
def local() -> Iterator[Local]:
    """A run that goes on to the end of the test."""
    made = Local(farewell=0)
    yield made
    made.end()


@pytest.fixture
def ending() -> Local:
    """A run that the test ends."""
    return Local()


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """The page in a window of its own, and everything that goes wrong in it."""
    context = browser.new_context(**options)
    page, problems = context.new_page(), list[str]()
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(address) else None)
    # The page as it is, but it asks ten times as often.
    page.route("**/live.js", lambda route: route.fulfill(response=(got := route.fetch()), body=faster(got.text())))
    page.goto(address)
    yield page, problems
    context.close()


def faster(script: str) -> str:
    assert script.count("EVERY = 2000") == 1
    return script.replace("EVERY = 2000", "EVERY = 200")


def test_a_run_is_followed_to_its_end_and_the_page_stays(browser: Browser, ending: Local) -> None:
    ending.see(played_status(3, 40))
    with opened(browser, ending.server.address) as (page, problems):
        stage = page.locator("#stage-generate-1")
        expect(stage).to_contain_text("40/96 rows · 75 s left")
        expect(page).to_have_title("first: Running 3/11 · evolution")
        expect(page.get_by_role("progressbar", name="generate-1: 40 of 96 rows")).to_have_attribute("value", "40")
        expect(page.get_by_role("columnheader", name="M0 ★ champion")).to_be_visible()
        page.evaluate("window.kept = document.querySelector('#stage-generate-1')")

        ending.see(played_status(3, 80))
        expect(stage).to_contain_text("80/96 rows")
        expect(page.get_by_role("status")).to_have_text("")
        ending.see(played_status(4, 1))
        expect(stage).to_contain_text("finished")
        expect(page.get_by_role("status")).to_have_text("generate-1 finished, reflect-1 running")
        assert page.evaluate("window.kept === document.querySelector('#stage-generate-1')"), (
            "it is changed, not replaced"
        )

        ending.see(played_status(11))
        ending.end()
        expect(page.locator("#fresh")).to_have_text("The command has ended. This page stays as it is.")
        expect(page.locator(".title .pill")).to_have_text("Complete")
        expect(page.get_by_role("columnheader", name="M2 ★ champion")).to_be_visible()
        row = page.get_by_role("row", name=re.compile("Distinct-2"))
        expect(row).to_contain_text("chooses the champion")
        expect(row.get_by_role("cell").nth(2)).to_have_text("36.1833.65 to 39.07")
        expect(page.locator("#lost")).to_be_hidden()
        assert problems == []


def test_a_page_in_the_background_has_the_end_when_one_comes_back(browser: Browser, ending: Local) -> None:
    ending.see(played_status(3, 40))
    with opened(browser, ending.server.address) as (page, _):
        expect(page.locator("#stage-generate-1")).to_contain_text("40/96")
        with page.expect_request(lambda request: request.url.endswith("?until=end")):
            hide(page)
        ending.see(played_status(11))
        ending.end()
        expect(page.locator(".title .pill")).to_have_text("Complete")


def hide(page: Page, hidden: bool = True) -> None:
    """As if another tab were shown, or this one again. Headless Chromium shows all."""
    page.evaluate(
        f"Object.defineProperty(document, 'hidden', {{get: () => {str(hidden).lower()}, configurable: true}});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )


def test_a_page_in_the_background_asks_for_nothing(browser: Browser) -> None:
    with operator(3) as (address, _), opened(browser, address) as (page, _):
        expect(page.get_by_role("link", name=re.compile("run-0"))).to_be_visible()
        # The played clock knows no timer that was set before it: the page begins anew under it.
        hide(page)
        page.clock.install()
        with page.expect_response("**/runs.json"):
            hide(page, False)
        hide(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(60_000)
        assert asked == []


def test_a_lost_connection_is_said_with_the_time_of_the_last_update(browser: Browser, local: Local) -> None:
    local.see(played_status(3, 40))
    with opened(browser, local.server.address) as (page, _):
        expect(page.locator("#fresh")).to_contain_text("updated")
        page.route("**/*.json", lambda route: route.abort())
        lost = page.get_by_role("alert")
        expect(lost).to_have_text(re.compile(r"connection is lost\. Last update \d\d:\d\d:\d\d\. Trying again\."))
        expect(page.locator("#stage-generate-1")).to_contain_text("40/96")
        page.unroute("**/*.json")
        local.see(played_status(3, 60))
        expect(page.locator("#stage-generate-1")).to_contain_text("60/96")
        expect(lost).to_be_hidden()


def test_hostile_text_is_text_on_every_screen(browser: Browser) -> None:
    for width, scheme in ((320, "light"), (375, "dark"), (1200, "light")):
        local = Local(farewell=0)
        wrong = HOSTILE + "x" * 300
        local.see(played_status(5, None, state="Failed", reason=HOSTILE, message=wrong, attempts=2, settled=2))
        size = {"width": width, "height": 800}
        with opened(browser, local.server.address, viewport=size, color_scheme=scheme) as (page, problems):
            expect(page.locator("#stage-dpo-1")).to_contain_text("<script>alert(1)</script>")
            assert page.locator("script").count() == 1
            assert page.locator("main b").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert problems == []
        local.end()


def test_it_is_used_by_keyboard_and_read_by_a_screen_reader(browser: Browser, local: Local) -> None:
    local.see(played_status(7, 10))
    with opened(browser, local.server.address, viewport=PHONE) as (page, _):
        round_ = page.locator("#round-1")
        expect(round_).to_have_attribute("open", "")
        page.keyboard.press("Tab")
        expect(page.locator("#jump")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        expect(round_.locator("summary")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#stage-dpo-1")).to_be_hidden()
        local.see(played_status(8, 11))
        expect(page.locator("#stage-reflect-2")).to_contain_text("11/96")
        expect(page.locator("#stage-dpo-1")).to_be_hidden()
        expect(round_.locator("summary")).to_be_focused()
        for control in page.locator("a, button, input, select, progress, [role=region]").all():
            assert control.evaluate(
                "each => (each.labels?.[0]?.innerText || each.ariaLabel || each.innerText || each.ariaLabelledByElements?.[0]?.innerText || '').trim()"
            )
        for cell in page.locator("main table th").all():
            assert cell.get_attribute("scope") in ("row", "col")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


# ---- the operator's page


class NoEvents:
    """An API server without events."""

    def list_events(self, _key: Any, _uid: str) -> tuple[()]:
        return ()


def stored(name: str, status: RunStatus, version: int = 1) -> dict[str, Any]:
    metadata = {"namespace": "team-a", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"iterations": 2}, "status": status.wire()}


@contextmanager
def operator(count: int) -> Iterator[tuple[str, Cache]]:
    """The operator's own server over a cache that a test fills, as kopf would."""
    cache = Cache()
    for number in range(count):
        cache.put_run(stored(f"run-{number}", played_status(11 if number % 4 else 3 + number % 7, 40)))
    pages = Pages(ClusterRuns(cache, EventReader(NoEvents())), clock=NO_REST)
    server = HealthServer(0, lambda: None, CollectorRegistry(), pages.answer)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.port}/", cache
    finally:
        server.stop()


def test_many_runs_are_listed_filtered_and_opened(browser: Browser) -> None:
    with operator(400) as (address, cache), opened(browser, address, viewport=PHONE) as (page, problems):
        rows = page.locator(".runs li")
        expect(rows).to_have_count(400)
        expect(rows.first.locator(".pill")).to_have_text("Running")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.get_by_label("Phase").select_option("Complete")
        expect(rows).to_have_count(300)
        page.get_by_label("Name or namespace").fill("team-a run-39")
        expect(rows).to_have_count(9)
        # The list is read again, and the filter stays.
        cache.put_run(stored("run-391", played_status(5, 1), 2))
        expect(rows).to_have_count(8)
        expect(page.get_by_label("Name or namespace")).to_be_focused()
        page.get_by_role("link", name=re.compile("run-399")).click()
        expect(page.get_by_role("heading", name="run-399")).to_be_visible()
        expect(page).to_have_url(f"{address}#/team-a/run-399")
        cache.drop_run(*_identity("run-399"))
        expect(page.get_by_text("There is no run team-a/run-399 any more.")).to_be_visible()
        page.get_by_role("link", name="all runs").click()
        expect(rows).to_have_count(7)
        expect(page.get_by_label("Name or namespace")).to_have_value("team-a run-39")
        # Chromium reports an answer 404 of its own accord.
        assert [each for each in problems if "404" not in each] == []


def test_what_a_stage_has_said_is_not_on_the_operators_page(browser: Browser) -> None:
    with operator(0) as (address, cache):
        status = played_status(5, None, state="Failed", reason="InternalError", message="I have felt low", attempts=1)
        cache.put_run(stored("first", status))
        with opened(browser, f"{address}#/team-a/first") as (page, _):
            expect(page.locator("#stage-dpo-1")).to_contain_text("evolution status first -n team-a")
            expect(page.get_by_text("stage dpo-1: InternalError")).to_be_visible()
            assert "felt low" not in page.content()


def _identity(name: str) -> tuple[Any, str]:
    from evolution_operator.controller.kube.client import RunKey

    return RunKey("team-a", name), name
