"""The live page's answers: what is served to whom, and that nothing else is."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest
from evolution_operator.cli import live as cli_live
from evolution_operator.cli.live import live_page
from evolution_operator.controller.kube.apiserver import UnreachableError
from evolution_operator.controller.kube.client import RunKey
from evolution_operator.controller.process.cluster_runs import ClusterRuns
from evolution_operator.controller.process.health import HealthServer
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.controller.seen.told import RUNS_KEPT, SECONDS, SPACING, EventReader
from evolution_operator.live.local_run import LocalRun
from evolution_operator.live.pages import RUNS_SHOWN, Access, Answer, Asked, Pages
from evolution_operator.live.server import LocalServer
from prometheus_client import CollectorRegistry

from tests.support.live import played_plan, played_run, played_status

FIRST = "/runs/team-a/first.json"


class Played:
    """A source of runs that counts how often it is asked."""

    single = False

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.built = 0

    def runs(self) -> list[dict[str, Any]]:
        self.built += 1
        return [{"name": f"run-{number}"} for number in range(self.count)]

    def run(self, namespace: str, name: str) -> dict[str, Any] | None:
        self.built += 1
        return {"name": name, "said": "\ud83d\u202e<b>"} if (namespace, name) == ("team-a", "first") else None


def ask(
    pages: Pages,
    target: str,
    method: str = "GET",
    peer: str = "127.0.0.1",
    host: str = "localhost:8080",
    known: str = "",
) -> Answer:
    return pages.answer(Asked(method, target, peer, host, known))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/", "text/html"),
        ("/live.css", "text/css"),
        ("/live.js", "text/javascript"),
        ("/runs.json", "application/json"),
        (FIRST, "application/json"),
    ],
)
def test_each_answer_has_strict_headers(target: str, kind: str) -> None:
    answer = ask(Pages(Played()), target)
    assert answer.status == HTTPStatus.OK
    assert answer.headers["Content-Type"].startswith(kind)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_loads_nothing_from_elsewhere_and_has_no_script_of_its_own() -> None:
    pages = Pages(Played())
    page = ask(pages, "/").body.decode()
    assert page.count("<script") == 1
    assert "<style" not in page
    assert "style=" not in page
    for target in ("/", "/live.css", "/live.js"):
        text = ask(pages, target).body.decode().replace("http://www.w3.org/", "")
        assert "http:" not in text
        assert "//cdn" not in text
    assert "innerHTML" not in ask(pages, "/live.js").body.decode()


def test_the_page_starts_with_the_shared_look() -> None:
    css = ask(Pages(Played()), "/live.css").body.decode()
    assert css.index("--accent:") < css.index(".stage")


def test_who_has_an_answer_already_gets_none() -> None:
    pages = Pages(Played())
    for target in ("/", "/runs.json", FIRST):
        first = ask(pages, target)
        again = ask(pages, target, known=f'"x", W/{first.headers["ETag"]}')
        assert (again.status, again.body) == (HTTPStatus.NOT_MODIFIED, b"")
        assert ask(pages, target, known='"other"').status == HTTPStatus.OK


def test_many_readers_cost_one_reading() -> None:
    now, source = [0.0], Played()
    pages = Pages(source, clock=lambda: now[0])
    for _ in range(100):
        ask(pages, FIRST)
    assert source.built == 1
    now[0] = 1.5
    ask(pages, FIRST)
    assert source.built == 2


def test_an_answer_that_was_being_built_when_the_run_ended_is_not_kept() -> None:
    class Ending(Played):
        """The run ends while the first answer is built."""

        def run(self, namespace: str, name: str) -> dict[str, Any] | None:
            self.built += 1
            if self.built == 1:
                pages.forget()
            return {"ended": self.built > 1}

    pages = Pages(Ending(), clock=lambda: 0.0)
    assert json.loads(ask(pages, FIRST).body) == {"ended": False}
    assert json.loads(ask(pages, FIRST).body) == {"ended": True}


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/runs/team-a/second.json",
        "/runs/team-a/..%2f..%2fetc.json",
        "/runs/../page.html",
        "/runs/TEAM/first.json",
        f"/runs/{'a' * 64}/first.json",
        "//runs.json",
        "/live.py",
    ],
)
def test_what_is_not_there_is_not_found(target: str) -> None:
    answer = ask(Pages(Played()), target)
    assert answer.status == HTTPStatus.NOT_FOUND
    assert target not in answer.body.decode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_written(method: str) -> None:
    answer = ask(Pages(Played()), FIRST, method)
    assert answer.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert answer.headers["Allow"] == "GET, HEAD"


def test_a_long_list_is_cut_and_says_so() -> None:
    body = json.loads(ask(Pages(Played(RUNS_SHOWN + 7)), "/runs.json").body)
    assert (len(body["runs"]), body["left"], body["single"]) == (RUNS_SHOWN, 7, False)


def test_lone_surrogates_travel_as_escapes() -> None:
    assert b"\\ud83d" in ask(Pages(Played()), FIRST).body


@pytest.mark.parametrize(
    ("access", "peer", "host", "status"),
    [
        ("portForward", "127.0.0.1", "localhost:4000", 200),
        ("portForward", "::ffff:127.0.0.1", "127.0.0.1:4000", 200),
        ("portForward", "::1", "[::1]:4000", 200),
        # Another Pod, and a service mesh's proxy, which has an address of its own in 127.0.0.0/8.
        ("portForward", "10.0.0.7", "localhost", 403),
        ("portForward", "127.0.0.6", "localhost", 403),
        ("portForward", "fe80::1%eth0", "localhost", 403),
        ("portForward", "?", "localhost", 403),
        # DNS rebinding: a foreign page's name that leads to this machine.
        ("portForward", "127.0.0.1", "evil.example:4000", 403),
        ("portForward", "127.0.0.1", "localhost.evil.example", 403),
        ("portForward", "127.0.0.1", "[", 403),
        ("portForward", "127.0.0.1", "", 403),
        ("network", "10.0.0.7", "runs.example.com", 200),
        ("off", "127.0.0.1", "localhost", 404),
    ],
)
def test_who_gets_the_page(access: Access, peer: str, host: str, status: int) -> None:
    pages = Pages(Played(), access)
    for target in ("/", "/runs.json", FIRST):
        answer = ask(pages, target, peer=peer, host=host)
        assert answer.status == status
        assert (b"first" in answer.body) <= (status == 200)


# ---- on this machine


def get(port: int, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, target, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def test_a_local_run_is_served_as_it_goes_on() -> None:
    source = LocalRun(played_run())
    pages = Pages(source)
    server = LocalServer(pages)
    port = port_of(server.address)
    before = None
    for count in (2, 3):
        status = played_status(count, 40)
        source.watch(played_plan(status, before))
        before = status
        pages.forget()
        code, headers, body = get(port, FIRST)
        assert (code, json.loads(body)["done"]) == (200, count)
        assert get(port, FIRST, **{"If-None-Match": headers["ETag"]})[0] == 304
    assert [event["reason"] for event in json.loads(body)["events"]][:2] == ["StageStarted", "StageSucceeded"]
    assert headers["Server"] == "evolution"
    code, headers, body = get(port, "/runs.json", "HEAD")
    assert (code, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert get(port, "/", "POST")[0] == 405
    assert get(port, "/", Host="evil.example")[0] == 403
    source.end()
    pages.forget()
    assert json.loads(get(port, FIRST)[2])["ended"] is True
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(port, "/")


def test_an_open_page_gets_the_last_state_before_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the run waits for the page's next question."""
    source = LocalRun(played_run())
    server = LocalServer(Pages(source))
    port = port_of(server.address)
    assert json.loads(get(port, FIRST)[2])["ended"] is False
    seen: list[bool] = []

    wait = server._last_given.wait

    def asked_again(timeout: float) -> bool:
        seen.append(json.loads(get(port, FIRST)[2])["ended"])
        seen.append(wait(timeout))
        return seen[-1]

    monkeypatch.setattr(server._last_given, "wait", asked_again)
    source.end()
    server.stop()
    assert seen == [True, True]


def test_a_page_in_the_background_waits_for_the_end_alone() -> None:
    source = LocalRun(played_run())
    server = LocalServer(Pages(source))
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server.address), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"{FIRST}?until=end")
        while not server._held:
            os.sched_yield()
        source.watch(played_plan(played_status(11)))
        source.end()
        server.stop()
        document = json.loads(connection.getresponse().read())
    assert (document["ended"], document["phase"]) == (True, "Complete")


def test_a_run_goes_on_without_its_page_if_the_port_is_taken() -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with live_page(played_run(), port, browse=False, say=said.append) as page:
            page.watch(played_plan(played_status(1)))
    (line,) = said
    assert line == f"no live page: --port {port}: Address already in use; the run goes on without it"


def test_the_address_is_said_and_the_browser_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cli_live, "LocalServer", partial(LocalServer, farewell=0))
    monkeypatch.setattr(cli_live, "open_browser", lambda address: bool(asked.append(address)) or True)
    said: list[str] = []
    with live_page(played_run(), 0, browse=True, say=said.append) as page:
        page.watch(played_plan(played_status(1)))
        page.reported("/runs/report.html")
        document = json.loads(get(port_of(asked[0]), FIRST)[2])
        assert (document["done"], document["report"]) == (1, "/runs/report.html")
    assert said == [f"live page: {asked[0]} (opened in the browser)"]
    with live_page(played_run(), 0, browse=False, say=said.append):
        pass
    assert len(asked) == 1


# ---- in the operator


class Events:
    """The API server's events of all runs."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False

    def list_events(self, key: RunKey, uid: str) -> tuple[dict[str, Any], ...]:
        self.calls += 1
        if self.fails:
            raise UnreachableError("no answer")
        return tuple(
            {
                "metadata": {"resourceVersion": str(number)},
                "type": "Normal",
                "reason": "StageStarted",
                "message": f"{'prepare' if number < 9 else 'sft'}",
                "lastTimestamp": "2026-05-04T09:00:00Z",
            }
            for number in (8, 10, 9)
        )


def stored(name: str = "first", finished: int = 3, version: int = 7) -> dict[str, Any]:
    status = played_status(finished, 40).wire()
    metadata = {"namespace": "team-a", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    spec = {"baseModel": {"uri": "hf://owner/model"}, "iterations": 2, "storage": {"uri": "s3://secret-bucket/runs"}}
    return {"metadata": metadata, "spec": spec, "status": status}


@contextlib.contextmanager
def operator(access: Access = "portForward") -> Iterator[tuple[int, Cache, Events]]:
    cache, events = Cache(), Events()
    pages = Pages(ClusterRuns(cache, EventReader(events)), access)
    server = HealthServer(0, lambda: None, CollectorRegistry(), pages.answer if access != "off" else None)
    server.start()
    try:
        yield server.port, cache, events
    finally:
        server.stop()


def test_the_operator_serves_runs_from_its_cache_beside_health_and_metrics() -> None:
    with operator() as (port, cache, events):
        for name, finished in (("first", 3), ("done", 11), ("second", 5)):
            cache.put_run(stored(name, finished))
        code, _, body = get(port, "/runs.json")
        assert (code, events.calls) == (200, 0)
        listed = json.loads(body)["runs"]
        assert [run["name"] for run in listed] == ["first", "second", "done"]
        assert listed[0]["stage"] == {"id": "generate-1", "done": 40, "total": 96}
        code, _, body = get(port, FIRST)
        document = json.loads(body)
        assert (code, document["done"], document["baseModel"], events.calls) == (200, 3, "hf://owner/model", 1)
        assert [event["message"] for event in document["events"]] == ["sft", "sft", "prepare"]
        assert b"secret-bucket" not in body
        assert get(port, "/healthz")[::2] == (200, b"ok\n")
        assert get(port, "/healthz", "HEAD")[::2] == (200, b"")
        assert get(port, "/metrics")[0] == 200
        assert get(port, "/metrics", "POST")[0] == 405
        cache.drop_run(RunKey("team-a", "second"), "uid-second")
        assert get(port, "/runs/team-a/second.json")[0] == 404


def test_a_page_that_is_off_leaves_health_and_metrics() -> None:
    with operator("off") as (port, _, _):
        assert get(port, "/")[::2] == (404, b"/healthz or /metrics\n")
        assert get(port, "/healthz")[0] == 200


def test_a_status_of_another_version_does_not_break_the_page() -> None:
    cache = Cache()
    body = stored()
    body["status"]["conditions"] = [{"type": "Later"}]
    body["spec"] = {}
    cache.put_run(body)
    document = ClusterRuns(cache, EventReader(Events())).run("team-a", "first")
    assert document is not None
    assert (document["phase"], document["baseModel"]) == ("Pending", None)


def test_events_are_read_again_only_while_new_ones_may_come() -> None:
    now, events = [0.0], Events()
    reader = EventReader(events, lambda: now[0])
    key = RunKey("team-a", "first")

    def read(seconds: float, version: str = "1") -> int:
        now[0] += seconds
        reader.events(key, "uid", version)
        return events.calls

    assert [read(0), read(1), read(SECONDS), read(SECONDS), read(1000)] == [1, 1, 2, 2, 2]
    # The status has changed: its event comes a moment later.
    assert [read(1, "2"), read(SECONDS, "2"), read(SECONDS, "2")] == [3, 4, 4]


def test_many_runs_that_are_looked_at_cost_one_list_in_each_interval() -> None:
    now, events = [0.0], Events()
    reader = EventReader(events, lambda: now[0])
    for _ in range(3):
        for number in range(RUNS_KEPT):
            reader.events(RunKey("team-a", f"run-{number}"), f"uid-{number}", "1")
        now[0] += SPACING
    assert events.calls == 3


def test_events_that_cannot_be_read_leave_what_is_known() -> None:
    now, events = [0.0], Events()
    reader, key = EventReader(events, lambda: now[0]), RunKey("team-a", "first")
    events.fails = True
    assert reader.events(key, "uid", "1") is None
    events.fails, now[0] = False, SECONDS
    assert len(reader.events(key, "uid", "1") or []) == 3
    events.fails, now[0] = True, 3 * SECONDS
    assert len(reader.events(key, "uid", "2") or []) == 3
