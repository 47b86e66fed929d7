"""The picture of the live page in docs/images: how it is made.

python -m tests.browser.live_picture
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from evolution_operator.live.local_run import LocalRun
from evolution_operator.live.pages import Pages
from evolution_operator.live.server import LocalServer
from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, find_chromium
from tests.support import live

PICTURE = Path(__file__).parents[2] / "docs/images/live.png"
FINISHED = 7
"""Stages that are over: the second round has begun."""


def main() -> None:
    """Make the picture of a run that began half an hour ago."""
    live.STARTED = datetime.now(UTC) - timedelta(minutes=37)
    source = LocalRun(live.played_run("support"))
    before = None
    for count in range(FINISHED + 1):
        status = live.played_status(count, 40)
        source.watch(live.played_plan(status, before))
        before = status
    server = LocalServer(Pages(source), farewell=0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        page = browser.new_context(viewport={"width": 1200, "height": 1330}).new_page()
        page.goto(server.address)
        page.wait_for_selector("#figures")
        page.screenshot(path=PICTURE)
        browser.close()
    source.end()
    server.stop()


if __name__ == "__main__":
    main()
