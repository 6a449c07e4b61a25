"""Data keys are kept for as long, and for as many messages, as they may be."""

from __future__ import annotations

import base64
import os
import string
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from cloudq import CloudQ, ConfigurationError, DecodeError
from cloudq.driver import Code, forks
from cloudq.driver.keys import DataKey, KeyRefused
from cloudq.driver.log import Log
from cloudq.errors import KeyServiceError
from cloudq.execution.consume import Consumer
from cloudq.execution.deadline import Deadline
from cloudq.execution.invocation import Invocation
from cloudq.execution.settlement import Action
from cloudq.messages import data_keys
from cloudq.messages.data_keys import LIFETIME, DataKeys
from cloudq.messages.encryption import Encryption, header_of
from cloudq.messages.sealed_text import unknown_key
from cloudq.testing.waiting import PATIENCE

OWN = base64.b64encode(bytes(range(32))).decode()


class Service:
    """A key service in this process, which wraps a data key as itself and counts what is asked."""

    def __init__(self) -> None:
        self.made = self.opened = self.checked = self.closed = 0
        self.is_down = False

    def new_data_key(self, app: str) -> DataKey:
        self.made += 1
        plain = os.urandom(32)
        return DataKey(plain=plain, wrapped=app.encode() + b":" + plain)

    def open_data_key(self, wrapped: bytes, app: str) -> bytes:
        self.opened += 1
        if self.is_down:
            raise OSError("no route")
        owner, _, plain = wrapped.partition(b":")
        if owner != app.encode():
            raise KeyRefused("another app's")
        return plain

    def check(self) -> None:
        self.checked += 1
        if self.is_down:
            raise OSError("no route")

    def error_code(self, error: Exception) -> Code:
        return Code.UNREACHABLE

    def close(self) -> None:
        self.closed += 1


class Clock:
    """A monotonic clock that is set."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()

    def opens(url: str) -> Service:
        return made

    monkeypatch.setattr(data_keys, "open_keys", opens)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(service: Service, clock: Clock) -> Iterator[DataKeys]:
    made = DataKeys("k", "count://one", monotonic=clock)
    yield made
    made.close()
    assert service.closed <= 1


def test_one_is_made_an_hour(keys: DataKeys, service: Service, clock: Clock) -> None:
    first = keys.current("a")[0]
    clock.now += LIFETIME - 0.001
    assert keys.current("a")[0] == first
    clock.now += 0.001
    assert keys.current("a")[0] != first
    assert service.made == 2


def test_one_is_made_for_each_app(keys: DataKeys, service: Service) -> None:
    assert len({keys.current(app)[0] for app in ("a", "b", "a", "b")}) == 2
    assert service.made == 2


def test_one_encrypts_so_many_texts(
    keys: DataKeys, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_keys, "MOST_MESSAGES", 3)
    wrapped = [keys.current("a")[0] for _ in range(7)]
    assert [wrapped.count(each) for each in dict.fromkeys(wrapped)] == [3, 3, 1]
    assert service.made == 3


def test_one_of_others_is_opened_once_an_hour(
    keys: DataKeys, service: Service, clock: Clock
) -> None:
    wrapped = b"a:" + bytes(32)
    for _ in range(3):
        keys.opened(wrapped, "a")
    clock.now += LIFETIME - 0.001
    keys.opened(wrapped, "a")
    assert service.opened == 1
    clock.now += 0.001
    keys.opened(wrapped, "a")
    assert service.opened == 2


def test_one_of_this_process_is_not_asked_for(keys: DataKeys, service: Service) -> None:
    wrapped, cipher = keys.current("a")
    sealed = cipher.encrypt(bytes(12), b"x", None)
    assert keys.opened(wrapped, "a").decrypt(bytes(12), sealed, None) == b"x"
    assert service.opened == 0


def test_a_refusal_is_remembered(keys: DataKeys, service: Service) -> None:
    for _ in range(3):
        with pytest.raises(DecodeError, match="key 'k' has not made its data key: another app's"):
            keys.opened(b"b:" + bytes(32), "a")
    assert service.opened == 1


def test_a_key_that_cannot_be_used_is_named_and_why(keys: DataKeys, service: Service) -> None:
    keys.check()
    assert service.checked == 1
    service.is_down = True
    with pytest.raises(KeyServiceError, match=r"use the key with 'k', count://one.*no route") as it:
        keys.check()
    assert it.value.code is Code.UNREACHABLE


def test_so_many_are_kept_and_the_longest_unused_goes(
    keys: DataKeys, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_keys, "MOST_KEPT", 3)
    one, *others = (b"a:" + bytes([n]) * 32 for n in range(4))
    for wrapped in (one, *others[:2], one, others[2], one):
        keys.opened(wrapped, "a")
    assert service.opened == 4
    keys.opened(others[0], "a")
    assert service.opened == 5


def test_one_that_is_asked_for_again_is_the_latest_used(
    keys: DataKeys, service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_keys, "MOST_KEPT", 3)
    one, *others = (b"a:" + bytes([n]) * 32 for n in range(4))
    for wrapped in (one, *others[:2]):
        keys.opened(wrapped, "a")
    clock.now += LIFETIME
    for wrapped in (one, others[2], one):
        keys.opened(wrapped, "a")
    assert service.opened == 5


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_key_of_the_settings_opens_salts_of_its_own_length_alone(length: int) -> None:
    with pytest.raises(DecodeError, match=f"{length} bytes, where a salt of 16 is expected"):
        DataKeys("k", OWN).opened(bytes(length), "a")


def test_a_closed_one_has_forgotten_all_and_begins_anew(keys: DataKeys, service: Service) -> None:
    wrapped = b"a:" + bytes(32)
    keys.opened(wrapped, "a")
    first = keys.current("a")[0]
    keys.close()
    keys.close()
    assert service.closed == 1
    keys.opened(wrapped, "a")
    assert keys.current("a")[0] != first
    assert (service.made, service.opened) == (2, 2)
    service.closed = 0  # of what it has opened again


def test_a_child_has_its_own() -> None:
    """The parent's may have encrypted as many as it may, and its connections are the parent's."""
    keys = DataKeys("k", OWN)
    ours = keys.current("a")[0]
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, keys.current("a")[0])
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as read:
        theirs = read.read()
    os.waitpid(child, 0)
    assert len(theirs) == len(ours)
    assert theirs != ours
    assert keys.current("a")[0] == ours


def test_a_fork_leaves_connections_locks_and_data_keys_to_the_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answered = Event(), Event()
    opened: list[Service] = []

    class Waits(Service):
        def new_data_key(self, app: str) -> DataKey:
            if app == "slow":
                asked.set()
                answered.wait(PATIENCE)
            return super().new_data_key(app)

    def opens(url: str) -> Service:
        opened.append(Waits())
        return opened[-1]

    monkeypatch.setattr(data_keys, "open_keys", opens)
    keys = DataKeys("k", "count://one")
    ours = keys.current("a")[0]
    thread = Thread(target=keys.current, args=("slow",))
    thread.start()
    try:
        asked.wait(PATIENCE)  # it holds the lock
        forks._renewed[keys](keys)  # pyright: ignore[reportPrivateUsage]
        assert keys.current("a")[0] != ours
        assert len(opened) == 2
        assert not opened[0].closed
    finally:
        answered.set()
        thread.join()


def test_nothing_at_all_can_be_sealed() -> None:
    encryption = Encryption({"k": OWN})
    assert encryption.open_bytes(encryption.seal_bytes("a", "place", b""), "place") == b""
    body = encryption.sealed("a", {"app": "a", "queue": "q", "id": "x"}, b"")
    assert encryption.opened(body, header_of(body)) == b""


@pytest.mark.parametrize("length", [0, 1, 12, 27])
def test_what_is_too_short_to_be_sealed_is_cut(length: int) -> None:
    encryption = Encryption({"k": OWN})
    start, _, _ = encryption.seal_bytes("a", "place", b"x").rpartition(":")
    cut = base64.urlsafe_b64encode(bytes(length)).rstrip(b"=").decode()
    with pytest.raises(DecodeError, match=r"bad seal: cut short$"):
        encryption.open_bytes(f"{start}:{cut}", "place")


def test_a_stored_text_can_be_written_in_one_way_alone() -> None:
    """The last sign of base64 may have bits that do not count."""
    encryption = Encryption({"k": OWN})
    text = encryption.seal_bytes("a", "place", b"")
    data = base64.urlsafe_b64decode(f"{text.rpartition(':')[2]}==")
    others = [
        f"{text[:-1]}{sign}"
        for sign in string.ascii_letters + string.digits + "-_"
        if sign != text[-1]
        and base64.urlsafe_b64decode(f"{text.rpartition(':')[2][:-1]}{sign}==") == data
    ]
    assert len(others) == 15
    for other in others:
        with pytest.raises(DecodeError, match="not base64 as it is written"):
            encryption.open_bytes(other, "place")


def test_the_connections_of_all_keys_are_closed(service: Service) -> None:
    encryption = Encryption({"own": OWN, "k": "count://one"}, seals="k")
    encryption.seal_bytes("a", "place", b"x")
    assert service.closed == 0
    encryption.close()
    assert service.closed == 1


def test_a_header_has_a_longest_length() -> None:
    fields = b'"app":"%b"'
    room = 16_384 - len(fields % b"")
    body = b',"body":"AAAA"}'
    with pytest.raises(DecodeError, match="oversized"):
        header_of(fields % (b"x" * (room + 1)) + body)
    with pytest.raises(DecodeError) as caught:
        header_of(fields % (b"x" * room) + body)
    assert "oversized" not in str(caught.value)


def test_of_a_key_s_name_a_part_is_shown() -> None:
    assert f"'{'x' * 64}'," in unknown_key("x" * 70)


def test_a_message_waits_until_its_key_service_answers_again(service: Service) -> None:
    def shop() -> CloudQ:
        return CloudQ(
            "shop", broker="memory://waits-for-keys", encryption_keys={"k": "awskms://one"}
        )

    with shop() as sender, shop() as reader:
        sender.task(name="one")(one).delay()
        result = reader.task(name="one")(one).delay()
        consumer = Consumer(reader.executor(), log=Log("test"))
        first, second = reader.broker.receive("default", count=2, wait=0.0, lease=60.0)
        service.is_down = True
        jobs, [(delivery, settlement)] = consumer.open([first, second])
        assert [job.message.id for job in jobs] == [result.id]  # its data key is at hand
        assert (delivery, settlement.action) == (first, Action.RELEASE)
        with pytest.raises(KeyServiceError, match="no route"):
            consumer.open([first])
        service.is_down = False
        jobs, settled = consumer.open([first])
        assert (len(jobs), settled) == (1, [])


@pytest.mark.parametrize("error", [ConfigurationError("no credentials"), OSError("no metadata")])
def test_a_message_waits_while_its_key_service_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    url, made = "memory://waits-for-credentials", Service()

    def opens(url: str) -> Service:
        if "reader" in url:
            raise error
        return made

    monkeypatch.setattr(data_keys, "open_keys", opens)
    sender = CloudQ("shop", broker=url, encryption_keys={"k": "awskms://sender"})
    keys = {"k": "awskms://reader", "own": OWN}
    reader = CloudQ("shop", broker=url, encryption_keys=keys, encryption_key="own")
    with sender, reader:
        sender.task(name="one")(one).delay()
        result = reader.task(name="one")(one).delay()
        consumer = Invocation(
            reader.executor(), deadline=Deadline(None, reserve=0.0), log=Log("test")
        )
        both = reader.broker.receive("default", count=2, wait=0.0, lease=60.0)
        kept = consumer.run(both)
        assert [(delivery, each.action) for delivery, each in kept] == [(both[0], Action.RELEASE)]
        assert str(error) in kept[0][1].reason
        assert result.successful()


def one() -> int:
    return 1
