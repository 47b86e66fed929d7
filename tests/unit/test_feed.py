"""Requests reach an engine that makes its own batches so that it never runs empty, and each is sampled once."""

import pytest
from evolution_jobs.contract.rows import Response
from evolution_jobs.engines.base import Request, Sampling
from evolution_jobs.engines.feed import Feed

GREEDY = Sampling(0, 1, 0, 1)


def request(number, seed=0, length=1):
    return Request(str(number), [], GREEDY, seed, max_new_tokens=length, max_prompt_tokens=1)


class Seats:
    """Samples up to `seats` rows at a time, each for as many steps as it has tokens."""

    def __init__(self, seats):
        self.seats = seats
        self.left = {}
        self.started = []
        self.taken = []

    def room(self):
        return self.seats - len(self.left)

    def start(self, request):
        assert self.room()
        self.started.append((request.id, request.seed))
        self.left[self.started[-1]] = request, request.max_new_tokens

    def step(self):
        self.taken.append(len(self.left))
        self.left = {key: (request, left - 1) for key, (request, left) in self.left.items()}
        ended = [request for request, left in self.left.values() if not left]
        for request in ended:
            del self.left[request.id, request.seed]
        return [(each, Response(id=each.id, text=f"{each.seed}", finish="stop", tokens=1)) for each in ended]


@pytest.fixture
def seats():
    return Seats(4)


def answered(feed, requests, follow=None):
    return [(each.id, each.text) for each in feed.responses(requests, follow)]


def test_every_request_is_answered_once(seats):
    requests = [request(number, length=1 + number % 3) for number in range(10)]
    assert sorted(answered(Feed(seats), requests)) == sorted((each.id, "0") for each in requests)
    assert len(seats.started) == 10
    assert max(seats.taken) == 4


def test_while_a_part_ends_the_next_ones_begin(seats):
    # The last row of each part takes long. Without the others it would be alone.
    requests = [request(number, length=10 if number % 4 == 3 else 1) for number in range(16)]
    feed = Feed(seats)
    feed.announce(requests)
    for start in range(0, 16, 4):
        part = requests[start : start + 4]
        assert sorted(id_ for id_, _ in answered(feed, part)) == sorted(each.id for each in part)
    assert sorted(seats.started) == sorted((each.id, 0) for each in requests)
    # 52 tokens for 4 seats, and the last row may be left alone.
    assert len(seats.taken) <= 52 / 4 + 10


def test_a_response_can_ask_for_more_and_its_row_goes_on_at_once(seats):
    def follow(response):
        return request(response.id, seed=int(response.text) + 1) if response.text < "2" else None

    order = answered(Feed(seats), [request(number) for number in range(8)], follow)
    assert len(order) == 24
    assert {id_ for id_, _ in order[-3:]}.isdisjoint({id_ for id_, _ in order[:3]})
    assert [text for id_, text in order if id_ == "3"] == ["0", "1", "2"]


def test_what_a_response_asks_for_may_have_been_announced_and_begun(seats):
    feed = Feed(seats)
    feed.announce([request("a"), request("b")])
    list(feed.responses([request("a")]))
    assert seats.started == [("a", 0), ("b", 0)]
    assert answered(feed, [request("c", length=3)], lambda each: request("b") if each.id == "c" else None) == [
        ("c", "0"),
        ("b", "0"),
    ]
    assert seats.started == [("a", 0), ("b", 0), ("c", 0)]


def test_a_caller_that_stops_early_can_ask_for_the_others_again(seats):
    feed = Feed(seats)
    asked = [request(number) for number in range(3)]
    first = next(feed.responses(asked))
    others = {each.id for each in asked} - {first.id}
    assert {id_ for id_, _ in answered(feed, [each for each in asked if each.id in others])} == others
    assert len(seats.started) == 3


def test_a_request_that_is_refused_can_be_asked_for_again(seats, monkeypatch):
    feed = Feed(seats)
    monkeypatch.setattr(seats, "start", lambda each: pytest.fail("it is too long"))
    with pytest.raises(pytest.fail.Exception):
        answered(feed, [request("a")])
    monkeypatch.undo()
    assert answered(feed, [request("a")]) == [("a", "0")]
