"""Signals: who is told of what, in Celery's order, and what a receiver can and cannot do."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq import (
    CloudQ,
    Ignore,
    MessageTooLarge,
    PublishError,
    Reject,
    State,
    Task,
    chain,
    signals,
)
from cloudq.broker import publish_signals
from cloudq.broker.broker import Broker
from cloudq.driver import Code, Outgoing
from cloudq.messages.message import TaskMessage
from cloudq.signals import Signal
from cloudq.testing import drain
from tests.support.faults import FaultyBroker

Told = list[tuple[str, Any, dict[str, Any]]]
NAMES = [name for name, value in vars(signals).items() if isinstance(value, Signal)]


@pytest.fixture
def told() -> Iterator[Told]:
    """Everything that any signal says: its name, its sender's name, and what it gives."""
    found: Told = []

    def listener(name: str) -> Callable[..., None]:
        def listen(sender: Any = None, **given: Any) -> None:
            found.append((name, getattr(sender, "name", sender), given))

        return listen

    connected = [(getattr(signals, name), listener(name)) for name in NAMES]
    for signal, receiver in connected:
        signal.connect(receiver)
    yield found
    for signal, receiver in connected:
        assert signal.disconnect(receiver)


def names(told: Told) -> list[str]:
    return [name for name, _, _ in told]


def test_the_signals_of_a_success(plain: CloudQ, told: Told) -> None:
    task: Any = plain.task(name="add")(lambda x, y=0: x + y)
    result = task.delay(1, y=2)
    assert names(told) == ["before_task_publish", "after_task_publish"]
    drain(plain)
    assert names(told)[2:] == ["task_received", "task_prerun", "task_success", "task_postrun"]
    assert {sender for _, sender, _ in told} == {"add"}
    given = {name: more for name, _, more in told}
    assert given["after_task_publish"]["headers"]["id"] == result.id
    assert given["after_task_publish"]["body"][:2] == ((1,), {"y": 2})
    assert given["after_task_publish"]["routing_key"] == "default"
    assert given["task_received"]["request"].id == result.id
    prerun = given["task_prerun"]
    assert (prerun["task_id"], prerun["task"]) == (result.id, plain.tasks["add"])
    assert given["task_success"]["result"] == 3
    assert given["task_success"]["runtime"] >= 0
    assert (given["task_postrun"]["retval"], given["task_postrun"]["state"]) == (3, "SUCCESS")
    for name, _, more in told:
        assert getattr(signals, name).gives <= more.keys(), name


def test_the_signals_of_a_retry_and_a_failure(plain: CloudQ, told: Told) -> None:
    @plain.task(name="fails", autoretry_for=[OSError], max_retries=1)
    def fails() -> None:
        raise OSError("o")

    fails.apply()
    assert names(told) == [
        "task_prerun",
        "task_retry",
        "task_postrun",
        "task_prerun",
        "task_failure",
        "task_postrun",
    ]
    states = [more["state"] for name, _, more in told if name == "task_postrun"]
    assert states == ["RETRY", "FAILURE"]
    given = {name: more for name, _, more in told}
    assert isinstance(given["task_retry"]["reason"].exc, OSError)
    failure = given["task_failure"]
    assert isinstance(failure["exception"], OSError)
    assert 'raise OSError("o")' in str(failure["einfo"])
    for name, _, more in told:
        assert getattr(signals, name).gives <= more.keys(), name


@pytest.mark.parametrize(
    ("error", "state"),
    [(Ignore(), "IGNORED"), (Reject("no"), "REJECTED"), (Reject(requeue=True), "REJECTED")],
)
def test_ignored_and_rejected_calls_have_only_a_postrun(
    plain: CloudQ, told: Told, error: Exception, state: str
) -> None:
    @plain.task(name="odd")
    def odd() -> None:
        raise error

    odd.apply()
    assert names(told) == ["task_prerun", "task_postrun"]
    assert told[-1][2]["state"] == state


def test_revoked_expired_unknown_and_unreadable_messages(plain: CloudQ, told: Told) -> None:
    task: Any = plain.task(name="t")(lambda: 1)
    task.delay().revoke()
    plain.broker.send([TaskMessage(id="late", task="t", queue="default", expires=1.0)])
    plain.send_task("nobody's")
    plain.broker.driver.send("default", [Outgoing(id="x", body=b"\xff", delay=0.0)])
    told.clear()
    drain(plain)
    assert sorted(names(told)) == ["task_rejected", "task_revoked", "task_revoked", "task_unknown"]
    expired = {m["request"].id: m["expired"] for name, _, m in told if name == "task_revoked"}
    assert expired.pop("late") is True
    assert list(expired.values()) == [False]
    given = {name: more for name, _, more in told}
    assert given["task_unknown"]["name"] == "nobody's"
    assert given["task_rejected"]["message"] == b"\xff"


def test_a_message_that_was_delivered_too_often_is_a_failure(plain: CloudQ, told: Told) -> None:
    plain.conf.max_deliveries = 1
    plain.task(name="t")(lambda: 1).delay()
    for _ in range(2):
        deliveries = plain.broker.receive("default", count=1, wait=0.0, lease=60)
        plain.broker.release(deliveries)
    told.clear()
    drain(plain)
    assert names(told) == ["task_failure"]


def test_steps_of_a_chain_and_retries_are_published_too(plain: CloudQ, told: Told) -> None:
    @plain.task(name="one", bind=True, default_retry_delay=0)
    def one(self: Task[..., int]) -> int:
        if self.request.retries == 0:
            raise self.retry()
        return 1

    two: Any = plain.task(name="two")(lambda n: n + 1)
    chain(one.s(), two.s()).delay()
    drain(plain)
    sent = [sender for name, sender, _ in told if name == "before_task_publish"]
    assert sent == ["one", "one", "two"]


def test_a_receiver_may_add_headers_before_the_publish(plain: CloudQ) -> None:
    seen: list[Any] = []

    @plain.task(name="t", bind=True)
    def t(self: Task[..., None]) -> None:
        seen.append(dict(self.request.headers))

    def tags(headers: dict[str, Any], **more: Any) -> None:
        headers["tenant"] = 7
        headers["id"] = "not yours to change"

    signals.before_task_publish.connect(tags)
    result = t.apply_async(headers={"own": "1"})
    drain(plain)
    assert seen == [{"own": "1", "tenant": "7"}]
    assert result.get() is None
    signals.before_task_publish.disconnect(tags)


def test_a_refused_publish_is_not_said_to_be_out(plain: CloudQ, told: Told) -> None:
    plain.configure(payload_store="none")  # beside SQLite's file there would be one
    task: Any = plain.task(name="t")(lambda text: text)
    with pytest.raises(MessageTooLarge):
        task.delay("x" * plain.broker.limits("default").body)
    assert names(told) == ["before_task_publish"]


def test_of_a_partly_refused_publish_only_the_rest_is_said_to_be_out(plain: CloudQ) -> None:
    wire = FaultyBroker(plain.broker.driver)
    wire.refuse = lambda message: Code.DENIED if b'"bad"' in message.body else None
    out: list[str] = []

    def sent(**said: Any) -> None:
        out.append(said["headers"]["id"])

    signals.after_task_publish.connect(sent)
    broker = Broker(wire, url="faulty://")
    messages = [TaskMessage(id=id, task="t", queue="default") for id in ("a", "bad", "c")]
    with pytest.raises(PublishError):
        broker.send(messages)
    assert out == ["a", "c"]
    with pytest.raises(PublishError):
        broker.send(messages[1:2])
    assert out == ["a", "c"]
    signals.after_task_publish.disconnect(sent)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("task_")])
def test_a_receiver_that_raises_does_not_lose_the_message(
    plain: CloudQ, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def breaks(**_: Any) -> None:
        raise ZeroDivisionError

    signal: Signal = getattr(signals, name)
    signal.connect(breaks)
    task: Any = plain.task(name="t")(lambda n: 1 / n)
    results = [task.delay(1), task.delay(0)]
    drain(plain)
    assert [result.state for result in results] == [State.SUCCESS, State.FAILURE]
    assert not plain.broker.receive("default", count=1, wait=0.0, lease=1)
    signal.disconnect(breaks)


def test_a_middleware_that_raises_does_not_lose_the_message(plain: CloudQ) -> None:
    def breaks(call: Any) -> Any:
        def run(context: Any) -> object:
            raise ZeroDivisionError

        return run

    plain.middleware.append(breaks)
    result = plain.task(name="t")(lambda: 1).delay()
    drain(plain)
    assert isinstance(result.get(propagate=False), ZeroDivisionError)


# ---- connecting


class Owner:
    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard

    def hears(self, sender: Any, **_: Any) -> None:
        self.heard.append(sender)


def test_receivers_are_held_weakly_unless_told_otherwise() -> None:
    signal, heard = Signal("s"), list[Any]()
    owner = Owner(heard)
    signal.connect(owner.hears)
    signal.connect(lambda sender, **_: heard.append(("weak", sender)))
    signal.connect(lambda sender, **_: heard.append(("strong", sender)), weak=False)
    gc.collect()
    signal.send("a")
    assert heard == ["a", ("strong", "a")]
    del owner
    gc.collect()
    signal.send("b")
    assert heard[2:] == [("strong", "b")]


def test_a_receiver_hears_only_its_sender() -> None:
    signal, heard = Signal("s"), list[Any]()
    app = CloudQ("x", broker="memory://senders")
    one, two = app.task(name="one")(print), app.task(name="two")(print)

    @signal.connect(sender=one)
    def by_task(sender: Any, **_: Any) -> None:
        heard.append(("task", sender.name))

    @signal.connect(sender="two")
    def by_name(sender: Any, **_: Any) -> None:
        heard.append(("name", sender.name))

    @signal.connect
    def every(sender: Any, **_: Any) -> None:
        heard.append(("every", sender.name))

    signal.send(one)
    signal.send(two)
    assert heard == [("task", "one"), ("every", "one"), ("name", "two"), ("every", "two")]
    assert by_task is not None
    assert by_name is not None
    assert every is not None


def test_connecting_twice_is_once_and_disconnecting_ends_it() -> None:
    signal, heard = Signal("s"), list[Any]()
    owner = Owner(heard)
    for _ in range(2):
        signal.connect(owner.hears)
        signal.connect(lambda **_: heard.append("uid"), weak=False, dispatch_uid="only one")
    signal.send("a")
    assert heard == ["a", "uid"]
    assert signal.disconnect(owner.hears)
    assert not signal.disconnect(owner.hears)
    assert signal
    assert signal.disconnect(dispatch_uid="only one")
    assert not signal


def test_the_answers_of_receivers_and_their_errors_come_back() -> None:
    signal = Signal("s")

    def answers(**_: Any) -> int:
        return 1

    def breaks(**_: Any) -> None:
        raise KeyError("k")

    signal.connect(breaks)
    signal.connect(answers)
    (first, error), second = signal.send(None)
    assert first is breaks
    assert isinstance(error, KeyError)
    assert second == (answers, 1)
    with pytest.raises(TypeError, match="cannot be called"):
        signal.connect("no function")  # type: ignore[type-var]


def test_without_receivers_the_very_messages_are_sent() -> None:
    message = TaskMessage(id="a", task="t", queue="default")
    assert publish_signals.announced([message])[0] is message
