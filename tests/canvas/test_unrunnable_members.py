"""Members of chords that never run: the chord fails at once, with the member's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cloudq import (
    AsyncResult,
    ChordError,
    CloudQ,
    DecodeError,
    State,
    UnknownTask,
    WorkerLost,
    chain,
    chord,
)
from cloudq.driver import Outgoing
from cloudq.execution.commit import commit
from cloudq.testing import drain
from tests.support.bench import Bench


@pytest.fixture
def runs(app: Bench) -> list[Any]:
    """Record the arguments of each run; `same` and `total` are the app's tasks."""
    seen: list[Any] = []

    def same(value: Any) -> Any:
        seen.append(value)
        return value

    def total(values: list[Any]) -> int:
        seen.append(values)
        return sum(values)

    app.task(name="same")(same)
    app.task(name="total")(total)
    return seen


def start(app: Bench, member: str = "gone", **options: Any) -> tuple[AsyncResult[Any], Any]:
    """A chord of `same` and another member; its result, and the member's."""
    header = [app.signature("same", (1,)), app.signature(member, (2,), **options)]
    result: AsyncResult[Any] = chord(header, app.signature("total")).delay()
    return result, result.parent[1]


def spoil(app: Bench, id: str, change: Callable[[dict[str, Any]], bytes]) -> None:
    """Put another body in the place of the message of this id."""
    for delivery in app.receive(10):
        fields = json.loads(delivery.body)
        body = change(fields) if fields["id"] == id else delivery.body
        app.broker.ack([delivery])
        app.memory.send("default", [_outgoing(fields["id"], body)])


def _outgoing(id: str, body: bytes) -> Outgoing:
    return Outgoing(id=f"{id}.again", body=body)


def failed(result: AsyncResult[Any], member: AsyncResult[Any]) -> str:
    """Why a chord failed; it names the member."""
    with pytest.raises(ChordError, match=f"member {member.id}") as error:
        result.get(timeout=0)
    return str(error.value)


def test_an_unknown_task_fails_its_chord(app: Bench, runs: list[Any]) -> None:
    result, member = start(app)
    app.work()
    assert "(gone) failed: cloudq.errors.UnknownTask: unknown task 'gone'" in failed(result, member)
    assert member.state is State.FAILURE
    with pytest.raises(UnknownTask):
        member.get(timeout=0)
    [dead] = app.dead()
    assert "unknown task 'gone'" in str(dead.reason)
    assert runs == [1]


def test_a_worker_that_dies_before_its_burial_fails_it_once(app: Bench, runs: list[Any]) -> None:
    result, member = start(app)
    for _ in range(2):
        for delivery in app.receive(10):
            if member.id.encode() in delivery.body:
                _, [(_, settlement)] = app.runner.open([delivery])
                done = commit(
                    [(delivery, settlement)], app.broker, app.backend, app.workflows.joins
                )
                assert not done.failed
        app.lose_leases()
    app.work()
    failed(result, member)
    assert len(app.dead()) == 1


def test_what_is_recorded_already_stays(app: Bench, runs: list[Any]) -> None:
    """A copy that comes late to a worker without the task does not undo a success."""
    result, member = start(app, "same")
    [_, copy] = app.receive(10)
    app.lose_leases()
    app.work()
    assert result.get(timeout=0) == 3
    del app.tasks["same"]
    app.memory.send("default", [_outgoing("copy", copy.body)])
    app.work()
    assert member.state is State.SUCCESS
    assert result.get(timeout=0) == 3


def test_a_step_of_a_chain_that_is_unknown_fails_all_that_waits(
    app: Bench, runs: list[Any]
) -> None:
    flow: Any = chain(app.signature("same", (1,)), app.signature("gone"), app.signature("same"))
    result: AsyncResult[Any] = flow.delay()
    app.work()
    with pytest.raises(UnknownTask):
        result.get(timeout=0)
    within = chord([flow.clone(), app.signature("same", (4,))], app.signature("total"))
    joined: AsyncResult[Any] = within.delay()
    app.work()
    with pytest.raises(ChordError, match=r"\(gone\) failed"):
        joined.get(timeout=0)


def test_an_unknown_body_fails_and_calls_its_error_callback(app: Bench, runs: list[Any]) -> None:
    told: list[Any] = []
    app.task(name="told")(told.append)
    body = app.signature("gone").on_error(app.signature("told"))
    result: AsyncResult[Any] = chord([app.signature("same", (1,))], body).delay()
    app.work()
    with pytest.raises(UnknownTask):
        result.get(timeout=0)
    assert told == [result.id]


def test_a_call_by_itself_ends_too_and_runs_when_it_is_sent_again(app: Bench) -> None:
    results = [app.send_task("gone"), app.send_task("gone", task_id="mine")]
    ignored = app.send_task("gone", ignore_result=True)
    app.work()
    for result in results:
        with pytest.raises(UnknownTask, match="unknown task 'gone'"):
            result.get(timeout=0)
    assert app.AsyncResult(ignored.id).state is State.PENDING
    assert [dead.reason for dead in app.dead()] == [
        "unknown task 'gone': is its module in the app's include, and was this worker started after"
        " it was written?"
    ] * 3

    app.task(name="gone")(lambda: "there")
    app.memory.redrive("default", list(app.dead()))
    app.work()
    assert [app.AsyncResult(each.id).get(timeout=0) for each in results] == ["there"] * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"not_before": 1e15}, "undecodable: not_before"),
        ({"args": "none"}, "undecodable: args"),
        ({"serializer": "pickle"}, "content type 'pickle' is not in"),
        ({"args": [json.loads("[" * 150 + "]" * 150)]}, "nest deeper"),
        ({"chain": 5}, "undecodable: chain"),
    ],
    ids=["a time", "arguments", "pickle", "nesting", "a chain"],
)
def test_a_message_that_only_names_its_member_fails_the_chord(
    app: Bench, runs: list[Any], change: dict[str, Any], reason: str
) -> None:
    result, member = start(app, "same")
    spoil(app, member.id, lambda fields: json.dumps({**fields, **change}).encode())
    app.work()
    assert reason in failed(result, member)
    with pytest.raises(DecodeError):
        member.get(timeout=0)
    [dead] = app.dead()
    assert reason in str(dead.reason)


def test_an_oversized_member_fails_its_chord(app: Bench, runs: list[Any]) -> None:
    result, member = start(app, "same")
    app.conf.max_body = 1024
    spoil(app, member.id, lambda fields: json.dumps(fields).encode() + b" " * 1024)
    app.work()
    assert "oversized" in failed(result, member)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[1]",
        b'{"v":3,"id":"a","task":"t","slot":"0@j"}',
        b'{"v":1,"id":5,"task":"t","slot":"0@j"}',
        b'{"v":1,"task":"t","args":5}',
        b'{"v":2,"body":{"v":5,"id":"a","task":"t","slot":"0@j"}}',
        b'{"v":1,"id":"a\\u0007","task":"t","args":5}',
    ],
)
def test_what_names_no_call_is_buried_without_a_record(app: Bench, body: bytes) -> None:
    app.memory.send("default", [_outgoing("a", body)])
    app.work()
    assert len(app.dead()) == 1
    assert app.state(AsyncResult("a", backend=app.backend)) is State.PENDING


def test_nobody_without_a_key_fails_a_chord() -> None:
    """Nothing in an unsigned message is believed where messages must be signed."""

    def text(value: Any) -> str:
        return str(value)

    keys = {"k": "x" * 32}
    with CloudQ("signed", broker="memory://unrunnable", signing_keys=keys) as app:
        app.task(name="same")(text)
        result: Any = chord([app.signature("same", (1,))], app.signature("same")).delay()
        member = result.parent[0]
        forged = {"v": 1, "id": member.id, "task": "gone", "slot": f"0@{result.parent.id}"}
        app.broker.driver.send("default", [_outgoing("x", json.dumps(forged).encode())])
        settled = drain(app)
        assert sum(each.reason.startswith("unsigned") for each in settled) == 1
        assert result.get(timeout=0) == "['1']"


def test_a_member_that_was_delivered_too_often_fails_its_chord(app: Bench, runs: list[Any]) -> None:
    result, member = start(app, "same")
    app.configure_deliveries(2)
    for _ in range(2):
        app.receive(10)
        app.lose_leases()
    app.work()
    assert "delivered 3 times" in str(result.get(timeout=0, propagate=False))
    assert {r.state for r in result.parent.leaves()} == {State.FAILURE}
    with pytest.raises(WorkerLost):
        member.get(timeout=0)


def test_an_expired_member_fails_its_chord(app: Bench, runs: list[Any]) -> None:
    result, member = start(app, "same", expires=5)
    app.clock.ahead += 10
    app.work()
    assert "REVOKED: expired" in failed(result, member)
    assert runs == [1]


def test_a_revoked_member_fails_its_chord(app: Bench, runs: list[Any]) -> None:
    result, member = start(app, "same")
    assert member.revoke()
    app.work()
    assert "REVOKED: revoked" in failed(result, member)
    assert runs == [1]
