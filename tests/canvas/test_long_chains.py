"""Long chains cost their length: their later steps lie in the store once, and are read in turn."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from cloudq import (
    ChordError,
    CloudQ,
    InvalidArguments,
    Node,
    State,
    TaskRevoked,
    chain,
    chord,
    group,
)
from cloudq.canvas.tails import CARRIED, UNSTORED
from cloudq.driver import Key
from cloudq.execution.commit import commit
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks

LONG = 220


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


class Wire:
    """The sizes of all that an app sends and stores."""

    def __init__(self, app: Bench) -> None:
        self.bodies: list[int] = []
        self.items: list[int] = []
        send, put = app.memory.send, app.store.inner.put

        def sending(queue: str, messages: Any) -> Any:
            self.bodies += [len(message.body) for message in messages]
            return send(queue, messages)

        def putting(items: Any) -> Any:
            self.items += [len(str(i.fields.get("steps", ""))) for i in items]
            return put(items)

        app.memory.send = sending  # type: ignore[method-assign]
        app.store.inner.put = putting  # type: ignore[method-assign]


def counting(t: Tasks, count: int) -> Node[Any]:
    """A chain that adds one `count` times."""
    return chain([t.add.s(0, 0), *(t.add.s(1) for _ in range(count))])


def stored(app: Bench, steps: list[dict[str, Any]]) -> Key:
    """The key of the first stored chunk that steps refer to."""
    [reference] = [step for step in steps if "more" in step]
    return Key(f"steps#{reference['more']}", f"{reference['at']:07d}.000")


def test_what_a_message_carries_is_bounded_and_the_sum_grows_with_the_length(
    app: Bench, t: Tasks
) -> None:
    wire, sums = Wire(app), list[int]()
    for count in (400, 800):
        wire.bodies.clear()
        wire.items.clear()
        result = counting(t, count).delay()
        app.work()
        assert result.get(timeout=0) == count
        assert max(wire.bodies) < 5_000
        sums.append(sum(wire.bodies) + sum(wire.items))
    assert sums[1] < 2.2 * sums[0]


# How a long chain may be started, and what its value is then.
WAYS: dict[str, Any] = {
    "alone": (lambda t: counting(t, LONG), LONG),
    "by |": (
        lambda t: t.add.s(1, 1) | counting(t, LONG).tasks[1] | chain(counting(t, 9).tasks[1:]),
        12,
    ),  # type: ignore[attr-defined]
    "as a member of a group": (lambda t: group(counting(t, LONG), t.add.s(1, 1)), [LONG, 2]),
    "as a member of a header": (
        lambda t: chord([counting(t, LONG), counting(t, LONG + 1)], t.total.s()),
        2 * LONG + 1,
    ),
    "as a body": (
        lambda t: chord([t.add.s(1, 1)], chain(t.total.s(), *(t.add.s(1) for _ in range(LONG)))),
        LONG + 2,
    ),
    "with callbacks": (lambda t: counting(t, LONG).link(t.same.s()), LONG),
    "inside of a long chain": (
        lambda t: chain(
            *counting(t, 100).tasks,  # type: ignore[attr-defined]
            chain(t.add.s(1) for _ in range(100)).link(t.same.s()),
            *(t.add.s(1) for _ in range(100)),
        ),
        300,
    ),
    "with chords": (
        lambda t: chain(
            t.add.s(0, 0),
            *(
                step
                for _ in range(60)
                for step in (group(t.add.s(1), t.same.s()), t.total.s(), t.same.si(1))
            ),
        ),
        1,
    ),
    "that ends in a group": (
        lambda t: chain(*counting(t, LONG).tasks, group(t.add.s(1), t.same.s())),  # type: ignore[attr-defined]
        [LONG + 1, LONG],
    ),
    "with a wide group in it": (
        lambda t: chain(
            t.add.s(0, 0), group(t.add.s(n) for n in range(700)), t.total.s(), t.add.s(1)
        ),
        244_651,
    ),
    "with large arguments": (
        lambda t: chain(t.same.s(1), *(t.same.si("x" * 30_000) for _ in range(20)), t.same.si(2)),
        2,
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_long_chain_comes_to_its_value(app: Bench, t: Tasks, name: str) -> None:
    make, value = WAYS[name]
    result = make(t).delay()
    app.work()
    assert result.get(timeout=0) == value


@pytest.mark.parametrize("how", ["delay", "replace", "link", "link_error"])
def test_a_task_and_a_callback_start_long_chains_too(app: Bench, t: Tasks, how: str) -> None:
    wire = Wire(app)

    @app.task(name="starts", bind=True, max_retries=0)
    def starts(self: Any) -> str:
        if how == "replace":
            self.replace(counting(t, LONG))
        if how == "link_error":
            raise ValueError
        return counting(t, LONG).delay().id if how == "delay" else "started"

    steps = [t.same.si(n) for n in range(LONG)]
    call = starts.s()
    if how == "link":
        call.link(chain(steps))
    if how == "link_error":
        call.link_error(chain(steps))
    result = call.delay()
    app.work()
    if how == "delay":
        assert app.AsyncResult(result.get(timeout=0)).get(timeout=0) == LONG
        [child] = result.children
        assert child.id == result.get(timeout=0)
    elif how == "replace":
        assert result.get(timeout=0) == LONG
    else:
        assert t.runs == [("same", n) for n in range(LONG)]
    if how == "link":
        [child] = result.children
        assert child.get(timeout=0) == LONG - 1
    assert max(wire.bodies) < (40_000 if how == "link_error" else 5_000)


def test_a_message_that_carries_a_whole_chain_is_still_read(app: Bench, t: Tasks) -> None:
    wire = Wire(app)
    steps = [t.same.si(n).set(task_id=f"id-{n}").to_dict() for n in range(LONG)]
    for number, step in enumerate(steps):
        step["id"] = f"id-{number}"
        del step["options"]
    app.post(TaskMessage(id="first", task="same", args=[0], queue="default", chain=steps))
    wire.bodies.clear()
    app.work()
    assert app.AsyncResult(f"id-{LONG - 1}").get(timeout=0) == LONG - 1
    assert max(wire.bodies) < 5_000


def test_without_a_result_backend_a_chain_has_a_longest_length() -> None:
    with CloudQ("bare", broker="memory://bare-chains", backend="none") as app:
        t = Tasks(app)
        counting(t, UNSTORED).delay()
        drain(app)
        assert len(t.runs) == UNSTORED + 1
        with pytest.raises(InvalidArguments, match="more than 500 steps"):
            counting(t, UNSTORED + 1).delay()
        with pytest.raises(InvalidArguments, match="more than 500 steps"):
            t.same.s(1).link(chain(t.same.si(n) for n in range(UNSTORED + 2))).delay()
        drain(app)
        assert len(t.runs) == UNSTORED + 1


@pytest.mark.parametrize("end", ["expires", "revoked", "fails", "ignored", "rejected", "unknown"])
def test_all_later_steps_have_the_end_of_the_one_that_stopped_them(
    app: Bench, t: Tasks, end: str
) -> None:
    from cloudq import Ignore, Reject

    @app.task(name="stops", max_retries=0)
    def stops(*_: Any) -> None:
        raise {"ignored": Ignore(), "rejected": Reject("no")}.get(end, ValueError("on purpose"))

    wrong = {
        "expires": t.same.si(0).set(expires=0),
        "unknown": app.signature("nowhere.to.be.found", immutable=True),
    }.get(end, stops.si())
    result = chain(
        *counting(t, 40).tasks,  # type: ignore[attr-defined]
        wrong,
        *(t.same.s() for _ in range(60)),
        group(t.same.s(), t.same.s()),
        t.total.s(),
    ).delay()
    later = [result, *result.parent.leaves()]
    parent = result.parent.parent
    for _ in range(60):
        later.append(parent)
        parent = parent.parent
    if end == "revoked":
        parent.revoke()
    app.work()
    states = {"expires": "REVOKED", "revoked": "REVOKED", "rejected": "REJECTED"}
    expected = states.get(end, "FAILURE")
    assert {each.state for each in later} == {expected}
    assert all(each.ready() for each in later)
    errors = {repr(each.get(timeout=0, propagate=False)) for each in later}
    assert len(errors) == 1
    # So does whoever knows an id alone.
    assert {app.AsyncResult(each.id).state for each in later} == {expected}
    if expected == "REVOKED":
        with pytest.raises(TaskRevoked):
            result.get(timeout=0)


def test_a_body_that_is_a_chain_ends_whole_when_a_member_fails(app: Bench, t: Tasks) -> None:
    body = chain(t.total.s(), *(t.add.s(1) for _ in range(60)))
    result = (chord([t.fail.s(), t.same.s(1)], body) | t.same.s()).delay()
    app.work()
    seen = 0
    while result is not None and not isinstance(result.get(timeout=0, propagate=False), list):
        assert isinstance(result.get(timeout=0, propagate=False), ChordError)
        assert result.state is State.FAILURE
        result, seen = result.parent, seen + 1
        if seen == 62:
            break
    assert seen == 62


def test_a_chord_whose_body_is_an_empty_group_may_fail(app: Bench, t: Tasks) -> None:
    chord([t.fail.s()], group()).delay()
    app.work()
    assert app.left() == 0


def test_revoking_a_long_chain_ends_all_of_it(app: Bench, t: Tasks) -> None:
    result = counting(t, LONG).delay()
    app.step()
    assert result.revoke()
    app.work()
    assert len(t.runs) == 1
    states = {result.state}
    while (result := result.parent) is not None and result.parent is not None:
        states.add(result.state)
    assert states == {State.REVOKED}


def test_steps_that_are_gone_fail_the_chain_and_its_chord(app: Bench, t: Tasks) -> None:
    result = chord([counting(t, LONG), t.add.s(1, 1)], t.total.s()).delay()
    delivery = app.one()
    key = stored(app, app.job(delivery).message.chain)
    app.results.delete([key])
    app.lose_leases()
    app.work()
    assert len(t.runs) == CARRIED + 1
    with pytest.raises(ChordError, match="not in the result store"):
        result.get(timeout=0)


def test_a_step_waits_while_the_store_is_down(app: Bench, t: Tasks) -> None:
    result = counting(t, LONG).delay()
    while app.job(delivery := app.one()).message.chain[0].get("more") is None:
        app.finish(delivery, app.settle(delivery))
    job = app.job(delivery)
    app.store.down.add("get")
    settlement = app.runner.run(job)
    app.store.down.clear()
    assert "the store is down" in settlement.reason
    app.finish(delivery, settlement)
    app.work()
    assert result.get(timeout=0) == LONG


def test_a_death_between_the_steps_sends_the_same_calls_again(app: Bench, t: Tasks) -> None:
    """Each step is settled twice: its first process died after it had sent the next step."""
    result = counting(t, 70).delay()
    ids = set[str]()
    while app.left():
        delivery = app.one()
        message = app.broker.codec.decode(delivery.body, queue="default", limit=1 << 20)
        ids.add(message.id)
        settlement = app.settle(delivery)
        if delivery.attempts == 1:
            app.store.down.add("put")
            commit([(delivery, settlement)], app.broker, app.backend, app.workflows.joins)
            app.store.down.clear()
            app.lose_leases()
        else:
            app.finish(delivery, settlement)
    assert len(ids) == 71
    assert result.get(timeout=0) == 70


def test_waiting_for_a_long_chain_reads_little(app: Bench, t: Tasks) -> None:
    result = counting(t, LONG).delay()
    app.store.calls.clear()
    app.work()
    before = app.store.calls["get"]
    fresh = 0
    parent = result
    while parent is not None:
        parent.final = None
        fresh, parent = fresh + 1, parent.parent
    assert result.get(timeout=0) == LONG
    assert app.store.calls["get"] - before <= 2
    assert fresh == LONG + 1


def test_a_long_chain_may_be_saved_and_looked_at(app: Bench, t: Tasks) -> None:
    count = 3_000
    node = chain(*(t.same.si(n) for n in range(count)), group(t.same.s(), t.same.s()))
    assert repr(node).count("|") == count
    assert node == node.clone()
    result = node.delay()
    result.save()
    found = app.restore_group(result.id)
    assert found is not None
    assert found.parent.id == result.parent.id  # type: ignore[union-attr]
    ids, parent = 0, found
    while parent is not None:
        ids, parent = ids + 1, parent.parent  # type: ignore[assignment]
    assert ids == count + 1
    assert result.as_tuple()[0][0] == result.id
    assert app.left() == 1


def test_celerys_workers_are_sent_whole_chains(app: Bench, t: Tasks) -> None:
    steps = [t.same.si(n).set(protocol="celery") for n in range(60)]
    chain(steps).delay()
    outer = orjson.loads(base64.b64decode(app.one().body))
    _, _, embed = orjson.loads(base64.b64decode(outer["body"]))
    assert [step["args"] for step in reversed(embed["chain"])] == [[n] for n in range(1, 60)]
