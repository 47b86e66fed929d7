from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from evolution_operator.controller.kube.clock import TOLERANCE, ServerClock
from hypothesis import given
from hypothesis import strategies as st

TRUE = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Machine:
    """A machine with a clock that is ahead by some seconds, and the API server's responses to it."""

    def __init__(self, ahead):
        self.true, self.ahead = TRUE, ahead
        self.clock = ServerClock(lambda: self.true + timedelta(seconds=self.ahead))

    def receive(self, delay=0.0):
        date = format_datetime(self.true.replace(microsecond=0), usegmt=True)
        self.true += timedelta(seconds=delay)
        self.clock.set_from(date)


@given(ahead=st.floats(-1e6, 1e6), fraction=st.integers(0, 999_999), delay=st.floats(0, 3))
def test_after_one_response_it_has_the_api_servers_time(ahead, fraction, delay):
    machine = Machine(ahead)
    machine.true += timedelta(microseconds=fraction)
    machine.receive(delay)
    whole = machine.true.replace(microsecond=0)
    assert abs(machine.clock.now() - whole) <= TOLERANCE + timedelta(seconds=1), "the clock has whole seconds"


@given(delays=st.lists(st.floats(0, 3), max_size=20))
def test_clocks_that_agree_are_left_alone(delays):
    machine = Machine(0.3)
    for delay in delays:
        machine.receive(delay)
        machine.true += timedelta(seconds=0.4)
    assert machine.clock.ahead == 0
    assert machine.clock.now() == (machine.true + timedelta(seconds=0.3)).replace(microsecond=0)


def test_a_difference_is_logged_once_and_its_end_is_noticed(caplog):
    machine = Machine(3600)
    machine.receive()
    machine.receive()
    assert machine.clock.ahead == 3600
    (record,) = caplog.records
    assert "3600 s ahead of" in record.message
    machine.ahead = 0
    machine.receive()
    assert machine.clock.ahead == 0
    assert machine.clock.now() == TRUE


@pytest.mark.parametrize("date", [None, "", "soon", "Sun, 99 Mar 2026 12:00:00 GMT", "Sun, 01 Mar 2026 12:00:00"])
def test_an_invalid_date_is_ignored(date):
    machine = Machine(3600)
    machine.clock.set_from(date)
    assert machine.clock.ahead == 0
