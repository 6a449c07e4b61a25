"""Contract tests of drivers that can list and cancel delayed messages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import pytest

from cloudq.driver import BrokerDriver, Code, Failure, Outgoing, Scheduled, Scheduling
from cloudq.testing.waiting import HELD, collect, eventually, outgoing


class SchedulingDriver(BrokerDriver, Scheduling, Protocol):
    """A broker driver whose delayed messages can be listed and taken back."""


class SchedulingContract:
    """Subclass it as `Test...`, and give the fixtures `driver`, `another`, `queue`, `other_queue`.

    `queue` and `other_queue` exist and are empty. `missing_queue` (unless `creates_queues`) does
    not exist. A listing may lag for some seconds; what was taken back may not.
    """

    tick: float = 1.0
    """The shortest lease or delay that the service can tell from none, in seconds."""
    slack: float = 0.05
    """How much too early a delay may end by the service's clock, in seconds."""
    creates_queues: bool = False
    """A queue comes into being on first use, so that none is ever missing."""
    schedules_releases: bool = False
    """A message that was released for later is a scheduled one to the service."""

    @pytest.fixture
    def driver(self) -> SchedulingDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> SchedulingDriver:
        """Override it: a second driver on the service of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """Override it: the name of an existing queue that no other test uses."""
        raise NotImplementedError

    @pytest.fixture
    def other_queue(self) -> str:
        """Override it: the name of a second such queue."""
        raise NotImplementedError

    @pytest.fixture
    def missing_queue(self) -> str:
        """Override it: the name of a queue that does not exist."""
        raise NotImplementedError

    def nothing_for(self, driver: BrokerDriver, queue: str, seconds: float) -> None:
        """Assert that no message can be received for `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            wait = max(min(left, driver.limits(queue).max_wait), driver.limits(queue).min_wait)
            assert list(driver.receive(queue, count=1, wait=wait, lease=HELD)) == []

    def schedule(self, driver: SchedulingDriver, queue: str, *messages: Outgoing) -> list[str]:
        """Schedule the messages in one batch, and return their handles."""
        handles = [h for h in driver.schedule(queue, messages) if not isinstance(h, Failure)]
        assert len(handles) == len(messages)
        return handles

    def listed(self, driver: SchedulingDriver, queue: str, count: int) -> Sequence[Scheduled]:
        """Return what is scheduled, once that is `count` messages."""

        def look() -> list[Sequence[Scheduled]]:
            found = driver.scheduled(queue, count=count + 10)
            return [found] if len(found) == count else []

        return eventually(look)[0]

    def test_scheduled_arrives_after_its_delay_and_not_before(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        late, later = outgoing(delay=self.tick * 2), outgoing(delay=self.tick * 3)
        start = time.monotonic()
        self.schedule(driver, queue, later, late)
        # Looking is not taking.
        self.listed(driver, queue, 2)
        (delivery,) = collect(another, queue, 1)
        assert time.monotonic() - start > self.tick * 2 - self.slack
        assert (delivery.id, delivery.body, delivery.attempts) == (late.id, late.body, 1)
        (delivery,) = collect(another, queue, 1)
        assert time.monotonic() - start > self.tick * 3 - self.slack
        assert delivery.id == later.id

    def test_scheduled_arrives_once(self, driver: SchedulingDriver, queue: str) -> None:
        self.schedule(driver, queue, outgoing(delay=self.tick))
        assert not driver.ack(collect(driver, queue, 1))
        self.nothing_for(driver, queue, self.tick * 2)
        self.listed(driver, queue, 0)

    def test_a_message_without_a_delay_is_sent(self, driver: SchedulingDriver, queue: str) -> None:
        prompt, late = outgoing(), outgoing(delay=HELD)
        handles = self.schedule(driver, queue, prompt, late)
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [prompt.id]
        assert [message.handle for message in self.listed(driver, queue, 1)] == handles[1:]

    def test_taken_back_never_arrives(self, driver: SchedulingDriver, queue: str) -> None:
        stays, goes = outgoing(delay=self.tick * 3), outgoing(delay=self.tick * 3)
        _, handle = self.schedule(driver, queue, stays, goes)
        assert not driver.unschedule(queue, [handle])
        assert [delivery.id for delivery in collect(driver, queue, 1)] == [stays.id]
        self.nothing_for(driver, queue, self.tick)

    def test_handles_stand_in_the_order_of_the_messages(
        self, driver: SchedulingDriver, queue: str
    ) -> None:
        # The order of their times is another one.
        messages = [outgoing(delay=HELD - number) for number in range(4)]
        handles = self.schedule(driver, queue, *messages)
        assert len(set(handles)) == 4
        by_handle = {message.handle: message.id for message in self.listed(driver, queue, 4)}
        assert [by_handle[handle] for handle in handles] == [message.id for message in messages]
        assert not driver.unschedule(queue, [handles[2], handles[0]])
        left = {message.id for message in self.listed(driver, queue, 2)}
        assert left == {messages[1].id, messages[3].id}

    def test_handles_survive_text_and_json(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        handles = self.schedule(driver, queue, outgoing(delay=HELD), outgoing(delay=HELD))
        assert all(type(handle) is str for handle in handles)
        kept = json.loads(json.dumps([handle.encode().decode() for handle in handles]))
        found = another.scheduled(queue, count=10, after=kept[0])
        assert len(found) <= 1
        assert not another.unschedule(queue, kept)
        self.listed(driver, queue, 0)

    def test_another_driver_takes_back(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        first, _ = self.schedule(
            driver, queue, outgoing(delay=self.tick * 3), outgoing(delay=self.tick * 3)
        )
        assert not another.unschedule(queue, [first])
        (seen,) = self.listed(another, queue, 1)
        assert not another.unschedule(queue, [seen.handle])
        self.nothing_for(driver, queue, self.tick * 4)

    def test_a_second_unschedule_is_not_found(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        handles = self.schedule(driver, queue, outgoing(delay=HELD), outgoing(delay=HELD))
        assert not driver.unschedule(queue, handles)
        # What is sent meanwhile must not be taken for it.
        self.schedule(driver, queue, outgoing(delay=HELD), outgoing(delay=HELD))
        failures = another.unschedule(queue, handles)
        assert [(f.index, f.code) for f in failures] == [(0, Code.NOT_FOUND), (1, Code.NOT_FOUND)]
        assert all(failure.reason for failure in failures)
        self.listed(driver, queue, 2)

    def test_what_came_due_is_not_found_and_the_others_are_taken_back(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        late, due = outgoing(delay=HELD), outgoing(delay=self.tick)
        first, second, third = self.schedule(driver, queue, late, due, outgoing(delay=HELD))
        self.listed(driver, queue, 2)
        # It is due and nobody has received it.
        (failure,) = driver.unschedule(queue, [second])
        assert (failure.index, failure.code) == (0, Code.NOT_FOUND)
        held = collect(another, queue, 1)
        assert [delivery.id for delivery in held] == [due.id]
        # It is received and not acked; then it is gone.
        (failure,) = driver.unschedule(queue, [first, second, third])
        assert (failure.index, failure.code) == (1, Code.NOT_FOUND)
        self.listed(driver, queue, 0)
        assert not another.ack(held)
        (failure,) = driver.unschedule(queue, [second])
        assert (failure.index, failure.code) == (0, Code.NOT_FOUND)

    def test_a_listing_tells_what_waits(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        messages = [outgoing(body=f"message {n}".encode(), delay=HELD + 10 * n) for n in range(3)]
        before = time.time()
        handles = self.schedule(driver, queue, *messages)
        found = {message.id: message for message in self.listed(another, queue, 3)}
        # The service's clock need not agree with this one to the millisecond.
        allowed = self.slack + 1.0
        for handle, message in zip(handles, messages, strict=True):
            seen = found[message.id]
            assert (seen.handle, seen.body, seen.group) == (handle, message.body, None)
            due = before + message.delay
            assert due - allowed < seen.due < time.time() + message.delay + allowed

    def test_a_listing_tells_the_group(self, driver: SchedulingDriver, queue: str) -> None:
        self.schedule(driver, queue, outgoing(delay=HELD, group="a"))
        (seen,) = self.listed(driver, queue, 1)
        assert seen.group == ("a" if driver.limits(queue).ordered else seen.group)

    def test_a_listing_comes_in_pages(self, driver: SchedulingDriver, queue: str) -> None:
        self.schedule(driver, queue, *[outgoing(delay=HELD - number) for number in range(5)])
        whole = [message.handle for message in self.listed(driver, queue, 5)]
        paged: list[str] = []
        while page := driver.scheduled(queue, count=2, after=paged[-1] if paged else None):
            assert len(page) <= 2
            paged += [message.handle for message in page]
        assert paged == whole

    def test_a_page_follows_one_that_was_taken_back(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        self.schedule(driver, queue, *[outgoing(delay=HELD - number) for number in range(6)])
        first, second, third, *rest = [m.handle for m in self.listed(driver, queue, 6)]
        assert not driver.unschedule(queue, [second])
        page = another.scheduled(queue, count=1, after=second)
        assert [message.handle for message in page] == [third]
        assert not driver.unschedule(queue, [first, third])
        page = another.scheduled(queue, count=10, after=third)
        assert [message.handle for message in page] == rest
        assert not driver.scheduled(queue, count=10, after=rest[-1])

    def test_a_page_follows_one_that_came_due(self, driver: SchedulingDriver, queue: str) -> None:
        messages = [outgoing(delay=delay) for delay in (self.tick * 2, HELD, HELD + 1)]
        self.schedule(driver, queue, *messages)
        found = self.listed(driver, queue, 3)
        (place,) = [at for at, seen in enumerate(found) if seen.id == messages[0].id]
        self.listed(driver, queue, 2)
        page = driver.scheduled(queue, count=10, after=found[place].handle)
        assert [seen.handle for seen in page] == [seen.handle for seen in found[place + 1 :]]

    def test_a_full_batch_is_scheduled_and_taken_back(
        self, driver: SchedulingDriver, queue: str
    ) -> None:
        messages = [outgoing(delay=HELD) for _ in range(driver.limits(queue).batch)]
        handles = self.schedule(driver, queue, *messages)
        assert {m.id for m in self.listed(driver, queue, len(messages))} == {
            message.id for message in messages
        }
        assert not driver.unschedule(queue, handles)
        self.listed(driver, queue, 0)

    def test_only_what_waits_is_listed(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str, other_queue: str
    ) -> None:
        ready = [outgoing(), outgoing()]
        assert not driver.send(queue, ready)
        waiting, elsewhere = outgoing(delay=HELD), outgoing(delay=HELD)
        self.schedule(driver, queue, waiting)
        self.schedule(driver, other_queue, elsewhere)
        assert [message.id for message in self.listed(another, queue, 1)] == [waiting.id]
        assert [message.id for message in self.listed(another, other_queue, 1)] == [elsewhere.id]
        # A leased message is not one either.
        collect(driver, queue, 2)
        assert [message.id for message in self.listed(another, queue, 1)] == [waiting.id]

    def test_released_for_later_is_not_listed(self, driver: SchedulingDriver, queue: str) -> None:
        if self.schedules_releases:
            pytest.skip("the service schedules what is released for later")
        assert not driver.send(queue, [outgoing()])
        assert not driver.release(collect(driver, queue, 1), after=HELD)
        self.schedule(driver, queue, late := outgoing(delay=self.tick))
        assert not driver.release(collect(driver, queue, 1), after=HELD)
        self.schedule(driver, queue, waiting := outgoing(delay=HELD))
        found = [message.id for message in self.listed(driver, queue, 1)]
        assert found == [waiting.id] != [late.id]

    def test_what_was_sent_with_a_delay_is_scheduled_too(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        message = outgoing(delay=self.tick * 3)
        assert not driver.send(queue, [message])
        (seen,) = self.listed(another, queue, 1)
        assert seen.id == message.id
        assert not another.unschedule(queue, [seen.handle])
        self.nothing_for(driver, queue, self.tick * 4)

    def test_a_group_goes_on_when_its_message_is_taken_back(
        self, driver: SchedulingDriver, another: SchedulingDriver, queue: str
    ) -> None:
        if not driver.limits(queue).ordered:
            pytest.skip("the service keeps no order")
        messages = [outgoing(group="a", delay=delay) for delay in (HELD, HELD, 0.0, 0.0)]
        first, second, _, _ = self.schedule(driver, queue, *messages)
        # In the middle of its group, then at its head.
        assert not another.unschedule(queue, [second])
        assert not another.unschedule(queue, [first])
        arrived: list[str] = []
        while len(arrived) < 2:
            (delivery,) = collect(driver, queue, 1)
            arrived.append(delivery.id)
            assert not driver.ack([delivery])
        assert arrived == [messages[2].id, messages[3].id]

    def test_a_larger_body_is_refused_in_place_of_its_handle(
        self, driver: SchedulingDriver, queue: str
    ) -> None:
        large = outgoing(body=b"x" * (driver.limits(queue).body + 1), delay=HELD)
        first, last = outgoing(delay=HELD), outgoing(delay=HELD)
        handle, failure, other = driver.schedule(queue, [first, large, last])
        assert isinstance(failure, Failure)
        assert (failure.index, failure.code) == (1, Code.TOO_LARGE)
        by_handle = {message.handle: message.id for message in self.listed(driver, queue, 2)}
        assert by_handle == {handle: first.id, other: last.id}

    @pytest.mark.parametrize("call", ["schedule", "unschedule", "scheduled"])
    def test_a_missing_queue_is_not_found(
        self, driver: SchedulingDriver, queue: str, request: pytest.FixtureRequest, call: str
    ) -> None:
        if self.creates_queues:
            pytest.skip("queues come into being on first use")
        missing: str = request.getfixturevalue("missing_queue")
        handles = self.schedule(driver, queue, outgoing(delay=HELD))
        calls: dict[str, Callable[[], object]] = {
            "schedule": partial(driver.schedule, missing, [outgoing(delay=HELD)]),
            "unschedule": partial(driver.unschedule, missing, handles),
            "scheduled": partial(driver.scheduled, missing, count=1),
        }
        with pytest.raises(Exception) as caught:
            calls[call]()
        assert driver.error_code(caught.value) is Code.NOT_FOUND
