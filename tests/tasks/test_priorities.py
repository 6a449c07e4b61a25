"""Priorities: queues of their own, asked by weight."""

from __future__ import annotations

import pytest

from cloudq import CloudQ, ConfigurationError, InvalidArguments, chain
from cloudq.tasks.priorities import queues_for, weighted
from cloudq.testing import drain
from cloudq.worker.slots import Slots
from tests.support.bench import Bench


@pytest.fixture
def prior(app: Bench) -> Bench:
    app.conf.priority_queues = ["default", "orders.fifo"]
    return app


@pytest.mark.parametrize(
    ("priority", "queue"),
    [
        (None, "default"),
        (0, "default-low"),
        (2, "default-low"),
        (3, "default"),
        (6, "default"),
        (7, "default-high"),
        (9, "default-high"),
    ],
)
def test_a_priority_is_a_queue(prior: Bench, priority: int | None, queue: str) -> None:
    task = prior.task(name="t")(lambda: None)
    if priority is None:
        task.delay()
    else:
        task.apply_async(priority=priority)
    assert [message["queue"] for message in prior.sent(queue)] == [queue]


def test_a_task_may_have_a_priority_and_its_call_another(prior: Bench) -> None:
    task = prior.task(name="t", priority=9)(lambda: None)
    task.delay()
    task.apply_async(priority=0)
    prior.task(name="u", priority=5, queue="orders.fifo")(lambda: None).apply_async(priority=8)
    queues = ("default-high", "default-low", "orders-high.fifo")
    assert [len(prior.sent(queue)) for queue in queues] == [1, 1, 1]


def test_a_step_of_a_chain_keeps_its_priority(prior: Bench) -> None:
    task = prior.task(name="t")(lambda: None)
    chain(task.si(), task.si().set(priority=9)).delay()
    prior.step()
    assert len(prior.sent("default-high")) == 1


def test_a_retry_stays_on_its_queue(prior: Bench) -> None:
    @prior.task(name="t", priority=9, autoretry_for=[OSError])
    def task() -> None:
        raise OSError

    task.delay()
    prior.step(queue="default-high")
    assert prior.sent("default-high")[0]["retries"] == 1


def test_a_priority_that_a_queue_does_not_have_is_refused(prior: Bench) -> None:
    task = prior.task(name="t")(lambda: None)
    with pytest.raises(ConfigurationError, match=r"'other' has no priorities.*priority_queues="):
        task.apply_async(queue="other", priority=9)
    assert prior.sent("other") == []


@pytest.mark.parametrize("priority", [-1, 10, "high", 1.5, True])
def test_what_is_no_priority_is_refused(prior: Bench, priority: object) -> None:
    task = prior.task(name="t")(lambda: None)
    with pytest.raises(InvalidArguments, match=r"priority is .* from 0 to 9"):
        task.apply_async(priority=priority)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"task u: priority is .* from 0 to 9"):
        prior.task(name="u", priority=priority)(lambda: None)  # type: ignore[arg-type]


def test_without_declared_priorities_queues_are_what_they_were() -> None:
    assert queues_for(["a", "b"], []) == ["a", "b"]
    assert weighted([("a", 2), ("b", 1)], []) == (("a", 2), ("b", 1))


def test_levels_are_asked_by_weight_and_a_given_weight_stands() -> None:
    assert weighted([("a", 1), ("b.fifo", 2)], ["b.fifo"]) == (
        ("a", 1),
        ("b-high.fifo", 32),
        ("b.fifo", 8),
        ("b-low.fifo", 2),
    )
    assert dict(weighted([("a", 1), ("a-high", 3)], ["a"])) == {"a-high": 3, "a": 4, "a-low": 1}


def test_a_full_high_queue_leaves_some_for_the_low_one() -> None:
    queues = dict(weighted([("a", 1)], ["a"]))
    slots = Slots(1, queues)
    slots._waiting |= set(queues)  # pyright: ignore[reportPrivateUsage]
    taken = dict.fromkeys(queues, 0)
    for _ in range(210):
        name = next(name for name in queues if slots._is_next(name))  # pyright: ignore[reportPrivateUsage]
        slots._grant(name, 1)  # pyright: ignore[reportPrivateUsage]
        slots.give(1)
        taken[name] += 1
    assert taken == {"a-high": 160, "a": 40, "a-low": 10}


def test_tools_know_all_levels(prior: Bench) -> None:
    prior.task(name="t", queue="mail")(lambda: None)
    assert prior.queues() == ["default-high", "default", "default-low", "mail"]


def test_what_is_drained_are_all_levels() -> None:
    with CloudQ("d", broker="memory://drained-levels", priority_queues=["default"]) as app:
        ran: list[int] = []
        task = app.task(name="t")(ran.append)
        for priority in (0, 5, 9):
            task.apply_async([priority], priority=priority)
        drain(app)
        assert sorted(ran) == [0, 5, 9]
