"""The web pages of a study: plain forms, one page an item, no cookies, nothing from elsewhere.

Pages get what `storage.Shown` has: no model's name reaches a rater. Votes travel as `a`, `b` and `tie`, items as positions
in the rater's own order. Addresses contain tokens, so no access log is written and no page gives its address away.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_args

import jinja2
from aiohttp import web
from evolution_jobs.contract.errors import PermanentError

from ..look import look_css
from .records import Rater, Side
from .storage import StudyFile

LARGEST_FORM = 16 << 10
"""Bytes of a request's body. A form has some dozens."""
FOLDER = Path(__file__).parent
TOKEN = "{token:[A-Za-z0-9_-]{1,64}}"  # noqa: S105  # a route
POSITION = r"{position:[1-9]\d{0,5}}"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "evolution-study",
}
STATIC = {"study.css": "text/css", "study.js": "text/javascript"}
PROBLEMS = {
    404: ("Page not found", "Open the whole link that you were sent. If it still does not work, ask whoever sent it."),
    413: ("Too much data", "This form was larger than any vote is, and was not stored."),
    415: ("Not a form", "This page only takes the forms that it shows."),
    503: (
        "Not stored",
        "Your last vote could not be stored. Go back and submit it again. If this happens again, tell whoever sent you the link.",
    ),
}
"""What a page says in place of a bare HTTP status."""

STUDY = web.AppKey("study", StudyFile)
TEMPLATES = web.AppKey("templates", jinja2.Environment)
CLOCK: web.AppKey[Callable[[], float]] = web.AppKey("clock", Callable)  # type: ignore[arg-type]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def application(study: StudyFile, clock: Callable[[], float] = time.time) -> web.Application:
    """The web application of an open study."""
    app = web.Application(client_max_size=LARGEST_FORM, middlewares=[_problems])
    app[STUDY] = study
    app[CLOCK] = clock
    app[TEMPLATES] = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    app.on_response_prepare.append(_harden)
    app.add_routes(
        [
            web.get("/{name:study\\.(?:css|js)}", _static),
            web.get("/favicon.ico", _no_icon),
            web.get(f"/r/{TOKEN}", _begin),
            web.post(f"/r/{TOKEN}", _start),
            web.get(f"/r/{TOKEN}/{POSITION}", _item),
            web.post(f"/r/{TOKEN}/{POSITION}", _vote),
        ]
    )
    return app


async def serve(study: StudyFile, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called with the address once it answers.

    Raises PermanentError `StudyAddress` if the address cannot be taken.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # Without an access log: each address in it would be a rater's key.
    runner = web.AppRunner(application(study), access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            words = getattr(error, "strerror", None) or str(error)
            raise PermanentError(
                "StudyAddress",
                f"--host {host} --port {port}: {words}; choose a free port and an address of this machine",
            ) from error
        (address, *_) = runner.addresses
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        ready(f"http://{shown}:{address[1]}")
        await stopped.wait()
    finally:
        await runner.cleanup()


async def _begin(request: web.Request) -> web.StreamResponse:
    """The introduction, or where the rater was, or thanks."""
    rater = _rater(request)
    if not rater.started:
        study = request.app[STUDY].study
        return _page(request, "intro.html", rater=rater, questions=study.questions, introduction=study.introduction)
    if rater.open is not None:
        raise web.HTTPSeeOther(_place(request, rater.open))
    return _page(request, "thanks.html", rater=rater)


async def _start(request: web.Request) -> web.StreamResponse:
    rater = _rater(request)
    request.app[STUDY].start(rater.id, request.app[CLOCK]())
    raise web.HTTPSeeOther(_home(request))


async def _item(request: web.Request) -> web.StreamResponse:
    rater, position = _reached(request)
    return _show(request, rater, position, request.app[CLOCK]())


async def _vote(request: web.Request) -> web.StreamResponse:
    """Store a vote or a skip, and go on to the first open item. Without a vote, the page comes again and says so."""
    rater, position = _reached(request)
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType
    form = await request.post()
    study, now = request.app[STUDY], request.app[CLOCK]()
    if "skip" in form:
        study.skip(rater.id, position, now)
        raise web.HTTPSeeOther(_home(request))
    given = {number: side for number in range(len(study.study.questions)) if (side := _side(form.get(f"q{number}")))}
    if len(given) < len(study.study.questions):
        return _show(request, rater, position, None, given, missing=True)
    study.vote(rater.id, position, [given[number] for number in sorted(given)], now)
    raise web.HTTPSeeOther(_home(request))


def _show(
    request: web.Request,
    rater: Rater,
    position: int,
    now: float | None,
    given: dict[int, Side] | None = None,
    missing: bool = False,
) -> web.Response:
    study = request.app[STUDY]
    shown = study.show(rater.id, position, now)
    chosen = shown.chosen if given is None else given
    return _page(
        request,
        "item.html",
        status=422 if missing else 200,
        rater=rater,
        position=position,
        shown=shown,
        chosen=chosen,
        questions=study.study.questions,
        missing=missing,
    )


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    text = (FOLDER / "static" / name).read_text("utf-8")
    return web.Response(
        text=look_css() + text if name.endswith(".css") else text, content_type=STATIC[name], charset="utf-8"
    )


async def _no_icon(_request: web.Request) -> web.Response:
    return web.Response(status=204)


def _rater(request: web.Request) -> Rater:
    rater = request.app[STUDY].rater(request.match_info["token"])
    if rater is None:
        raise web.HTTPNotFound
    return rater


def _reached(request: web.Request) -> tuple[Rater, int]:
    """The rater and a position that the rater has reached. Whoever has not is sent to where the rater is."""
    rater = _rater(request)
    position = int(request.match_info["position"])
    if position > rater.places:
        raise web.HTTPNotFound
    if not rater.started or (rater.open is not None and position > rater.open):
        raise web.HTTPSeeOther(_home(request))
    return rater, position


def _side(value: Any) -> Side | None:
    return next((side for side in get_args(Side) if side == value), None)


def _home(request: web.Request) -> str:
    return f"/r/{request.match_info['token']}"


def _place(request: web.Request, position: int) -> str:
    return f"{_home(request)}/{position}"


def _page(request: web.Request, template: str, status: int = 200, **values: Any) -> web.Response:
    study = request.app[STUDY].study
    text = (
        request.app[TEMPLATES]
        .get_template(template)
        .render(
            home=_home(request) if "token" in request.match_info else None,
            title=study.title,
            contact=study.contact,
            **values,
        )
    )
    return web.Response(text=text, status=status, content_type="text/html")


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A page of words for every error."""
    try:
        return await handler(request)
    except sqlite3.Error as error:
        log.error("the study's file cannot be written or read: %s", error)
        status = 503
    except web.HTTPException as error:
        if error.status < 400:
            raise
        status = error.status
    heading, words = PROBLEMS.get(status, ("Not possible", "This page does not take such a request."))
    return _page(request, "problem.html", status=status, heading=heading, words=words)


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
