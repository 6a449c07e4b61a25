"""Growing pauses between tries."""

from __future__ import annotations

from itertools import islice
from math import inf, isfinite

import pytest

from cloudq.clock import Backoff, grown
from cloudq.testing import VirtualClock


def test_pauses_grow_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, jitter=0.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.failures == 5


def test_first_pause_is_no_longer_than_the_longest() -> None:
    assert Backoff(5.0, 2.0, jitter=0.0).failed() == 2.0


def test_success_begins_anew() -> None:
    backoff = Backoff(0.1, 60.0, factor=3.0, jitter=0.0)
    assert [backoff.failed(), backoff.failed()] == pytest.approx([0.1, 0.3])
    backoff.succeeded()
    assert (backoff.failures, backoff.left) == (0, 0.0)
    assert backoff.failed() == pytest.approx(0.1)


def test_chance_takes_no_more_than_its_share() -> None:
    pauses = {Backoff(8.0, 8.0, jitter=0.25).failed() for _ in range(200)}
    assert 6.0 <= min(pauses) < max(pauses) <= 8.0


def test_rest_of_a_pause_shrinks_with_the_clock() -> None:
    clock = VirtualClock()
    backoff = Backoff(10.0, 60.0, jitter=0.0, now=clock)
    assert backoff.left == 0.0
    backoff.failed()
    clock.advance(4.0)
    assert backoff.left == 6.0
    assert backoff.until == clock() + 6.0
    clock.advance(7.0)
    assert backoff.left == 0.0
    backoff.failed()
    assert backoff.left == 20.0


def test_pauses_of_many_failures_stay_finite() -> None:
    backoff = Backoff(1.0, 60.0)
    for _ in range(5000):
        assert backoff.failed() <= 60.0


def test_pauses_of_so_many_tries() -> None:
    assert list(Backoff(0.5, 3.0, jitter=0.0).pauses(4)) == [0.5, 1.0, 2.0, 3.0]


def test_pauses_without_an_end() -> None:
    pauses = Backoff(0.5, 3.0, jitter=0.0).pauses()
    assert list(islice(pauses, 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("times", "seconds"), [(0, 0.5), (1, 0.75), (2, 1.125), (9, 3.0), (10**6, 3.0)]
)
def test_growth_from_a_count(times: int, seconds: float) -> None:
    assert grown(0.5, times, 3.0, factor=1.5) == seconds


def test_growth_that_nothing_caps_stays_finite() -> None:
    assert isfinite(grown(0.5, 10**6, inf))
