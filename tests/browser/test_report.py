"""A run's report in Chromium: 20,000 rows, hostile text, keyboard, phone, dark, paper, and how it looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.rows import Reject, Turn
from evolution_operator.reporting.page import render
from playwright.sync_api import Browser, Page

from tests.browser.screenshots import PICTURES, difference, photograph, small
from tests.support.report import make_answers, make_facts, make_pairs, make_rejects

MANY = 20_000
DIFFERENT = 0.025
"""Mean difference of pictures that show something else. Another font comes to a few thousandths."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of usual size."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(make_facts()))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with 20,000 pairs, all of them different."""
    path = tmp_path_factory.mktemp("large") / "report.html"
    pairs = make_pairs(MANY // 2)
    path.write_text(render(make_facts(pairs={1: pairs, 2: pairs}, rejects={1: make_rejects()})))
    return path


@contextmanager
def opened(browser: Browser, path: Path, place: str = "", **options: Any) -> Iterator[Page]:
    """The page once its browsers work. It fails if the page reports an error, or asks anybody for anything."""
    context = browser.new_context(**options)
    page = context.new_page()
    # Of actions, not of tests: 20,000 rows on a busy machine.
    page.set_default_timeout(120_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: faults.append(request.url) if request.url != path.as_uri() else None)
    try:
        page.goto(f"{path.as_uri()}{place}")
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-state=ready]")
        yield page
        assert [each.partition("#")[0] for each in faults if each.partition("#")[0] != path.as_uri()] == []
    finally:
        context.close()


def options(page: Page) -> int:
    return page.locator("#pairs .option").count()


def found(page: Page) -> str:
    return page.locator("#pairs .found").inner_text()


def selected(page: Page) -> str:
    return page.locator("#pairs .detail h3").inner_text()


def narrow(page: Page) -> bool:
    """Whether the page fits its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_twenty_thousand_rows_are_searched_filtered_and_sorted(browser: Browser, large: Path) -> None:
    with opened(browser, large) as page:
        assert found(page) == f"{MANY + 8:,} of {MANY + 8:,} pairs"
        assert options(page) < 40
        page.locator("#pairs .list").evaluate("each => { each.scrollTop = each.scrollHeight; }")
        page.wait_for_selector(f"#pair-{MANY + 7}")
        assert options(page) < 40
        search = page.get_by_role("search", name="Filter pairs")
        search.get_by_label("Search").fill("(9999)")
        assert found(page) == f"2 of {MANY + 8:,} pairs"
        assert "(9999)" in page.locator("#pairs .detail").inner_text()
        search.get_by_label("round").select_option("2 (10,000)")
        assert found(page) == f"1 of {MANY + 8:,} pairs"
        search.get_by_label("Search").fill("")
        search.get_by_label("round").select_option("all")
        search.get_by_label("outcome").select_option("too_long (4)")
        assert found(page) == f"4 of {MANY + 8:,} pairs"
        detail = page.locator("#pairs .detail").inner_text()
        assert "dropped" in detail
        assert "too_long: chosen has 60 words, rejected 19 (an answer that was cut off counts without" in detail
        search.get_by_label("outcome").select_option("all")
        search.get_by_label("source").select_option(f"teacher ({MANY // 4:,})")
        search.get_by_label("sort").select_option("shortest chosen")
        lengths = [int(each) for each in re.findall(r"→ (\d+) words", page.locator("#pairs .list").inner_text())]
        assert lengths == sorted(lengths)
        assert len(lengths) > 5


def test_a_search_without_a_result_says_so(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.get_by_role("search", name="Filter pairs").get_by_label("Search").fill("no such words")
        assert found(page).startswith("0 of ")
        assert "Nothing is found" in page.locator("#pairs .detail").inner_text()
        assert options(page) == 0


def test_words_that_differ_are_marked(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        sides = page.locator("#pairs .side")
        assert sides.nth(0).locator(".text").inner_text().startswith("It sounds like you are having a hard time.")
        assert "You should make a schedule " in "".join(sides.nth(0).locator("del").all_inner_texts())
        assert sides.nth(0).locator("ins").count() == 0
        assert "hiding it from your parents" in "".join(sides.nth(1).locator("ins").all_inner_texts())
        assert page.evaluate("diff('a b c', 'a c d')") == [
            [0, "a ", "a "],
            [-1, "b ", ""],
            [0, "c", "c "],
            [1, "", "d"],
        ]
        assert page.evaluate("diff('我很难过', '我不难过')") == [
            [0, "我", "我"],
            [-1, "很", ""],
            [1, "", "不"],
            [0, "难过", "难过"],
        ]
        assert page.evaluate("diff('a '.repeat(5000), 'b '.repeat(5000))") is None


def test_the_same_context_is_answered_side_by_side(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert page.locator("#answers .side h4").all_inner_texts() == [
            "Human 18 words",
            "M0 20 words",
            "M1 18 words",
            "M2 21 words",
        ]
        page.locator("#answers").get_by_role("button", name="Next").click()
        assert page.locator("#answers .side .text").first.inner_text().startswith("An argument about money")


def test_a_link_opens_its_pair(browser: Browser, large: Path) -> None:
    id_ = make_pairs(5000)[-1].id
    with opened(browser, large, f"#pair=2/{id_}") as page:
        assert selected(page) == f"Pair {id_}, round 2"
        assert page.locator("#pairs .detail").evaluate("each => each === document.activeElement")
        page.locator("#pairs").get_by_role("button", name="Next").click()
        here = page.evaluate("location.hash")
        assert here.startswith("#pair=2/")
        assert here != f"#pair=2/{id_}"
        # A filter that hides the pair is cleared.
        page.get_by_role("search", name="Filter pairs").get_by_label("Search").fill("no such words")
        page.evaluate("([id]) => { location.hash = `#pair=1/${id}`; }", [id_])
        page.wait_for_function("document.querySelector('#pairs h3').textContent.endsWith('round 1')")
        assert found(page).startswith(f"{MANY + 8:,} of")


def test_a_dropped_row_leads_to_its_place_in_the_browser(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator("#drops summary").first.click()
        page.locator("#drops").get_by_role("link", name="show it in the browser").first.click()
        page.wait_for_function("document.querySelector('#pairs h3').textContent.startsWith('Dropped row')")


def test_a_digest_leads_to_its_manifest(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert not page.locator("#manifest-reflect-2 pre").is_visible()
        page.get_by_role("list", name="dpo-2 reads").get_by_role("link").first.click()
        page.locator("#manifest-reflect-2 pre").wait_for()
        assert '"stage": "reflect-2"' in page.locator("#manifest-reflect-2 pre").inner_text()


def test_a_sign_leads_to_an_answer_with_its_context(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator("#signs").get_by_role("link", name="show it with its context").nth(1).click()
        page.wait_for_function("document.activeElement.closest('#answers') !== null")
        assert "Being met with silence" in page.locator("#answers .detail").inner_text()


def test_the_list_works_by_keyboard(browser: Browser, large: Path) -> None:
    with opened(browser, large) as page:
        rows = page.get_by_role("listbox", name="pairs")
        rows.focus()

        def place() -> list[str]:
            active = page.locator(f"#{rows.get_attribute('aria-activedescendant')}")
            assert active.get_attribute("aria-selected") == "true"
            assert active.get_attribute("aria-setsize") == str(MANY + 8)
            return [str(active.get_attribute("aria-posinset"))]

        visited = place()
        for key in ("ArrowDown", "ArrowDown", "ArrowUp", "End", "Home", "ArrowUp"):
            page.keyboard.press(key)
            visited += place()
        assert visited == ["1", "2", "3", "2", str(MANY + 8), "1", "1"]
        page.keyboard.press("PageDown")
        assert int(place()[0]) > 3
        page.keyboard.press("Enter")
        assert page.locator("#pairs .detail").evaluate("each => each === document.activeElement")
        page.keyboard.press("Escape")
        assert rows.evaluate("each => each === document.activeElement")


def test_the_first_key_skips_to_the_content(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, report: Path, scheme: Any) -> None:
    with opened(browser, report, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True) as page:
        assert narrow(page)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert narrow(page)
        page.locator("#pairs .option").nth(1).tap()
        assert page.locator("#pairs .option[aria-selected=true]").get_attribute("aria-posinset") == "2"
        assert narrow(page)
        small_targets = page.evaluate(
            "[...document.querySelectorAll('button, input, select')].filter((each) => each.getBoundingClientRect().height < 44).length"
        )
        assert small_targets == 0


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255).map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (element) => { for (let each = element; each; each = each.parentElement) { const found = rgb(getComputedStyle(each).backgroundColor); if (found[3] === 255) return found; } return [255, 255, 255, 255]; };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility() || element.closest(":disabled, .unseen, .jump")) continue;
    if (![...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim())) continue;
    const style = getComputedStyle(element);
    const ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [one, other] = [light(rgb(ink)), light(ground(element))].sort((a, b) => b - a);
    if ((one + 0.05) / (other + 0.05) < 4.5) poor.push([element.outerHTML.slice(0, 120), ink, (one + 0.05) / (other + 0.05)]);
  }
  return poor;
}"""
"""Elements whose text has less contrast to their ground than WCAG AA asks for."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_and_every_control_a_name(browser: Browser, report: Path, scheme: Any) -> None:
    with opened(browser, report, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate(CONTRAST) == []
        tree = page.locator("body").aria_snapshot()
        assert not re.findall(
            r"- (?:button|link|textbox|searchbox|combobox|listbox|region|navigation)(?: \[[^\]]*\])?:?$",
            tree,
            re.MULTILINE,
        )
        levels = [int(each[1]) for each in page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].filter((each) => each.checkVisibility()).map((each) => each.tagName)")]  # fmt: skip
        assert levels[0] == 1
        assert all(after <= before + 2 for before, after in pairwise(levels))


def test_colours_follow_the_reader(browser: Browser, report: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        with opened(browser, report, color_scheme=scheme) as page:
            seen.append(
                page.evaluate(
                    "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('figure svg text')).fill]"
                )
            )
    assert all(light != dark for light, dark in zip(*seen, strict=True))


def test_on_paper_examples_stand_in_for_the_browsers(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as page:
        assert not page.locator("#pairs .instead").is_visible()
        page.emulate_media(media="print")
        assert page.locator("#pairs .instead").is_visible()
        assert not page.locator("#pairs .browser").is_visible()
        assert not page.get_by_role("navigation").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(CONTRAST) == []
        assert page.pdf().startswith(b"%PDF")


def test_without_javascript_everything_but_the_browsers_is_shown(browser: Browser, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as page:
        assert page.locator("#pairs .instead article").count() == 3
        assert "needs JavaScript" in page.locator("#pairs .note").inner_text()
        assert page.locator("figure svg").first.is_visible()
        assert page.get_by_role("search").count() == 0


def test_a_chromium_that_cannot_unpack_keeps_the_examples(browser: Browser, report: Path) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#pairs .instead article").count() == 3
    assert page.locator("#pairs .instead").is_visible()
    context.close()


def test_hostile_text_is_shown_and_not_obeyed(browser: Browser, tmp_path: Path) -> None:
    attack = '</script><script>window.hit=1</script><img src=x onerror="window.hit=1"><b>bold</b>\u202e\x07{{7*7}}'
    turns = [Turn(role="seeker", text=attack)]
    facts = make_facts(
        name=attack,
        answers={"M0": make_answers(0, 1, id=attack, human=attack, answer=attack, set=attack, context=turns)},
        pairs={
            1: make_pairs(1, id=attack, chosen=attack + " new", rejected=attack, profile={attack: attack}, turns=turns)
        },
        rejects={1: [Reject(id="r", reason=attack, detail=attack, row={"rejected": attack, "profile": attack})]},
    )
    path = tmp_path / "report.html"
    path.write_text(render(facts))
    with opened(browser, path) as page:
        page.locator("#pairs").get_by_role("button", name="Next").click()
        page.locator("#pairs").get_by_role("button", name="Previous").click()
        shown = attack.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
        assert page.locator("#pairs .side .text").first.inner_text() == shown
        assert page.locator("#answers .side .text").first.inner_text() == shown
        assert page.evaluate("window.hit") is None
        assert page.locator("main img, main b b").count() == 0
        page.get_by_role("search", name="Filter pairs").get_by_label("outcome").select_option(index=2)
        assert page.evaluate("window.hit") is None
        link = page.locator("#pairs .bar a").get_attribute("href")
    with opened(browser, path, str(link)) as page:
        assert page.evaluate("window.hit") is None


@pytest.mark.parametrize("name", PICTURES)
def test_the_report_looks_as_in_the_docs(browser: Browser, report: Path, name: str) -> None:
    """Fonts differ between machines, so pictures are compared after they were made small: layout and colours stay the same.

    `python -m tests.browser.screenshots` makes them again after an intended change.
    """
    picture = PICTURES[name]
    stored = picture.path.read_bytes()
    assert len(stored) < 200_000
    assert difference(small(browser, photograph(browser, report, picture)), small(browser, stored)) < DIFFERENT


def test_another_look_is_noticed(browser: Browser, report: Path) -> None:
    """What shows that the comparison above can fail: the same window, elsewhere on the page or in other colours."""
    light, pairs = (small(browser, PICTURES[name].path.read_bytes()) for name in ("report-light", "report-pairs"))
    assert difference(light, pairs) > DIFFERENT
