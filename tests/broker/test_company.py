"""Threads that send to a queue at the same time share their requests, and nothing else."""

from __future__ import annotations

import ctypes
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from cloudq.broker import company
from cloudq.broker.company import Companies
from cloudq.clock import real_time
from cloudq.driver import Code, Failure, Limits, Outgoing
from cloudq.driver.queues import is_ordered
from cloudq.testing.waiting import PATIENCE, eventually
from cloudq_local.memory_broker import MemoryBroker, MemoryQueues
from tests.support.faults import FaultyBroker, Outage

MANY = 64


class Refused(Exception):
    """A refusal of a whole request, as Pub/Sub's for one message in it."""


class HeldBroker(FaultyBroker):
    """A billed broker whose requests take as long as a test wants, or are interrupted."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker(MemoryQueues(real_time)))
        self.may_end = threading.Event()
        self.sent: list[int] = []
        self.raising: list[BaseException] = []

    def limits(self, queue: str) -> Limits:
        limits = self.inner.limits(queue)
        return replace(limits, batch=10, batch_body=1_000, ordered=is_ordered(queue), billed=True)

    def send(self, queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        self.sent.append(len(messages))
        assert self.may_end.wait(PATIENCE)
        if self.raising:
            raise self.raising.pop()
        return super().send(queue, messages)

    def error_code(self, error: Exception) -> Code:
        if isinstance(error, Refused):
            return Code.INVALID
        return super().error_code(error) if isinstance(error, Outage) else Code.UNKNOWN


@pytest.fixture
def held() -> HeldBroker:
    return HeldBroker()


@pytest.fixture
def companies(held: HeldBroker) -> Companies:
    return Companies(lambda: held)


@pytest.fixture
def threads(held: HeldBroker) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MANY) as pool:
        yield pool
        held.may_end.set()  # also after a failure, or its threads never end


def message(n: int, size: int = 1) -> Outgoing:
    return Outgoing(id=str(n), body=b"x" * size)


Send = Callable[[int], "Future[Sequence[Failure]]"]


@pytest.fixture
def send(companies: Companies, held: HeldBroker, threads: ThreadPoolExecutor) -> Send:
    """Begin to send one message; return when its thread has come to the others."""
    begun = 0

    def begin(n: int, size: int = 1) -> Future[Sequence[Failure]]:
        nonlocal begun
        future = threads.submit(companies.send, "q", [message(n, size)])
        begun += 1
        eventually(lambda: waiting(companies) + sum(held.sent) >= begun)
        return future

    return begin


def waiting(companies: Companies) -> int:
    found = companies._by_queue.get("q")
    return sum(len(each.messages) for each in list(found._waiting)) if found else 0


def in_queue(held: HeldBroker) -> list[str]:
    found = list[str]()
    while deliveries := held.inner.receive("q", count=10, wait=0, lease=600):
        found += [delivery.id for delivery in deliveries]
    return sorted(found, key=int)


def test_those_who_come_while_a_request_is_under_way_share_the_next(
    send: Send, held: HeldBroker
) -> None:
    sends = [send(n) for n in range(8)]
    assert held.sent == [1]
    held.may_end.set()
    assert [each.result(PATIENCE) for each in sends] == [[]] * 8
    assert held.sent == [1, 7]
    assert len(in_queue(held)) == 8


def test_what_fills_a_request_does_not_wait(send: Send, held: HeldBroker) -> None:
    sends = [send(n) for n in range(MANY)]
    eventually(lambda: len(held.sent) == 7)
    assert held.sent == [1, *[10] * 6]
    held.may_end.set()
    for each in sends:
        assert each.result(PATIENCE) == []
    assert held.sent == [1, *[10] * 6, 3]
    assert in_queue(held) == [str(n) for n in range(MANY)]


def test_a_request_takes_no_more_bytes_than_the_service(send: Send, held: HeldBroker) -> None:
    sends = [send(0), *(send(n, 300) for n in range(1, 6))]
    held.may_end.set()
    for each in sends:
        each.result(PATIENCE)
    assert max(held.sent) <= 3
    assert len(in_queue(held)) == 6


def test_one_alone_goes_at_once_and_by_itself(companies: Companies, held: HeldBroker) -> None:
    held.may_end.set()
    for n in range(5):
        assert companies.send("q", [message(n)]) == []
    assert held.sent == [1] * 5


def test_each_is_told_of_its_own_refusals(
    companies: Companies, send: Send, held: HeldBroker, threads: ThreadPoolExecutor
) -> None:
    held.refuse = lambda each: Code.INVALID if int(each.id) % 3 == 0 else None
    first = send(1)
    pairs = [
        threads.submit(companies.send, "q", [message(n), message(n + 1)]) for n in (2, 4, 6, 7)
    ]
    eventually(lambda: waiting(companies) == 8)
    held.may_end.set()
    assert first.result(PATIENCE) == []
    refused = [[failure.index for failure in pair.result(PATIENCE)] for pair in pairs]
    assert refused == [[1], [], [0], []]
    assert held.sent == [1, 8]


def test_an_error_of_the_service_is_everybodys(send: Send, held: HeldBroker) -> None:
    sends = [send(n) for n in range(8)]
    held.down.add("send")
    held.may_end.set()
    for each in sends:
        with pytest.raises(Outage):
            each.result(PATIENCE)
    assert held.sent == [1, 7]
    held.down.clear()
    assert send(9).result(PATIENCE) == []  # nothing is left behind


def test_a_request_that_is_refused_for_one_message_refuses_no_other(
    send: Send, held: HeldBroker
) -> None:
    plain = held.inner.send

    def picky(queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        if any(message.id == "5" for message in messages):
            raise Refused("a message has too many attributes")
        return plain(queue, messages)

    held.inner.send = picky  # type: ignore[method-assign]
    sends = [send(n) for n in range(8)]
    held.may_end.set()
    ended = [each.exception(PATIENCE) for each in sends]
    assert [type(each) for each in ended if each is not None] == [Refused]
    assert ended[5] is not None
    assert in_queue(held) == [str(n) for n in range(8) if n != 5]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), ValueError("its own")])
def test_an_interruption_is_that_of_its_thread_alone(
    send: Send, held: HeldBroker, error: BaseException
) -> None:
    """The first to wait sends for the others, and is interrupted."""
    sends = [send(n) for n in range(8)]
    first = threading.Event()

    def later() -> None:  # the first request ends well, the second does not
        held.raising.append(error)
        first.set()

    plain = held.inner.send

    def then(queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        held.inner.send = plain  # type: ignore[method-assign]
        later()
        return plain(queue, messages)

    held.inner.send = then  # type: ignore[method-assign]
    held.may_end.set()
    ended = [each.exception(PATIENCE) for each in sends]
    assert first.is_set()
    assert [each for each in ended if each is not None] == [error]
    assert len(in_queue(held)) == 7


def interrupt(thread: threading.Thread, error: type[BaseException]) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(error)
    )


def test_one_who_is_interrupted_while_waiting_keeps_nobody(
    companies: Companies, send: Send, held: HeldBroker
) -> None:
    """As a soft time limit would: the exception comes when its turn does."""
    first = send(0)
    caught = list[BaseException]()

    def wait() -> None:
        try:
            companies.send("q", [message(1)])
        except TimeoutError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: waiting(companies) == 1)
    others = [send(n) for n in range(2, 6)]
    interrupt(thread, TimeoutError)
    held.may_end.set()
    thread.join(PATIENCE)
    assert first.result(PATIENCE) == []
    for each in others:
        assert each.result(PATIENCE) == []
    assert len(caught) == 1
    assert set(in_queue(held)) >= {"0", "2", "3", "4", "5"}
    assert send(9).result(PATIENCE) == []


def test_what_is_ordered_goes_by_itself(
    held: HeldBroker, companies: Companies, threads: ThreadPoolExecutor
) -> None:
    sends = [threads.submit(companies.send, "q.fifo", [message(n)]) for n in range(5)]
    eventually(lambda: len(held.sent) == 5)
    held.may_end.set()
    for each in sends:
        each.result(PATIENCE)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_waits_for_no_thread_of_its_parent(
    companies: Companies, send: Send, held: HeldBroker
) -> None:
    sends = [send(n) for n in range(3)]
    pid = os.fork()
    if not pid:
        held.may_end.set()
        os._exit(len(companies.send("q", [message(7)])))
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == (pid, 0)
    held.may_end.set()
    for each in sends:
        each.result(PATIENCE)


def test_one_waits_for_a_hung_request_but_for_a_while(
    send: Send, held: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(company, "_LATE", 0.02)
    sends = [send(n) for n in range(3)]
    eventually(lambda: sum(held.sent) == 3)
    assert not any(each.done() for each in sends)
    held.may_end.set()
    assert [each.result(PATIENCE) for each in sends] == [[]] * 3


def test_nobody_waits_for_ever_for_a_thread_that_is_gone(
    companies: Companies, send: Send, held: HeldBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption in the wrong place leaves a request that nobody ends."""
    monkeypatch.setattr(company, "_LATE", 0.02)
    held.may_end.set()
    send(0).result(PATIENCE)
    one = companies._by_queue["q"]
    one._under_way[object()] = time.monotonic() - 1e6
    assert send(1).result(PATIENCE) == []
    assert not one._under_way


def test_many_threads_need_few_requests(
    companies: Companies, held: HeldBroker, threads: ThreadPoolExecutor
) -> None:
    held.may_end.set()
    plain = held.inner.send

    def slow(queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        time.sleep(0.003)
        return plain(queue, messages)

    held.inner.send = slow  # type: ignore[method-assign]

    def many(thread: int) -> None:
        for n in range(20):
            assert companies.send("q", [message(thread * 20 + n)]) == []

    list(threads.map(many, range(MANY), timeout=PATIENCE))
    assert len(in_queue(held)) == MANY * 20
    assert len(held.sent) <= MANY * 20 * 0.2


def test_whatever_fails_all_that_was_told_as_sent_is_there(
    companies: Companies, held: HeldBroker, threads: ThreadPoolExecutor
) -> None:
    """Outages, refusals and interruptions at random, from many threads."""
    chance = random.Random(7)
    held.may_end.set()
    held.refuse = lambda each: Code.THROTTLED if int(each.id) % 11 == 0 else None
    plain = held.inner.send

    def unsure(queue: str, messages: Sequence[Outgoing]) -> Sequence[Failure]:
        time.sleep(chance.random() / 500)
        match chance.randrange(8):
            case 0:
                raise Outage("before")
            case 1:
                raise ValueError("interrupted")
            case _:
                return plain(queue, messages)

    held.inner.send = unsure  # type: ignore[method-assign]

    def one(n: int) -> int | None:
        try:
            return None if companies.send("q", [message(n)]) else n
        except (Outage, ValueError):
            return None

    told = {n for n in threads.map(one, range(1, 3_000), timeout=PATIENCE) if n is not None}
    held.inner.send = plain  # type: ignore[method-assign]
    assert {int(id) for id in in_queue(held)} == told
    assert len(told) > 1_500
    assert len(held.sent) < 1_500
