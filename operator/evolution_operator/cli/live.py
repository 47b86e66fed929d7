"""`evolution run --open`: the live page of a run on this machine, as long as it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..live.local_run import LocalRun
from ..live.pages import Pages
from ..live.server import LocalServer
from ..planner.observed import Run
from .browser import open_browser


@contextmanager
def live_page(run: Run, port: int, browse: bool, say: Callable[[str], None]) -> Iterator[LocalRun]:
    """Serve the run's page on this machine until the block ends. Yields its source, which must see each plan.

    A port that cannot be taken costs the page and one line, never the run.
    """
    source = LocalRun(run)
    try:
        server = LocalServer(Pages(source), port)
    except (OSError, OverflowError) as error:
        words = getattr(error, "strerror", None) or str(error)
        say(f"no live page: --port {port}: {words}; the run goes on without it")
        yield source
        return
    opened = browse and open_browser(server.address)
    say(f"live page: {server.address}" + (" (opened in the browser)" if opened else ""))
    try:
        yield source
    finally:
        source.end()
        server.stop()
