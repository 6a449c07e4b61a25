"""One message's trouble is its own: judged, run, recorded and settled beside its neighbours."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import BackendError, CloudQ, DecodeError, State
from cloudq.driver import Code, Delivery, Item, Outgoing, StoreLimits
from cloudq.execution.commit import commit
from cloudq.execution.interrupt import Alarm, Alarms
from cloudq.execution.outcomes import Outcomes
from cloudq.execution.settlement import Action, Settled, copy_of
from cloudq.messages.bundle import Bundle
from cloudq.messages.codec import Codec
from cloudq.messages.fields import MOST
from cloudq.messages.message import TaskMessage
from cloudq.messages.optional import library
from cloudq.results.record import key
from cloudq.testing import drain
from tests.servers import unique
from tests.support.bench import Bench
from tests.support.faults import Outage

# The limits of a store that bills requests: each end that is recorded is an event.
BILLED = StoreLimits(put=25, get=100, item=1 << 10)


@pytest.fixture
def runs(app: Bench) -> list[Any]:
    """The arguments of each run of the task `t`."""
    seen: list[Any] = []

    def same(value: Any) -> Any:
        seen.append(value)
        return value

    app.task(name="t")(same)
    return seen


def put(app: Bench, id: str, **fields: Any) -> None:
    body = json.dumps({"v": 1, "id": id, "task": "t", "args": [id]} | fields).encode()
    assert not app.memory.send("default", [Outgoing(id=id, body=body)])


def opened(app: Bench) -> tuple[list[str], list[Settled]]:
    jobs, settled = app.runner.open(app.receive())
    return [job.message.id for job in jobs], settled


def state(app: Bench, id: str) -> tuple[State, str] | None:
    record = app.results.record(id)
    return None if record is None else (record.state, record.error or "")


# ---- judged

MALFORMED: list[dict[str, Any]] = [
    {"chain": [{"bogus": 1}]},
    {"link": [{"task": "t", "options": {"countdown": "x"}}]},
    {"link_error": [{"task": "t", "link": [{"chain": []}]}]},
    {"slot": "3@join", "chain": [{"task": "t", "args": [{"$int": "x"}]}]},
]


@pytest.mark.parametrize("fields", MALFORMED)
def test_a_part_that_cannot_be_read_fails_its_own_call_alone(
    app: Bench, runs: list[Any], fields: dict[str, Any]
) -> None:
    for id in ("a", "b"):
        put(app, id)
    put(app, "bad", **fields)
    ids, settled = opened(app)
    assert sorted(ids) == ["a", "b"]
    [(delivery, settlement)] = settled
    assert settlement.action is Action.DEAD_LETTER
    app.finish(delivery, settlement)
    found = state(app, "bad")
    assert found is not None
    assert found[0] is State.FAILURE
    assert found[1].startswith("undecodable: ")


UNREADABLE: list[dict[str, Any]] = [
    {"args": 5},
    {"slot": "nobody's"},
    {"retries": int("9" * 4300)},
    {"serializer": "pickle"},
    {"kwargs": {"deep": json.loads("[" * 150 + "]" * 150)}},
    {"task": 5},
    {"link_error": [{"task": "t", "options": {"priority": 3}}], "args": 5},
    {"not_before": "soon", "chain": [5], "link_error": 7, "root": [], "unique_key": 1},
]


@pytest.mark.parametrize("form", ["plain", "signed", "zlib", "msgpack"])
@pytest.mark.parametrize("fields", UNREADABLE, ids=lambda fields: next(iter(fields)))
def test_a_call_that_cannot_be_read_fails_under_its_id(fields: dict[str, Any], form: str) -> None:
    keys = {"signing_keys": {"k": "x" * 32}} if form == "signed" else {}
    kinds = ["json", "msgpack"]
    with CloudQ("shop", broker=f"memory://{unique()}", accept_content=kinds, **keys) as app:
        app.task(name="t")(lambda value: value)
        read = {"v": 1, "id": "bad", "task": "t", "args": ["bad"], **fields}
        body = json.dumps(read).encode()
        codec = app.broker.codec
        if form == "signed":
            rest = b'"app":"shop","queue":"default","body":%b}' % body
            body = codec.keyring.signed(rest)
        elif form == "zlib":
            text = base64.b64encode(zlib.compress(body)).decode()
            body = b'{"v":2,"zip":"zlib","body":"%b"}' % text.encode()
        elif form == "msgpack":
            if "retries" in fields or "kwargs" in fields:  # what msgpack itself cannot have
                read |= {"retries": -1, "kwargs": {}}
            text = base64.b64encode(library("msgpack", extra="msgpack").packb(read)).decode()
            body = b'{"v":2,"type":"msgpack","body":"%b"}' % text.encode()
        app.broker.driver.send("default", [Outgoing(id="bad", body=body)])
        good = app.tasks["t"].delay("good")
        drain(app)
        assert good.get(timeout=0) == "good"
        bad: Any = app.AsyncResult("bad")
        assert bad.state == State.FAILURE
        with pytest.raises(DecodeError):
            bad.get(timeout=0)
        [dead] = app.broker.admin.peek_dead("default", count=2)
        assert not str(dead.reason).startswith("bad signature"), dead.reason


def test_a_unique_call_that_cannot_be_read_holds_no_key(app: Bench) -> None:
    task: Any = app.task(name="t", unique=True)(lambda value: value)
    call = task.delay(1)
    [delivery] = app.receive()
    app.broker.ack([delivery])
    body = json.dumps({**json.loads(delivery.body), "args": 5}).encode()
    app.memory.send("default", [Outgoing(id="x", body=body)])
    app.work()
    assert app.state(call) is State.FAILURE
    assert task.delay(1).id != call.id


@pytest.mark.parametrize("error", [RecursionError("deep"), RuntimeError("?"), KeyError("k")])
def test_a_body_whose_reading_raises_is_dead_lettered_alone(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read = Codec.read

    def unlucky(self: Codec, body: bytes, *, queue: str, limit: int) -> TaskMessage | Bundle:
        if b'"bad"' in body:
            raise error
        return read(self, body, queue=queue, limit=limit)

    monkeypatch.setattr(Codec, "read", unlucky)
    for id in ("a", "bad", "b"):
        put(app, id)
    ids, settled = opened(app)
    assert sorted(ids) == ["a", "b"]
    [(_, settlement)] = settled
    assert settlement.action is Action.DEAD_LETTER
    assert settlement.reason.startswith("it cannot be judged: ")


def test_a_record_of_odd_shape_is_read_for_what_it_has(app: Bench, runs: list[Any]) -> None:
    odd = {"state": 7, "retries": "many", "fence": b"x", "scheduled": 5, "revoked": "no"}
    app.results.put([Item(key=key("a"), fields=odd, expires=None)])
    put(app, "a", not_before=1.0)
    assert opened(app) == (["a"], [])


def test_an_id_that_no_store_can_have_is_its_own_message_s_trouble(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = app.results.records

    def refusing(ids: Any, *, consistent: bool = True, own: bool = False) -> Any:
        if "bad" in ids:
            raise BackendError("a key that cannot be", code=Code.INVALID)
        return records(ids, consistent=consistent, own=own)

    monkeypatch.setattr(app.results, "records", refusing)
    for id in ("a", "bad", "b"):
        put(app, id)
    ids, settled = opened(app)
    assert sorted(ids) == ["a", "b"]
    assert [s.action for _, s in settled] == [Action.DEAD_LETTER]


def test_a_store_that_is_down_settles_nothing(app: Bench, runs: list[Any]) -> None:
    put(app, "a")
    app.store.down.add("get")
    with pytest.raises(BackendError):
        app.runner.open(app.receive())


# ---- run


@pytest.mark.parametrize("name", ["succeeded", "failed", "limits"])
def test_a_job_hands_in_an_outcome_whatever_raises(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(app, "a", slot="3@join")
    job = app.job(app.one())

    def broken(self: Outcomes, *given: Any, **named: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Outcomes, name, broken)
    if name == "succeeded":
        monkeypatch.setattr(Outcomes, "failed", broken)
    if name == "failed":
        assert app.runner.stopped(job, ValueError("x")).state is State.FAILURE
        job = job.__class__(delivery=job.delivery, message=copy_of(job.message, args=[1, 2, 3]))
    settlement = app.runner.run(job)
    assert (settlement.state, settlement.action) == (State.FAILURE, Action.DEAD_LETTER)
    assert settlement.member_result is not None
    app.finish(job.delivery, settlement)
    assert state(app, "a") == (
        State.FAILURE,
        "its outcome could not be made: RuntimeError: broken",
    )


def test_a_retry_beyond_the_bound_of_retries_fails(app: Bench) -> None:
    app.task(name="t", max_retries=None, autoretry_for=[OSError])(_raises)
    put(app, "a", retries=MOST)
    assert app.step().state is State.FAILURE


def _raises(*args: object) -> None:
    raise OSError("again")


@pytest.mark.parametrize("after", [1e308, float("inf")])
def test_an_alarm_far_away_or_broken_stops_no_other(after: float) -> None:
    alarms, rung = Alarms(), threading.Event()

    def broken() -> None:
        raise RuntimeError("a loop that is closed")

    alarms.set(after, Alarm(rung.set))
    alarms.set(0.0, Alarm(broken))
    alarms.set(0.01, Alarm(rung.set))
    assert rung.wait(30.0)


# ---- recorded and settled


def pairs(app: Bench, *ids: str) -> list[Settled]:
    for id in ids:
        put(app, id)
    found: list[Delivery] = list(app.receive())
    return [(delivery, app.settle(delivery)) for delivery in found]


def spoil_put(app: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the store raise for each batch with the record of `bad` in it, as it was made."""
    inner = app.store.put

    def put(items: Any) -> Any:
        if any(item.key == key("bad") and "value" in item.fields for item in items):
            raise error
        return inner(items)

    monkeypatch.setattr(app.store, "put", put)


@pytest.mark.parametrize("error", [TypeError("an integer exceeds 64 bits"), OverflowError("long")])
def test_an_outcome_that_cannot_be_written_ends_as_a_failure_beside_its_neighbours(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    done = pairs(app, "a", "bad", "b")
    spoil_put(app, monkeypatch, error)
    batch = commit(done, app.broker, app.backend)
    assert (len(batch.ready), batch.failed) == (3, [])
    assert [state(app, id) for id in ("a", "b")] == [(State.SUCCESS, "")] * 2
    found = state(app, "bad")
    assert found is not None
    assert found[0] is State.FAILURE
    assert found[1].startswith("its outcome could not be carried out: ")
    assert {s.task_id: s.action for _, s in batch.ready} == {
        "a": Action.ACK,
        "b": Action.ACK,
        "bad": Action.DEAD_LETTER,
    }


def test_an_outage_fails_nobody(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = pairs(app, "a", "bad", "b")
    spoil_put(app, monkeypatch, Outage("down"))
    batch = commit(done, app.broker, app.backend)
    assert (batch.ready, len(batch.failed)) == ([], 3)
    monkeypatch.undo()
    again = commit(batch.failed, app.broker, app.backend)
    assert (len(again.ready), again.failed) == (3, [])
    assert state(app, "bad") == (State.SUCCESS, "")


def test_a_copy_that_no_broker_takes_fails_its_call(app: Bench) -> None:
    app.task(name="t", max_retries=None, autoretry_for=[OSError])(_raises)
    done = pairs(app, "a", "bad", "b")
    app.wire.refuse = lambda message: Code.INVALID if b'"bad"' in message.body else None
    batch = commit(done, app.broker, app.backend)
    assert (len(batch.ready), batch.failed) == (3, [])
    found = state(app, "bad")
    assert found is not None
    assert found[0] is State.FAILURE
    assert "bad cannot be sent" in found[1]
    assert app.wire.calls["send"] == 1  # those beside it are not sent again


@pytest.mark.parametrize("place", ["_fail_steps", "leave_joins", "_end_unique_claims"])
def test_what_follows_a_record_and_raises_is_left_out(
    app: Bench, runs: list[Any], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(batch: Any, *given: Any, **named: Any) -> None:
        if any(settlement.task_id == "bad" for _, settlement in batch.ready):
            raise RuntimeError("broken")

    done = pairs(app, "a", "bad", "b")
    monkeypatch.setattr(f"cloudq.execution.commit.{place}", broken)
    batch = commit(done, app.broker, app.backend, app.workflows.joins)
    assert (len(batch.ready), batch.failed) == (3, [])
    assert [state(app, id) for id in ("a", "bad", "b")] == [(State.SUCCESS, "")] * 3


def test_an_event_that_cannot_be_made_stops_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench(task_events="final") as app:
        app.task(name="t")(_nothing)
        backend = app.results
        history: Any = app.runtime._history(BILLED)  # pyright: ignore[reportPrivateUsage]
        backend.history = history
        done = pairs(app, "a", "bad")
        items: Callable[..., list[Item]] = history.items

        def unlucky(record: Any, body: bytes = b"") -> list[Item]:
            if record.id == "bad":
                raise TypeError("an integer exceeds 64 bits")
            return items(record, body)

        monkeypatch.setattr(history, "items", unlucky)
        batch = commit(done, app.broker, backend)
        assert (len(batch.ready), batch.failed) == (2, [])
        assert state(app, "bad") == (State.SUCCESS, "")


def _nothing(*args: object) -> None:
    return None
