"""Heartbeats are cheap, and nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from cloudq import BackendError, CloudQ, ConfigurationError
from cloudq.driver import Change, Code, Item, Key
from cloudq.monitoring.commands import Command, collect, make
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.results.backend import Backend
from cloudq.settings import Settings
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.control.heartbeat import HeartbeatSender
from cloudq_local.memory_backend import MemoryBackend, MemoryItems
from tests.support.faults import FaultyStore

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitor-and-control.md"


class Slow(FaultyStore):
    """A store that keeps whoever asks waiting while its gate is closed."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend(MemoryItems()))
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = False

    def update(self, key: Key, change: Change) -> Item:
        self.waiting = not self.gate.is_set()
        self.gate.wait(PATIENCE)
        return super().update(key, change)


class Beating:
    """A heartbeat on its own."""

    def __init__(self, every: float = 0.05) -> None:
        self.store = Slow()
        self.backend = Backend(self.store, url="slow://")
        self.heartbeats = Heartbeats(self.backend)
        self.obeyed: list[str] = []
        self.heartbeat = HeartbeatSender(heart=self.heart, run=self.run, every=every)
        self.heartbeat.start(self.backend)
        eventually(self.heartbeats.alive)

    def heart(self, every: float) -> Heartbeat:
        return Heartbeat(hostname="w", seen=time.time(), every=every)

    def run(self, command: Command) -> Any:
        self.obeyed.append(command.name)
        if command.name == "fail":
            raise ValueError("cannot")
        return {"ok": command.arguments}

    def ask(self, name: str, **arguments: Any) -> Any:
        command = make(name, arguments, lasts=PATIENCE, reply=True)
        assert self.heartbeats.tell("w", command.to_text())
        return collect(self.backend, command, ["w"], timeout=PATIENCE)["w"]


@pytest.fixture
def beating() -> Iterator[Beating]:
    made = Beating()
    yield made
    made.store.gate.set()
    made.heartbeat.stop()


def test_a_beat_is_one_request_and_a_command_one_more(beating: Beating) -> None:
    beating.store.calls.clear()
    eventually(lambda: beating.store.calls["update"] >= 10)
    assert set(beating.store.calls) == {"update"}
    assert beating.ask("add", n=1) == {"ok": {"n": 1}}
    eventually(lambda: "commands" not in beating.backend.get([WORKER])[WORKER].fields)
    assert beating.store.calls["put"] == 1
    assert beating.obeyed == ["add"]


WORKER = Key("workers", "w")


def test_commands_are_obeyed_once_in_their_order_though_one_fails(beating: Beating) -> None:
    beating.store.gate.clear()
    # A beat that was let through before must not see some of them only.
    eventually(lambda: beating.store.waiting)
    commands = [make(name, {}, lasts=PATIENCE, reply=True) for name in ("a", "fail", "b")]
    for command in reversed(commands):
        change = Change(add={"commands": frozenset({command.to_text()})}, keep_expires=True)
        beating.store.inner.update(WORKER, change)
    beating.store.gate.set()
    assert [collect(beating.backend, c, ["w"], timeout=PATIENCE)["w"] for c in commands] == [
        {"ok": {}},
        {"error": "ValueError: cannot"},
        {"ok": {}},
    ]
    assert beating.obeyed == ["a", "fail", "b"]


def test_a_command_of_a_failed_beat_is_obeyed_once(beating: Beating) -> None:
    assert beating.ask("first") == {"ok": {}}
    beating.store.down.add("update")
    eventually(lambda: beating.store.calls["update"] > 0)
    beating.store.down.clear()
    assert beating.ask("second") == {"ok": {}}
    assert beating.obeyed == ["first", "second"]


def test_what_is_no_command_is_passed_over(beating: Beating) -> None:
    assert beating.heartbeats.tell("w", "no json")
    assert beating.heartbeats.tell("w", '{"of": "a newer release"}')
    assert beating.ask("next") == {"ok": {}}
    assert beating.obeyed == ["next"]


def test_a_stop_does_not_wait_for_a_store_that_hangs(beating: Beating) -> None:
    beating.store.gate.clear()
    beating.store.calls.clear()
    began = time.monotonic()
    beating.heartbeat.stop()
    assert time.monotonic() - began < PATIENCE / 2


def test_who_stops_is_taken_off_the_roster(beating: Beating) -> None:
    beating.heartbeat.stop()
    assert beating.heartbeats.all() == []
    assert not beating.heartbeats.tell("w", make("ping", {}, lasts=1, reply=False).to_text())


def test_a_reply_that_the_store_does_not_take_says_so(beating: Beating) -> None:
    beating.store.refuse = lambda item: (
        Code.TOO_LARGE if len(str(item.fields.get("reply"))) > 3_000 else None
    )
    assert "too large to store" in beating.ask("big", text="x" * 5_000)["error"]


def test_a_command_too_long_to_lie_in_an_item_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="name fewer at a time"):
        make("revoke", {"task_id": ["x" * 36] * 1000}, lasts=1, reply=False).to_text()
    with pytest.raises(ConfigurationError, match="are not JSON"):
        make("own", {"what": object()}, lasts=1, reply=False).to_text()


def test_no_heartbeat_without_a_store_or_a_pause() -> None:
    store = Slow()
    backend = Backend(store, url="slow://")
    for given, every in ((None, 1.0), (backend, 0.0)):
        heartbeat = HeartbeatSender(
            heart=lambda every: Heartbeat(hostname="w"),
            run=lambda command: None,
            every=every,
        )
        heartbeat.start(given)
        heartbeat.stop()
    assert not store.calls


def test_a_store_that_is_down_raises_what_it_is(beating: Beating) -> None:
    beating.store.down.add("query")
    with pytest.raises(BackendError, match="no answer"):
        beating.heartbeats.alive()


def test_an_hour_is_what_its_page_says() -> None:
    """docs/how-to/monitor-and-control.md says "about 250"."""
    every = Settings().worker_heartbeat
    heartbeat = HeartbeatSender(heart=_never, run=_never, every=every)
    pauses = [heartbeat._pause() for _ in range(2_000)]
    assert round(3600 / fmean(pauses), -1) == 250
    assert "| heartbeat | about 250 updates an hour and worker" in PAGE.read_text()


def test_to_ask_two_workers_costs_a_query_a_write_each_and_the_looks() -> None:
    store = FaultyStore(MemoryBackend(MemoryItems()))
    backend = Backend(store, url="two://")
    for name in ("one", "two"):
        Heartbeats(backend).beat(Heartbeat(hostname=name, seen=time.time(), every=15.0))
    store.calls.clear()
    app = CloudQ("two", broker="memory://two")
    app.runtime._backend = backend
    control = app.control
    assert control.ping(timeout=0) == []
    assert store.calls == {"query": 2, "update": 2}  # one of the queries is a look
    store.calls.clear()
    assert len(control.heartbeats.all()) == 2  # what `cloudq status` does
    assert store.calls == {"query": 1}


def _never(_: object) -> Any:
    raise AssertionError("it is not started")
