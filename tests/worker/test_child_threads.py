"""The threads of a child: calls that came together share one, and get more where one is too few."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from multiprocessing import Pipe

import pytest

from cloudq import CloudQ
from cloudq.driver import Delivery
from cloudq.execution.outcomes import Job
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.messages.message import TaskMessage
from cloudq.results.waiting import Places
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.pool import child_main, pipe
from cloudq.worker.pool.child_main import Pool

MOST = 4


class Child:
    """A pool of threads for one task, and the supervisor's end of its connection."""

    def __init__(self, function: Callable[[int], object]) -> None:
        self.app = CloudQ("threads", broker="memory://threads", backend="memory://threads")
        self.app.task(name="run")(function)
        self.supervisor, self.own = Pipe()
        executor = self.app.executor(places=Places(MOST))
        self.pool = Pool(executor, MOST, self.own)
        self._bundle = new_bundle()

    def jobs(self, *numbers: int) -> list[tuple[int, Job]]:
        """Make jobs of these numbers, which are their arguments."""
        return [(number, self._job(number)) for number in numbers]

    def _job(self, number: int) -> Job:
        message = TaskMessage(id=bundled_id(self._bundle, number), task="run", args=[number])
        delivery = Delivery(queue="q", id="m", body=b"", receipt=number, attempts=1, lease=60.0)
        return Job(delivery=delivery, message=message)

    def ended(self, count: int) -> dict[int, str]:
        """Wait for the ends of so many jobs: the states by the numbers."""
        states: dict[int, str] = {}
        while len(states) < count:
            assert self.supervisor.poll(PATIENCE), f"{len(states)} of {count} have ended"
            for each in pipe.receive(self.supervisor):
                if isinstance(each, pipe.PackedSettlement):
                    states[each.number] = str(each.state)
        return states


def test_outcomes_that_come_shortly_after_each_other_are_sent_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_main, "_COMPANY", 0.5)
    child = Child(lambda number: number)
    child.pool.submit(child.jobs(0), in_turn=True)
    child.ended(1)  # it is sent at once
    child.pool.submit(child.jobs(*range(1, 9 * MOST)), in_turn=True)
    assert child.supervisor.poll(PATIENCE)
    assert len(pipe.receive(child.supervisor)) == 9 * MOST - 1


def test_calls_that_come_in_turn_share_a_thread() -> None:
    threads: set[int] = set()
    child = Child(lambda number: threads.add(threading.get_ident()))
    child.pool.submit(child.jobs(*range(3 * MOST)), in_turn=True)
    assert set(child.ended(3 * MOST).values()) == {"SUCCESS"}
    assert len(threads) == 1, "nobody was asked to help"


def test_calls_that_wait_for_each_other_get_a_thread_each() -> None:
    together = threading.Barrier(MOST, timeout=PATIENCE)
    child = Child(lambda number: together.wait() >= 0)
    child.pool.submit(child.jobs(*range(MOST)), in_turn=True)
    child.pool.help_until(child.own)
    assert child.ended(MOST) == dict.fromkeys(range(MOST), "SUCCESS")


def test_calls_that_are_slow_after_short_ones_get_a_thread_each() -> None:
    together = threading.Barrier(MOST, timeout=PATIENCE)
    child = Child(lambda number: number < 100 or together.wait() >= 0)
    for _ in range(10):  # so that all of the latest were short
        child.pool.submit(child.jobs(*range(MOST)), in_turn=True)
        child.ended(MOST)
    child.pool.submit(child.jobs(*range(100, 100 + MOST)), in_turn=True)
    child.pool.help_until(child.own)
    assert child.ended(MOST) == dict.fromkeys(range(100, 100 + MOST), "SUCCESS")


def test_orders_that_come_are_not_kept_waiting() -> None:
    going = threading.Event()
    child = Child(lambda number: going.wait(PATIENCE))
    child.pool.submit(child.jobs(*range(MOST + 1)), in_turn=True)
    pipe.send(child.supervisor, [pipe.Stop()])
    child.pool.help_until(child.own)
    assert isinstance(pipe.receive(child.own)[0], pipe.Stop)
    going.set()
    child.ended(MOST + 1)


def test_calls_that_are_not_in_turn_get_a_thread_each_at_once() -> None:
    together = threading.Barrier(MOST, timeout=PATIENCE)
    child = Child(lambda number: together.wait() >= 0)
    for number in range(MOST):
        child.pool.submit(child.jobs(number))
    assert child.ended(MOST) == dict.fromkeys(range(MOST), "SUCCESS")


def test_no_job_is_forgotten_by_threads_that_begin_to_wait() -> None:
    child = Child(lambda number: number)
    chance = random.Random(4)
    for _ in range(300):
        numbers = range(chance.randint(1, MOST))
        child.pool.submit(child.jobs(*numbers), in_turn=chance.random() < 0.5)
        child.pool.help_until(child.own)
        assert child.ended(len(numbers)).keys() == set(numbers)
