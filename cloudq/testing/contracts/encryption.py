"""Contract tests of encryption: on a broker, a store and a platform nothing is seen or lost."""

from __future__ import annotations

import base64
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.driver import BackendDriver, Change, Key, Outgoing, Peeked, StoreAdmin, is_ordered
from cloudq.driver.log import Log
from cloudq.errors import DecodeError
from cloudq.execution.consume import Consumer
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.results.record import key
from cloudq.testing.waiting import HELD, PATIENCE, eventually

K1, K2 = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
MARK = "the-card-4111"
UNKNOWN = "sealed with key 'k2', which is not among encryption_keys"
Shop = Callable[..., CloudQ]


class EncryptionContract:
    """Subclass it as `Test...`, and give the fixtures `broker` and `backend`.

    They are the URLs of a broker and a store, whose queues and tables the contract makes. A
    platform overrides `run`, by which messages are taken from a queue and run, and `stored` may
    be overridden to look at more of what the store has.
    """

    tells_reasons: bool = True
    """Dead letters have cloudq's reasons; otherwise those of the platform, and the log has ours."""
    max_deliveries: int = 30
    """Deliveries of a message after which the service itself dead-letters it."""

    @pytest.fixture
    def broker(self) -> str:
        """Override it: the URL of a broker."""
        raise NotImplementedError

    @pytest.fixture
    def backend(self) -> str:
        """Override it: the URL of a store."""
        raise NotImplementedError

    @pytest.fixture
    def queue(self) -> str:
        """Return the name of a queue that no other test uses."""
        return f"sealed-{uuid.uuid4().hex[:12]}"

    def run(self, app: CloudQ, queue: str, count: int) -> None:
        """Run `count` messages, which are on the queue or follow from those that are."""
        executor = app.executor(hostname="contract", stop_at_hard_limit=True)
        consumer = Consumer(executor, log=Log("cloudq.testing"))

        def all_ran() -> bool:
            nonlocal count
            taken = app.broker.receive(queue, count=min(count, 10), wait=1.0, lease=HELD)
            count -= len(consumer.consume(taken))
            return count <= 0

        eventually(all_ran)

    def stored(self, app: CloudQ, ids: Sequence[str]) -> bytes:
        """Return what the store holds of tasks, as it holds it."""
        items = _driver(app).get([key(id) for id in ids], consistent=True)
        assert len(items) == len(ids)
        fields = [value for item in items.values() for value in item.fields.values()]
        return b"\n".join(map(_readable, fields))

    @pytest.fixture
    def shop(self, broker: str, backend: str, queue: str) -> Iterator[Shop]:
        """Opens apps on the broker and the store. Without `keys` they have the key `k1`."""
        with ExitStack() as opened:

            def open_shop(name: str = "shop", keys: Any = None, **settings: Any) -> CloudQ:
                given = {"k1": K1} if keys is None else keys
                values: dict[str, Any] = {
                    "default_retry_delay": 0.0,
                    "encryption_keys": given,
                    **settings,
                }
                values["task_default_queue"] = queue
                app = CloudQ(name, broker=broker, backend=backend, **values)
                opened.enter_context(app)
                _declare(app)
                return app

            with CloudQ("shop", broker=broker, backend=backend) as app:
                app.broker.admin.create(queue, lease=HELD, max_deliveries=self.max_deliveries)
                if isinstance(driver := _driver(app), StoreAdmin):
                    driver.create_store()
            yield open_shop

    def send(self, app: CloudQ, task: str, text: str) -> Any:
        """Send a call, to its group where the queue has an order."""
        queue = app.conf.task_default_queue
        more: dict[str, Any] = {"group_key": "g"} if is_ordered(queue) else {}
        return app.send_task(task, args=[text], **more)

    def put(self, app: CloudQ, body: bytes) -> None:
        """Put a body on the queue as it is."""
        queue, id = app.conf.task_default_queue, uuid.uuid4().hex
        more: dict[str, Any] = {"group": id, "dedup": id} if is_ordered(queue) else {}
        assert not app.broker.driver.send(queue, [Outgoing(id=id, body=body, **more)])

    def waiting(self, app: CloudQ, count: int) -> list[bytes]:
        """Receive the bodies on the queue as the service holds them, and put them back."""
        driver, queue = app.broker.driver, app.conf.task_default_queue
        limits = driver.limits(queue)
        found: list[bytes] = []

        def all_seen() -> bool:
            took = driver.receive(
                queue, count=min(limits.batch, 10), wait=max(limits.min_wait, 1.0), lease=HELD
            )
            found.extend(each.body for each in took)
            held.extend(took)
            return len(found) >= count

        held: list[Any] = []
        eventually(all_seen)
        for each in held:
            assert not driver.release([each], after=0.0)
        return found

    def dead(self, app: CloudQ, count: int) -> list[Peeked]:
        """Return the dead letters once there are `count`."""
        seen: dict[bytes, Peeked] = {}

        def all_dead() -> bool:
            found = app.broker.admin.peek_dead(app.conf.task_default_queue, count=10)
            seen.update({letter.body: letter for letter in found})
            return len(seen) >= count

        eventually(all_dead)
        return list(seen.values())

    def test_without_keys_all_is_seen(self, shop: Shop, queue: str) -> None:
        """The next test would mean nothing if it looked at the wrong places."""
        app = shop(keys={})
        sent = [self.send(app, name, f"{MARK} {name}") for name in ("echo", "fail")]
        assert all(MARK.encode() in body for body in self.waiting(app, 2))
        self.run(app, queue, 2)
        assert [each.state for each in sent] == ["SUCCESS", "FAILURE"]
        for each in sent:
            assert MARK.encode() in self.stored(app, [each.id])

    def test_nothing_is_seen_and_all_comes_back(self, shop: Shop, queue: str) -> None:
        app = shop()
        names = ("echo", "fail", "flaky", "meta")
        sent = {name: self.send(app, name, f"{MARK} {name}") for name in names}
        assert all(MARK.encode() not in body for body in self.waiting(app, len(names)))
        self.run(app, queue, len(names) + 1)  # one is tried twice
        for name in ("echo", "flaky", "meta"):
            assert sent[name].get(timeout=PATIENCE) == f"{MARK} {name}"
        with pytest.raises(ValueError, match=f"{MARK} fail"):
            sent["fail"].get(timeout=PATIENCE)
        assert f"{MARK} fail" in (sent["fail"].traceback or "")
        assert MARK.encode() not in self.stored(app, [each.id for each in sent.values()])
        (letter,) = self.dead(app, 1)
        assert MARK not in letter.body.decode() + str(letter.reason)
        if self.tells_reasons:
            assert "its text is encrypted, in the record of the task" in str(letter.reason)

    def test_each_forged_body_is_dead_lettered_with_its_reason(
        self, shop: Shop, queue: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = shop()
        forged = self.forgeries(app, shop, queue)
        for body, _ in forged.values():
            self.put(app, body)
        self.run(app, queue, len(forged))
        reasons = {letter.body: str(letter.reason) for letter in self.dead(app, len(forged))}
        for name, (body, said) in forged.items():
            assert said in (reasons[body] if self.tells_reasons else caplog.text), name
        assert MARK not in f"{reasons.values()} {caplog.text}"
        assert app.tasks["ran"]() == []

    def forgeries(self, app: CloudQ, shop: Shop, queue: str) -> dict[str, tuple[bytes, str]]:
        """Return bodies that must not run, each with what its reason says."""
        changed = "bad seal: changed, or not what key 'k1' has encrypted for app 'shop'"
        cut = "bad seal: the body is cut short"
        apps = f"queue {queue!r} and id"

        def body(of: CloudQ, id: str, to: str = queue) -> bytes:
            message = TaskMessage(id=id, task="note", args=[f"{MARK} {id}"], queue=to)
            return of.runtime.codec.encode(message)

        plain = TaskMessage(id="plain", task="note", args=["plain"], queue=queue)
        elsewhere = f"{queue}-other"
        return {
            "a wrong key": (body(shop(keys={"k1": K2}), "wrong"), changed),
            "a key not known": (body(shop(keys={"k2": K2}), "unknown"), UNKNOWN),
            "another id": (
                body(app, "first").replace(b'"id":"first"', b'"id":"other"'),
                f"{apps} 'other'",
            ),
            "from another queue": (
                body(app, "moved", elsewhere),
                f"bad seal: it is for queue {elsewhere!r}, not for {queue!r}",
            ),
            "from another queue, and named for this": (
                body(app, "renamed", elsewhere).replace(elsewhere.encode(), queue.encode()),
                f"{apps} 'renamed'",
            ),
            "of another app": (
                body(shop("bank"), "foreign"),
                "bad seal: it is app 'bank''s, which is not in signing_apps",
            ),
            "of another app, and named for this": (
                body(shop("bank"), "disguised").replace(b'"app":"bank"', b'"app":"shop"'),
                f"{apps} 'disguised'",
            ),
            "a flipped byte": (_flipped(body(app, "flipped")), changed),
            "cut short": (body(app, "short")[:-9], cut),
            "not encrypted": (encode(plain), "not encrypted: this app accepts only"),
        }

    def test_a_rotation_loses_nothing(self, shop: Shop, queue: str) -> None:
        """Readers first: what each step sends is read by apps of that step and of the next."""
        both = {"k1": K1, "k2": K2}
        steps: list[dict[str, Any]] = [
            {"keys": {"k1": K1}},
            {"keys": both, "encryption_key": "k1"},
            {"keys": both, "encryption_key": "k2"},
            {"keys": {"k2": K2}},
        ]
        apps = [shop(**step) for step in steps]
        sent: list[Any] = []
        for older, newer in pairwise(apps):
            for reader in (older, newer):
                made = [
                    self.send(of, "echo", f"{len(sent)}-{of is newer}") for of in (older, newer)
                ]
                self.run(reader, queue, len(made))
                sent += made
        values = [each.get(timeout=PATIENCE) for each in sent[-4:]]  # of the last two steps
        assert values == [f"{n}-{new}" for n in (8, 10) for new in (False, True)]
        assert apps[2].AsyncResult(sent[0].id).get(timeout=PATIENCE) == "0-False"
        with pytest.raises(DecodeError, match="'k1', which is not among encryption_keys"):
            apps[3].AsyncResult(sent[0].id).get(timeout=PATIENCE)

    def test_a_result_is_bound_to_its_key_and_place(self, shop: Shop, queue: str) -> None:
        app = shop()
        one, two = (self.send(app, "echo", f"{MARK} {n}") for n in range(2))
        self.run(app, queue, 2)
        assert two.get(timeout=PATIENCE) == f"{MARK} 1"
        for keys, said in (({"k2": K2}, "sealed with key 'k1'"), ({"k1": K2}, "bad seal: chang")):
            reader = shop(keys=keys).AsyncResult(one.id)
            assert reader.state == "SUCCESS"
            with pytest.raises(DecodeError, match=said):
                reader.get(timeout=PATIENCE)
        value = str(_field(app, key(one.id)))
        flipped = value[:-6] + ("A" if value[-6] != "A" else "B") + value[-5:]
        for place, forged in ((key(two.id), value), (key(one.id), flipped)):
            _driver(app).update(place, Change(set={"value": forged}, keep_expires=True))
        for each in (one, two):
            with pytest.raises(DecodeError, match="bad seal"):
                app.AsyncResult(each.id).get(timeout=PATIENCE)


def _declare(app: CloudQ) -> None:
    noted: list[str] = []
    tries: list[str] = []

    @app.task(name="echo")
    def echo(text: str) -> str:
        return text

    @app.task(name="fail", dead_letter=True, max_retries=0)
    def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="flaky", autoretry_for=(KeyError,), max_retries=1, retry_jitter=False)
    def flaky(text: str) -> str:
        tries.append(text)
        if len(tries) < 2:
            raise KeyError(text)
        return text

    @app.task(name="meta", bind=True)
    def meta(self: Any, text: str) -> str:
        self.update_state(state="PROGRESS", meta={"text": text})
        return text

    app.task(name="note")(noted.append)
    app.task(name="ran")(noted.copy)


def _driver(app: CloudQ) -> BackendDriver:
    assert app.backend is not None
    return app.backend.driver


def _field(app: CloudQ, place: Key) -> object:
    return _driver(app).get([place], consistent=True)[place].fields["value"]


def _readable(value: object) -> bytes:
    """Return a field's bytes, and what they are when they are compressed."""
    data = value if isinstance(value, bytes) else str(value).encode(errors="replace")
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def _flipped(body: bytes) -> bytes:
    """Change one bit of what is encrypted; the base64 of it stays base64."""
    header, mark, text = body.rpartition(b',"body":"')
    data = bytearray(base64.b64decode(text[:-2]))
    data[len(data) // 2] ^= 1
    return header + mark + base64.b64encode(bytes(data)) + text[-2:]
