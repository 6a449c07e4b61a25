"""Errors of the user's logging, where a program drains its queues or a function runs them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pytest

from cloudq import CloudQ
from cloudq.driver import Delivery
from cloudq.execution.deadline import Deadline
from cloudq.execution.invocation import Invocation
from cloudq.testing import drain
from cloudq_aws.functions import log


class Panic(BaseException):
    """The panic of a library in Rust."""


class Raises(logging.Handler):
    """A handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise Panic


@pytest.fixture
def app() -> Iterator[CloudQ]:
    logger, handler = logging.getLogger("cloudq"), Raises(logging.WARNING)
    logger.addHandler(handler)
    with closing(CloudQ("logs", broker=f"memory://{uuid4().hex}", backend="memory://")) as app:
        yield app
    logger.removeHandler(handler)


def test_a_drain_repeats_nothing_for_it(app: CloudQ) -> None:
    told: list[str] = []

    @app.task
    def fail() -> None:
        raise ValueError("no")

    @app.task
    def tell(*given: object) -> None:
        told.append("once")

    fail.s().set(link_error=tell.si()).delay()
    drain(app)
    assert told == ["once"]


def test_a_function_gives_its_answer(app: CloudQ) -> None:
    @app.task
    def fail() -> None:
        raise ValueError("no")

    failed = fail.delay()
    taken = app.broker.receive("default", count=1, wait=5, lease=60)
    app.broker.ack(taken)
    leased = [
        Delivery(queue=d.queue, id=d.id, body=d.body, receipt=None, attempts=1, lease=60)
        for d in taken
    ]
    executor = app.executor(stop_at_hard_limit=True)
    run = Invocation(executor, deadline=Deadline.after(60, reserve=0), log=log).run
    assert run(leased) == []
    assert failed.state == "FAILURE"


def test_a_body_on_which_a_reader_panics_is_dead_lettered(
    app: CloudQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(body: bytes, *, limit: int) -> None:
        raise Panic("index out of bounds")

    app.task(_answer, name="t").delay()
    monkeypatch.setattr("cloudq.messages.codec.decode", panic)
    [ended] = drain(app)
    assert (str(ended.action), ended.reason) == (
        "dead-letter",
        "undecodable: index out of bounds",
    )


def _answer() -> int:
    return 1
