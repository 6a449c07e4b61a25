"""Encrypted messages at work: on each embedded broker, whatever becomes of them."""

from __future__ import annotations

import base64
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, Reject
from cloudq.driver import Outgoing
from cloudq.execution.settlement import Action
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain, eventually

K1, K2 = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
MARK = "the-card-4111"
Shop = Callable[..., CloudQ]


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """Opens apps on one broker."""
    url = f"memory://{uuid.uuid4().hex}"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
    opened: list[CloudQ] = []

    def open_shop(name: str = "shop", **settings: Any) -> CloudQ:
        app = CloudQ(name, broker=url, **{"encryption_keys": {"k1": K1}, **settings})
        opened.append(app)
        return app

    yield open_shop
    for app in opened:
        app.close()


def bodies(app: CloudQ, queue: str = "default") -> list[bytes]:
    driver: Any = app.broker.driver
    return [each.body for each in driver.peek(queue, count=1000)]


def dead(app: CloudQ, queue: str = "default") -> list[Any]:
    driver: Any = app.broker.driver
    return list(driver.peek_dead(queue, count=1000))


def put(app: CloudQ, body: bytes, queue: str = "default") -> None:
    assert not app.broker.driver.send(queue, [Outgoing(id=uuid.uuid4().hex, body=body)])


def reason(app: CloudQ, body: bytes, queue: str = "default") -> str:
    """Have an app read a body, and return why it is among the dead letters then."""
    put(app, body, queue)
    (settled,) = drain(app, [queue])
    assert settled.action is Action.DEAD_LETTER
    (letter,) = dead(app, queue)
    assert letter.body == body
    assert letter.reason == settled.reason
    return settled.reason


def paying(app: CloudQ) -> list[object]:
    ran: list[object] = []
    app.task(name="pay")(ran.append)
    return ran


def test_calls_come_back_and_nothing_of_them_is_seen(shop: Shop) -> None:
    app = shop()
    ran = paying(app)
    app.send_task("pay", args=[MARK])
    (body,) = bodies(app)
    assert MARK.encode() not in body
    drain(app)
    assert ran == [MARK]


def test_a_retry_and_a_delayed_copy_are_encrypted(shop: Shop) -> None:
    app = shop()
    tries: list[str] = []

    @app.task(name="flaky", max_retries=3, autoretry_for=(ValueError,), default_retry_delay=0)
    def flaky(card: str) -> None:
        tries.append(card)
        for body in bodies(app):
            assert MARK.encode() not in body
        if len(tries) < 3:
            raise ValueError(len(tries))

    flaky.delay(MARK)
    flaky.apply_async([MARK + " later"], countdown=3600)
    assert all(MARK.encode() not in body for body in bodies(app))
    drain(app)
    assert tries == [MARK] * 3


@pytest.mark.parametrize("hides", [False, True])
def test_admission_works_whether_the_name_is_readable_or_not(shop: Shop, hides: bool) -> None:
    app = shop(encryption_hides_task=hides)
    ran = paying(app)
    unknown = app.send_task("nobody", args=[MARK])
    late = TaskMessage(id="late", task="pay", args=[MARK], queue="default", expires=1.0)
    put(app, app.runtime.codec.encode(late))
    expired = app.AsyncResult("late")
    revoked = app.send_task("pay", args=[MARK])
    revoked.revoke()
    queued = bodies(app)
    assert all(MARK.encode() not in body for body in queued)
    assert any(b"nobody" in body for body in queued) is not hides
    drain(app)
    assert ran == []
    assert [each.state for each in (unknown, expired, revoked)] == ["FAILURE", "REVOKED", "REVOKED"]
    (letter,) = dead(app)
    assert "unknown task 'nobody'" in letter.reason
    assert MARK.encode() not in letter.body
    assert any(b"nobody" in each.body for each in dead(app)) is not hides


def test_a_body_swapped_to_another_queue(shop: Shop) -> None:
    app = shop()
    ran = paying(app)
    body = app.runtime.codec.encode(TaskMessage(id="a", task="pay", args=[1], queue="mail"))
    assert reason(app, body) == "bad seal: it is for queue 'mail', not for 'default'"
    assert not ran


def test_a_body_of_another_app(shop: Shop) -> None:
    app, bank = shop(), shop("bank")
    ran = paying(app)
    body = bank.runtime.codec.encode(TaskMessage(id="a", task="pay", args=[1], queue="default"))
    assert reason(app, body) == "bad seal: it is app 'bank''s, which is not in signing_apps"
    friend = shop(signing_apps=["bank"])
    trusted = paying(friend)
    put(friend, body)
    drain(friend)
    assert (ran, trusted) == ([], [1])


def test_a_body_replayed_under_another_id(shop: Shop) -> None:
    app = shop()
    ran = paying(app)
    body = app.runtime.codec.encode(TaskMessage(id="aa", task="pay", args=[1], queue="default"))
    assert "and id 'bb'" in reason(app, body.replace(b'"id":"aa"', b'"id":"bb"'))
    assert not ran


def test_a_body_of_an_unknown_key_and_a_plain_one(shop: Shop) -> None:
    app, other = shop(), shop(encryption_keys={"k2": K2})
    ran = paying(app)
    message = TaskMessage(id="a", task="pay", args=[1], queue="default")
    assert reason(app, other.runtime.codec.encode(message)) == (
        "sealed with key 'k2', which is not among encryption_keys"
    )
    put(app, encode(message))
    (settled,) = drain(app)
    assert settled.reason.startswith("not encrypted: this app accepts only")
    assert not ran


def test_a_body_that_is_cut_short(shop: Shop) -> None:
    app = shop()
    body = app.runtime.codec.encode(TaskMessage(id="a", task="t", args=[1], queue="default"))
    assert reason(app, body[:-9]) == "bad seal: the body is cut short"


def test_the_calls_of_a_bundle_are_buried_encrypted_and_redriven(shop: Shop) -> None:
    app = shop(signing_keys={"s": "s" * 32})
    refused: list[str] = []

    @app.task(name="pay")
    def pay(card: str) -> None:
        if len(refused) < 2:
            refused.append(card)
            raise Reject("not today")

    with app.batch(bundle=10):
        for number in range(3):
            pay.delay(f"{MARK} {number}")
    assert len(bodies(app)) == 1
    assert MARK.encode() not in bodies(app)[0]
    drain(app)
    letters = dead(app)
    assert len(letters) == 2
    assert all(MARK.encode() not in letter.body for letter in letters)
    driver: Any = app.broker.driver
    assert not driver.redrive("default", letters)
    drain(app)
    assert dead(app) == []


def test_a_rotation_under_load_loses_nothing(shop: Shop) -> None:
    """Each process is started anew with the new settings, readers first, while others send."""
    both = {"k1": K1, "k2": K2}
    steps: list[dict[str, Any]] = [
        {"encryption_keys": {"k1": K1}},
        {"encryption_keys": both, "encryption_key": "k1"},
        {"encryption_keys": both, "encryption_key": "k2"},
        {"encryption_keys": {"k2": K2}},
    ]
    ran: list[int] = []
    failures: list[BaseException] = []
    stop = threading.Event()
    keeper = shop(**steps[0])
    senders = [shop(**steps[0]) for _ in range(2)]
    wanted, taken = [steps[0], steps[0]], [steps[0], steps[0]]

    def work(place: int) -> None:
        try:
            while not stop.is_set():
                settings = wanted[place]
                # What it has received when it closes comes back after the lease.
                worker = shop(**settings, lease=1)
                worker.task(name="pay")(ran.append)
                taken[place] = settings
                while wanted[place] is settings and not stop.is_set():
                    drain(worker, ["default"])
                worker.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[place], daemon=True) for place in range(2)]
    for thread in threads:
        thread.start()
    sent = 0

    def all_ran() -> bool:
        return bool(failures) or len(set(ran)) == sent

    try:
        for step in steps[1:]:
            if step is steps[-1]:  # the old key goes when nothing is left that it has encrypted
                eventually(all_ran)
            for place in range(4):
                for sender in senders:
                    for _ in range(10):
                        sender.send_task("pay", args=[sent])
                        sent += 1
                if place < 2:
                    wanted[place] = step
                else:
                    # No step begins before all have taken the one before it.
                    eventually(lambda: failures or taken == wanted)
                    senders[place - 2] = shop(**step)
        eventually(all_ran)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert sorted(set(ran)) == list(range(sent))
    assert dead(keeper) == []
