import time

import pytest

from alfish.summary.timers import Timers


class Clock:
    """Goes on only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_inner_time_counts_for_the_inner_phase_only(clock):
    timers = Timers()
    clock.now += 1
    with timers.phase("update"):
        clock.now += 2
        with timers.phase("sample"):
            clock.now += 4
        clock.now += 1
    assert timers.totals() == {"update": 3, "sample": 4, "other": 1}
    assert timers.shares() == {"update": 3 / 8, "sample": 0.5, "other": 1 / 8}
    assert list(timers.totals())[-1] == "other"


def test_a_phase_is_reusable_and_may_hold_itself(clock):
    timers = Timers()
    phase = timers.phase("env")
    assert timers.phase("env") is phase
    for _ in range(3):
        with phase:
            clock.now += 1
            with phase:
                clock.now += 1
    assert timers.totals() == {"env": 6, "other": 0}


def test_an_open_phase_counts_up_to_now_and_survives_a_reset(clock):
    timers = Timers()
    with timers.phase("env"):
        clock.now += 2
        assert timers.totals() == {"env": 2, "other": 0}
        timers.reset()
        clock.now += 5
    assert timers.totals() == {"env": 5, "other": 0}


def test_an_exception_closes_the_phase(clock):
    timers = Timers()

    def fail():
        with timers.phase("env"):
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.now += 2
    assert timers.totals() == {"env": 1, "other": 2}


def test_shares_of_no_time_at_all(clock):
    assert Timers().shares() == {"other": 0.0}
