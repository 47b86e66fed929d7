"""The pictures of a report in docs/images: how they are made, and how two of them are compared.

    python -m tests.browser.screenshots

makes them again. Chromium is found as in the tests (tests/browser/conftest.py).
"""

from __future__ import annotations

import base64
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evolution_operator.reporting.page import render
from playwright.sync_api import Browser, sync_playwright

from tests.support.report import make_facts

IMAGES = Path(__file__).parents[2] / "docs/images"
SMALL = 32
"""Columns and rows of a picture that is compared: letters are gone, boxes and colours are there."""


@dataclass(frozen=True)
class Picture:
    """A window on the report."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"]
    place: str = ""

    @property
    def path(self) -> Path:
        return IMAGES / f"{self.name}.png"


PICTURES = {
    picture.name: picture
    for picture in (
        Picture("report-light", 1200, 860, "light"),
        Picture("report-curves", 1200, 800, "light", "#curves"),
        Picture("report-pairs", 1200, 800, "light", "#pairs"),
        Picture("report-phone-dark", 390, 844, "dark", "#pairs"),
    )
}


def photograph(browser: Browser, report: Path, picture: Picture) -> bytes:
    """A PNG of what the window shows."""
    window = {"width": picture.width, "height": picture.height}
    context = browser.new_context(viewport=window, color_scheme=picture.scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.goto(f"{report.as_uri()}{picture.place}")
        page.wait_for_selector("html[data-state=ready]")
        return page.screenshot()
    finally:
        context.close()


def small(browser: Browser, png: bytes) -> list[int]:
    """The picture reduced to `SMALL` x `SMALL` pixels: red, green and blue of each, 0 to 255."""
    page = browser.new_page()
    try:
        values: list[int] = page.evaluate(
            """async ([data, size]) => {
              const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
              const picture = await createImageBitmap(new Blob([bytes]), { resizeWidth: size, resizeHeight: size, resizeQuality: "high" });
              const canvas = new OffscreenCanvas(size, size).getContext("2d");
              canvas.drawImage(picture, 0, 0);
              return [...canvas.getImageData(0, 0, size, size).data].filter((_, place) => place % 4 !== 3);
            }""",
            [base64.b64encode(png).decode(), SMALL],
        )
        return values
    finally:
        page.close()


def difference(one: list[int], other: list[int]) -> float:
    """Mean difference of two small pictures, 0 to 1."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / (255 * len(one))


def main() -> None:
    """Make all pictures again."""
    from tests.browser.conftest import FLAGS, find_chromium

    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        report = Path(scratch) / "report.html"
        report.write_text(render(make_facts()))
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        for picture in PICTURES.values():
            picture.path.write_bytes(photograph(browser, report, picture))
            print(f"{picture.path}: {picture.path.stat().st_size} bytes", file=sys.stderr)
        browser.close()


if __name__ == "__main__":
    main()
