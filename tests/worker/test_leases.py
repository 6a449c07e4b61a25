"""The leases that a worker holds: extended in time, most urgent first, and given up when lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cloudq.driver import Code, Delivery, Failure, forks
from cloudq.driver.ends import Died
from cloudq.execution.bundles import Parcel
from cloudq.messages.bundle import Bundle
from cloudq.results.call_marks import Marks, is_before, is_older
from cloudq.results.record import Record, State
from cloudq.testing.waiting import eventually
from cloudq.worker import leases as leases_module
from cloudq.worker.in_flight import Flight, Flights
from cloudq.worker.leases import FIRST, Leases
from tests.support.bench import Bench

LEASE = 60.0
MARGIN = 2.0


class Held:
    """Leases on deliveries of an app's queue, and how often they woke who waits for them."""

    def __init__(self, app: Bench, lease: float = LEASE) -> None:
        self.app = app
        self.flights = Flights()
        self.woken = threading.Semaphore(0)
        self.leases = Leases(app.broker, self.flights, lease, wake=self.woken.release)

    def received(self, lease: float = LEASE, count: int = 1) -> list[Delivery]:
        task = self.app.task(name="t")(lambda: None)
        for _ in range(count):
            task.delay()
        found = self.app.broker.receive("default", count=count, wait=0.0, lease=lease)
        assert len(found) == count
        return [*found]

    def hold(self, lease: float = LEASE) -> Flight:
        [flight] = self.leases.hold(self.received(lease))
        return flight

    @property
    def extensions(self) -> int:
        return self.app.wire.calls["extend"]


@pytest.fixture
def held() -> Iterator[Held]:
    with closing(Bench()) as app:
        yield Held(app)


def test_a_lease_is_extended_when_a_third_of_it_has_passed(held: Held) -> None:
    before = time.monotonic()
    flight = held.hold()
    after = time.monotonic()
    assert before + LEASE - MARGIN <= flight.lease_ends <= after + LEASE - MARGIN
    held.leases.extend(before + LEASE / 3 - 1)
    assert (held.extensions, flight.extended) == (0, False)
    held.leases.extend(after + LEASE / 3 + 1)
    assert (held.extensions, flight.extended) == (1, True)
    assert flight.lease_ends >= after + LEASE - MARGIN
    assert (flight.lost, flight.doubtful, flight.short, flight.asked_at) == (*[False] * 3, 0.0)
    assert not held.woken.acquire(blocking=False)


def test_so_much_is_taken_off_the_end_of_a_lease(held: Held) -> None:
    for lease, margin in ((60.0, 2.0), (10.0, 2.0), (5.0, 1.0)):
        before = time.monotonic()
        ends = held.leases.ends(lease)
        assert before + lease - margin <= ends <= time.monotonic() + lease - margin


def test_a_lease_that_is_somewhat_shorter_has_its_own_third(held: Held) -> None:
    before = time.monotonic()
    flight = held.hold(FIRST)
    after = time.monotonic()
    held.leases.extend(before + FIRST / 3 - 1)
    assert (held.extensions, flight.extended) == (0, False)
    held.leases.extend(after + FIRST / 3 + 1)
    assert (held.extensions, flight.extended) == (1, True)
    held.leases.extend(after + FIRST / 3 + 1)  # it is as long as any now
    assert held.extensions == 1


def test_a_lease_is_short_at_half_of_the_length_that_it_can_have() -> None:
    with closing(Bench()) as app:
        held = Held(app, lease=20.0)
        held.hold(10.1)
        assert held.extensions == 0
        held.hold(10.0)
        assert held.extensions == 1


def test_a_short_lease_is_extended_before_its_call_starts(held: Held) -> None:
    assert not held.hold(FIRST).short
    assert held.extensions == 0
    flight = held.hold(FIRST - 1)
    assert (held.extensions, flight.extended, flight.short) == (1, True, False)
    held.app.wire.down = {"extend"}
    flight = held.hold(FIRST - 1)
    assert (flight.extended, flight.short) == (False, True)
    held.leases.extend(time.monotonic())
    assert flight.short
    assert not held.woken.acquire(blocking=False)
    held.app.wire.down = set()
    held.leases.extend(time.monotonic())
    assert not flight.short
    assert held.woken.acquire(blocking=False)


def test_a_short_lease_that_is_lost_is_waited_for_no_more(held: Held) -> None:
    held.app.wire.down = {"extend"}
    flight = held.hold(FIRST - 1)
    held.app.wire.down = set()
    held.app.memory.release([flight.delivery], after=0.0)
    held.received()
    held.leases.extend(time.monotonic())
    assert (flight.lost, flight.short) == (True, False)
    assert held.woken.acquire(blocking=False)


def test_the_death_of_the_worker_passes_through_what_extends_a_short_lease(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        raise Died

    monkeypatch.setattr(held.app.memory, "extend", dies)
    with pytest.raises(Died):
        held.hold(FIRST - 1)


def test_what_another_thread_has_asked_for_is_asked_for_again_after_its_patience(
    held: Held,
) -> None:
    flight = held.hold()
    now = time.monotonic() + LEASE
    flight.asked_at = now
    held.leases.extend(now + 1.9)
    assert held.extensions == 0
    held.leases.extend(now + 2.0)
    assert (held.extensions, flight.asked_at) == (1, 0.0)


def test_while_a_lease_is_asked_for_no_other_thread_asks(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.hold()
    now = time.monotonic() + LEASE
    asked: list[int] = []
    extend = held.app.memory.extend

    def slow(deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        asked.append(len(deliveries))
        if len(asked) == 1:
            other = threading.Thread(target=held.leases.extend, args=[now + 1])
            other.start()
            other.join()
        return extend(deliveries, lease=lease)

    monkeypatch.setattr(held.app.memory, "extend", slow)
    held.leases.extend(now)
    assert asked == [1]


def test_leases_that_wait_to_be_extended_are_told_of_every_five_seconds(
    held: Held, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.hold()
    held.app.wire.down = {"extend"}
    start = time.monotonic()
    for after in (0.0, 0.0, 4.0, 5.0, 9.0, 10.0):
        clock = SimpleNamespace(monotonic=lambda after=after: start + after)
        monkeypatch.setattr(leases_module, "time", clock)
        held.leases.extend(start + LEASE)
    told = [each for each in caplog.records if "could not extend 1 lease" in each.getMessage()]
    assert [each.levelno for each in told] == [logging.WARNING] * 3


def test_the_first_reason_why_leases_were_not_extended_is_told(
    held: Held, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.leases.hold(held.received(count=2))

    def refuses(deliveries: Sequence[Delivery], *, lease: float) -> Sequence[Failure]:
        codes = Code.THROTTLED, Code.DENIED
        return [Failure(index=n, code=code, reason=f"no {n}") for n, code in enumerate(codes)]

    monkeypatch.setattr(held.app.memory, "extend", refuses)
    held.leases.extend(time.monotonic() + LEASE)
    [told] = [each.getMessage() for each in caplog.records if each.name == "cloudq.worker"]
    assert told == "could not extend 2 leases: no 0"


@pytest.mark.parametrize("settling", [False, True])
def test_a_lost_lease_is_told_of_unless_its_message_is_being_settled(
    held: Held, caplog: pytest.LogCaptureFixture, settling: bool
) -> None:
    flight = held.hold()
    flight.settling = settling
    held.app.memory.release([flight.delivery], after=0.0)
    held.received()
    held.leases.extend(time.monotonic() + LEASE)
    assert flight.lost
    told = [each.getMessage() for each in caplog.records if each.name == "cloudq.worker"]
    lost = f"lost the lease of message {flight.delivery.id}: it may run again elsewhere"
    assert told == ([] if settling else [lost])


def test_a_lease_that_may_have_ended_leaves_a_doubt_and_one_that_is_lost_is_asked_for_no_more(
    held: Held,
) -> None:
    flight = held.hold()
    flight.lease_ends = time.monotonic() - 1
    held.leases.extend(time.monotonic())
    assert flight.doubtful
    assert not flight.lost
    held.app.memory.release([flight.delivery], after=0.0)
    held.received()
    held.leases.extend(time.monotonic() + LEASE)
    assert flight.lost
    asked = held.extensions
    held.leases.extend(time.monotonic() + LEASE)
    assert held.extensions == asked


def test_the_calls_of_a_bundle_whose_lease_is_lost_are_all_lost(held: Held) -> None:
    [whole] = held.received()
    message = held.app.runtime.codec.read(whole.body, queue="default", limit=1 << 20)
    assert not isinstance(message, Bundle)
    calls = [message.model_copy(update={"id": f"{n}"}) for n in range(2)]
    parcel = Parcel(whole, Bundle(name="b", calls=calls))
    [flight] = held.leases.hold([whole])
    parts = held.flights.split(flight, parcel.parts)
    held.app.memory.release([whole], after=0.0)
    held.received()
    held.leases.extend(time.monotonic() + LEASE)
    assert held.extensions == 1  # for the message, not for each of its calls
    assert parcel.lost
    assert all(part.lost for part in parts)


def test_with_the_lease_of_a_bundle_of_plain_calls_all_are_lost(held: Held) -> None:
    task = held.app.task(name="t")(lambda: None)
    held.app.publish([task.prepare() for _ in range(3)], bundle=3)
    [whole] = held.app.broker.receive("default", count=1, wait=0.0, lease=LEASE)
    [plain] = held.app.runner.sort([whole]).plain
    [flight] = held.leases.hold([whole])
    tray = held.flights.hold_plain(flight, plain)
    held.app.memory.release([whole], after=0.0)
    [again] = held.app.broker.receive("default", count=1, wait=0.0, lease=LEASE)
    assert again.id == whole.id
    held.leases.extend(time.monotonic() + LEASE)
    assert flight.lost
    assert tray.parcel.lost


def test_the_threads_extend_and_end(held: Held) -> None:
    threads = held.leases._threads  # pyright: ignore[reportPrivateUsage]
    assert all(thread.daemon for thread in threads)  # no process waits for them at its end
    held.leases.start()
    flight = held.hold()
    flight.lease_ends = time.monotonic() + 1
    eventually(lambda: flight.extended)
    held.leases.stop()
    assert not any(thread.is_alive() for thread in threads)


def test_the_threads_go_on_after_an_error_and_end_with_the_death_of_the_worker(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([ValueError, Died, Died])
    raised: list[type[BaseException]] = []
    ended: list[type[BaseException]] = []

    def fails(now: float) -> None:
        error = next(errors, ValueError)
        raised.append(error)
        raise error

    def ends(given: threading.ExceptHookArgs) -> None:
        ended.append(given.exc_type)

    monkeypatch.setattr(held.leases, "extend", fails)
    monkeypatch.setattr(threading, "excepthook", ends)
    held.leases.start()
    eventually(lambda: len(raised) >= 3)
    held.leases.stop()
    assert ended == [Died, Died]


def test_a_forked_process_makes_marks_though_another_thread_was_making_one() -> None:
    made: list[str] = []

    def clock() -> float:  # whoever asks it holds the lock of the marks
        if not made:
            made.append("")
            forks._renewed[marks](marks)  # pyright: ignore[reportPrivateUsage]
            made[0] = marks.new()
        return 5.0

    marks = Marks(clock)
    assert marks.new() > made[0]


def test_each_mark_is_later_than_those_before_though_the_clock_stands_or_goes_back() -> None:
    times = iter([5.0, 5.0, 4.0, 6.0])
    marks = Marks(lambda: next(times))
    made = [marks.new() for _ in range(4)]
    assert [int(mark[:14], 16) for mark in made] == [5_000_000, 5_000_001, 5_000_002, 6_000_000]
    assert made == sorted(made)
    assert {len(mark) for mark in made} == {22}


def test_an_end_is_that_of_an_earlier_call_by_its_mark_or_its_time() -> None:
    first, second = (Marks(lambda at=at: at).new() for at in (5.0, 6.0))  # type: ignore[misc]
    ended = Record(id="x", state=State.SUCCESS, finished_at=5.5)
    assert is_before(ended, second)
    assert not is_before(ended, first)
    assert not is_before(ended, "another producer's mark")
    assert not is_before(replace(ended, finished_at=0.5), "another producer's mark")
    assert not is_before(replace(ended, finished_at=6.0), second)
    assert not is_before(replace(ended, state=State.STARTED), second)
    assert not is_before(replace(ended, finished_at=None), second)
    assert is_before(replace(ended, call=first), second)
    assert not is_before(replace(ended, call=second), second)
    assert is_older(ended, first)
    assert is_older(replace(ended, call=first), second)
    assert not is_older(replace(ended, call=second), second)
    assert not is_older(ended, None)
