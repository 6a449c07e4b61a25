"""An app with encryption keys: nothing that it stores is seen, all of it comes back."""

from __future__ import annotations

import base64
import re
import sqlite3
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudq import CloudQ, Reject, TaskFailure, chain, chord
from cloudq.canvas.slots import join_key
from cloudq.driver import Change, Key
from cloudq.driver.log import Log
from cloudq.errors import DecodeError
from cloudq.execution.consume import Consumer
from cloudq.operations import dead_letters
from cloudq.operations import tasks as listing
from cloudq.results.record import key
from cloudq.testing import drain

K1, K2 = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
MARK = "the-card-4111"
UNKNOWN = "sealed with key 'k1', which is not among encryption_keys"
Shop = Callable[..., CloudQ]
_BYTES = rb'"b":"((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)"'


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """Opens apps on one broker and one store."""
    url = f"memory://{uuid.uuid4().hex}"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/shop.db"
    opened: list[CloudQ] = []

    def open_shop(name: str = "shop", *, keys: Any = None, **settings: Any) -> CloudQ:
        keys = {"k1": K1} if keys is None else keys
        app = CloudQ(name, broker=url, encryption_keys=keys, task_events="tracked", **settings)
        declare(app)
        opened.append(app)
        return app

    yield open_shop
    for app in opened:
        app.close()


def declare(app: CloudQ) -> None:
    @app.task(name="echo")
    def echo(value: str) -> str:
        return value

    @app.task(name="join")
    def join(values: list[str]) -> str:
        return "+".join(values)

    @app.task(name="fail", dead_letter=True)
    def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="reject")
    def reject(text: str) -> None:
        raise Reject(text)

    @app.task(name="steps", bind=True)
    def steps(self: Any, card: str) -> str:
        self.update_state(state="PROGRESS", meta={"card": card})
        self.checkpoint({"card": card})
        kept: str = self.once("read", lambda: card)
        return kept

    @app.task(name="once", idempotent=True)
    def once(card: str) -> str:
        return card


def work(app: CloudQ) -> dict[str, Any]:
    """Send one of each, with the mark in all of it, and run them."""
    send = app.send_task
    echo, join = app.tasks["echo"], app.tasks["join"]
    made: dict[str, Any] = {
        name: send(name, args=[f"{MARK} {name}"])
        for name in ("echo", "fail", "reject", "steps", "once")
    }
    made["late"] = send("echo", args=[f"{MARK} late"], countdown=3600)
    made["chain"] = chain(echo.s(f"{MARK} {n}") if not n else echo.s() for n in range(3)).delay()
    made["long"] = chain(*(echo.si(f"{MARK} {n} {'x' * 300}") for n in range(120))).delay()
    made["chord"] = chord([echo.s(f"{MARK} {n}") for n in range(3)], join.s()).delay()
    with app.batch(bundle=10):
        made["bundle"] = [echo.delay(f"{MARK} in a bundle {n}") for n in range(5)]
        made["bundle fails"] = [app.tasks["fail"].delay(f"{MARK} {n}") for n in range(2)]
    app.add_periodic_task(60.0, echo.s(f"{MARK} each minute"), name="minutely")
    return made


def stored(app: CloudQ, folder: Path) -> list[bytes]:
    """Return all that is stored anywhere, also what is compressed."""
    found = [file.read_bytes() for file in folder.iterdir()]
    if file := next(folder.glob("*.db"), None):
        with sqlite3.connect(file) as base:
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master")]
            for table in tables:
                try:
                    rows = base.execute(f'SELECT * FROM "{table}"').fetchall()
                except sqlite3.Error:
                    continue
                found += [value for row in rows for value in map(as_bytes, row) if value]
    else:
        assert app.backend is not None
        found.append(repr(contents([app.backend.driver, app.broker.driver], set())).encode())
    # SQLite has the bytes of a field as base64 in JSON.
    found += [base64.b64decode(text[1]) for each in found for text in re.finditer(_BYTES, each)]
    return found + [opened for each in found if (opened := expanded(each))]


def contents(thing: Any, known: set[int]) -> Any:
    """Return what an object has, and what is in that."""
    if isinstance(thing, bytes):
        return expanded(thing) or thing
    if isinstance(thing, str | int | float | type(None) | type) or id(thing) in known:
        return thing if isinstance(thing, str) else None
    known.add(id(thing))
    if isinstance(thing, dict):
        return [contents(each, known) for pair in thing.items() for each in pair]
    if isinstance(thing, list | tuple | set | frozenset | deque):
        return [contents(each, known) for each in thing]
    if not type(thing).__module__.startswith("cloudq"):
        return None
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names = (*slots, *getattr(thing, "__dict__", ()))
    return [contents(getattr(thing, name, None), known) for name in names]


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def expanded(data: bytes) -> bytes | None:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return None


def seen(app: CloudQ, folder: Path) -> list[bytes]:
    return [
        each[max(0, found.start() - 60) : found.end() + 60]
        for each in stored(app, folder)
        for found in re.finditer(MARK.encode(), each)
    ]


def test_the_search_finds_what_is_plain(shop: Shop, tmp_path: Path) -> None:
    """The test below would mean nothing if it looked at the wrong places."""
    app = shop(keys={})
    work(app)
    assert seen(app, tmp_path)
    drain(app)
    found = seen(app, tmp_path)
    assert any(re.search(rb"value.{1,12}the-card-4111 in a bundle", each) for each in found)


def test_nothing_is_seen_and_all_comes_back(shop: Shop, tmp_path: Path) -> None:
    app = shop(encryption_hides_task=True)
    made = work(app)
    assert seen(app, tmp_path) == []
    drain(app)
    assert seen(app, tmp_path) == []
    assert made["echo"].get(timeout=1) == f"{MARK} echo"
    assert made["steps"].get(timeout=1) == f"{MARK} steps"
    assert made["chain"].get(timeout=1) == f"{MARK} 0"
    assert made["long"].get(timeout=1).startswith(f"{MARK} 119")
    assert made["chord"].get(timeout=1) == "+".join(f"{MARK} {n}" for n in range(3))
    assert [each.get(timeout=1) for each in made["bundle"]] == [
        f"{MARK} in a bundle {n}" for n in range(5)
    ]
    with pytest.raises(ValueError, match=f"{MARK} fail"):
        made["fail"].get(timeout=1)
    assert f"{MARK} fail" in made["fail"].traceback
    again = app.send_task("once", args=[f"{MARK} once"])
    drain(app)
    assert again.get(timeout=1) == f"{MARK} once"
    found = listing.search(app, listing.TaskFilter(name="fail"))
    assert any(f"{MARK} fail" in (event.error or "") for event in found.rows)
    reasons = {letter.reason for letter in dead_letters.search(app).letters}
    assert reasons == {
        "ValueError: its text is encrypted, in the record of the task",
        "rejected: its text is encrypted, in the record of the task",
    }


@pytest.mark.parametrize("keys", [{}, {"k2": K2}], ids=["no key", "another key"])
def test_who_lacks_the_key_is_told_so(shop: Shop, keys: dict[str, str]) -> None:
    app = shop()
    made = work(app)
    drain(app)
    stranger = shop(keys=keys)
    for name in ("echo", "chord", "steps"):
        with pytest.raises(DecodeError, match=UNKNOWN):
            stranger.AsyncResult(made[name].id).get(timeout=1)
    assert stranger.AsyncResult(made["echo"].id).state == "SUCCESS"
    for each in made["bundle"]:
        assert stranger.AsyncResult(each.id).state == "SUCCESS"
        with pytest.raises(DecodeError, match=UNKNOWN):
            stranger.AsyncResult(each.id).get(timeout=1)
    for each in (made["fail"], *made["bundle fails"]):
        failed = stranger.AsyncResult(each.id)
        assert failed.state == "FAILURE"
        with pytest.raises((ValueError, TaskFailure), match=UNKNOWN):
            failed.get(timeout=1)
        assert failed.traceback == UNKNOWN
    chosen = listing.TaskFilter(name="fail")
    errors = [event.error for event in listing.search(stranger, chosen).rows if event.error]
    assert errors
    assert set(errors) == {UNKNOWN}
    letters = dead_letters.search(stranger).letters
    assert {letter.problem for letter in letters} == {UNKNOWN}


def test_a_value_moved_to_another_task_does_not_open(shop: Shop) -> None:
    app = shop()
    one, two = (app.send_task("echo", args=[f"{MARK} {n}"], task_id=f"t{n}") for n in range(2))
    drain(app)
    assert app.backend is not None
    driver = app.backend.driver
    items = driver.get([key(one.id), key(two.id)], consistent=True)
    moved = items[key(one.id)].fields["value"]
    driver.update(key(two.id), Change(set={"value": moved}, keep_expires=True))
    with pytest.raises(DecodeError, match="for this place"):
        app.AsyncResult(two.id).get(timeout=1)


def test_a_plain_value_of_before_is_read(shop: Shop) -> None:
    before = shop(keys={})
    result = before.send_task("echo", args=["old"])
    drain(before)
    assert shop().AsyncResult(result.id).get(timeout=1) == "old"


@pytest.mark.parametrize("how", ["plain", "moved", "another app's"])
def test_a_stored_call_that_was_not_sealed_for_its_place_is_not_sent(shop: Shop, how: str) -> None:
    app = shop()
    echo, join = app.tasks["echo"], app.tasks["join"]
    result = chord([echo.s("a"), echo.s("b")], join.s()).delay()
    place = join_key(result.parent.id)
    assert app.backend is not None
    driver = app.backend.driver
    follows = app.backend.get([place])[place].fields["follows"]
    if how == "plain":
        forged: Any = follows
    elif how == "moved":
        other = chord([echo.s("c"), echo.s("d")], join.s()).delay()
        elsewhere = join_key(other.parent.id)
        forged = driver.get([elsewhere], consistent=True)[elsewhere].fields["follows"]
    else:
        sealing = shop("bank").backend.sealing
        forged = sealing.change(place, Change(set={"follows": follows})).set["follows"]
    driver.update(place, Change(set={"follows": forged}, keep_expires=True))
    drain(app)
    assert app.AsyncResult(result.id).state != "SUCCESS"


def test_every_changed_byte_of_a_stored_text_is_found(shop: Shop) -> None:
    app = shop()
    result = app.send_task("echo", args=[MARK])
    drain(app)
    assert app.backend is not None
    driver, place = app.backend.driver, Key(f"task#{result.id}")
    item = driver.get([place], consistent=True).get(place)
    if item is None or "value" not in item.fields:
        pytest.skip("it lies with others")
    text = str(item.fields["value"])
    sealing = app.backend.sealing
    assert sealing is not None
    for at in range(len("sealed:4:"), len(text)):
        changed = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        opened = sealing.opened(type(item)(key=place, fields={"value": changed}))
        assert str(opened.fields["value"]).startswith("sealed:4:!")
    assert sealing.opened(item).fields["value"] == orjson.dumps(MARK).decode()


def test_what_is_recorded_and_acked_at_once_is_encrypted(shop: Shop, tmp_path: Path) -> None:
    app = shop()
    results = [app.send_task("echo", args=[f"{MARK} {n}"]) for n in range(3)]
    consumer = Consumer(app.executor(hostname="here"), log=Log("cloudq.tests"))
    deliveries = app.broker.receive("default", count=10, wait=0.0, lease=60.0)
    jobs, _ = consumer.open(deliveries)
    ended = [(job.delivery, consumer.run_job(job)) for job in jobs]
    at_once = consumer.settle_at_once(ended)
    if app.conf.broker.startswith("sqlite"):
        assert len(at_once) == len(results)
    else:  # its queues are in no transaction with its store
        consumer.finish(ended)
    assert seen(app, tmp_path) == []
    assert [each.get(timeout=1) for each in results] == [f"{MARK} {n}" for n in range(3)]


def test_the_keys_in_use_are_those_of_what_is_sealed_and_what_does_not_open_is_told(
    shop: Shop,
) -> None:
    app = shop()
    result = app.tasks["echo"].delay(MARK)
    drain(app)
    assert app.backend is not None
    [item] = app.backend.driver.query(f"task#{result.id}", after=None, limit=10).items
    assert app.backend.sealing is not None
    assert list(app.backend.sealing.used(item)) == [("k1", None)]
    plain = replace(item, fields={**item.fields, "value": '"plain"'})
    assert not list(app.backend.sealing.used(plain))
    moved = replace(item, key=key("another"))
    [(used, problem)] = app.backend.sealing.used(moved)
    assert used == "k1"
    assert "not what key 'k1' has encrypted for this place" in (problem or "")


def test_the_keys_of_what_is_stored_are_told(shop: Shop) -> None:
    app = shop()
    made = work(app)
    drain(app)
    assert app.backend is not None
    driver, ours = app.backend.driver, app.backend.sealing
    stranger = shop(keys={"k2": K2}).backend.sealing
    assert ours is not None
    places = [key(made["fail"].id)]
    found = driver.get(places, consistent=True)
    item = found[places[0]]
    sealed = {name for name, value in item.fields.items() if str(value).startswith("sealed:4:")}
    assert {"error", "traceback"} <= sealed
    assert list(ours.used(item)) == [("k1", None)] * len(sealed)
    assert list(stranger.used(item)) == [("k1", UNKNOWN)] * len(sealed)
