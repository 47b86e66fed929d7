"""The look that all pages share: a human study, the report, the live page."""

from __future__ import annotations

from importlib.resources import files


def look_css() -> str:
    """The style sheet that comes first in every page."""
    return (files(__package__) / "look.css").read_text("utf-8")
