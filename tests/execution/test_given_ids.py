"""A caller that gives an id again means a new call; a message that comes again is the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cloudq import CloudQ, ResultTimeout, TaskRevoked, chain, chord, group
from cloudq.driver import Key
from cloudq.execution import idempotency
from cloudq.execution.commit import commit
from cloudq.execution.settlement import Settled
from cloudq.messages import body
from cloudq.results.looker import Looker
from cloudq.results.pauses import Pauses
from cloudq.results.record import Record, State, key
from cloudq.testing import in_memory, run_until_idle, worker


class Shop:
    """An app whose tasks note that they ran."""

    def __init__(self, url: str, backend: str | None = None, **settings: Any) -> None:
        self.app = CloudQ("given", broker=url, backend=backend or url, max_retries=2, **settings)
        self.ran: list[Any] = []

        @self.app.task(name="note")
        def note(what: Any) -> Any:
            self.ran.append(what)
            return what

        @self.app.task(name="other")
        def other(what: Any) -> str:
            self.ran.append(what)
            return f"other {what}"

        @self.app.task(name="breaks")
        def breaks(what: Any = None) -> None:
            self.ran.append(what)
            raise ValueError("broken")

        @self.app.task(name="again", bind=True, default_retry_delay=0)
        def again(self_: Any, what: Any) -> Any:
            self.ran.append((what, self_.request.retries))
            if self_.request.retries < 2:
                raise self_.retry(countdown=0)
            return what

        @self.app.task(name="steps", bind=True)
        def steps(self_: Any, what: Any) -> Any:
            self_.update_state(state="PROGRESS", meta=what)
            return self_.once("charge", self.ran.append, what) or what

        self.note, self.other, self.breaks = note, other, breaks
        self.again, self.steps = again, steps

    def record(self, id: str) -> Record:
        assert self.app.runtime.backend is not None
        found = self.app.runtime.backend.record(id)
        assert found is not None
        return found

    def deliver(self, *bodies: bytes, attempts: int = 2) -> list[Settled]:
        """Run messages as if they came once more, since their ack was lost."""
        from cloudq.driver import Delivery

        executor = self.app.executor(hostname="late")
        deliveries = [
            Delivery(
                queue="default",
                id=str(number),
                body=each,
                receipt=None,
                attempts=attempts,
                lease=30.0,
            )
            for number, each in enumerate(bodies)
        ]
        jobs, settled = executor.open(deliveries)
        settled += [(job.delivery, executor.run(job)) for job in jobs]
        runtime = self.app.runtime
        batch = commit(settled, runtime.broker, runtime.backend, executor.joins)
        assert not batch.failed
        return batch.ready

    def sent(self, task: Any, id: str, *args: Any) -> bytes:
        """Return the body of the message that a call of this id sends; it is taken out."""
        task.apply_async(args, task_id=id)
        broker = self.app.runtime.broker
        [delivery] = broker.receive("default", count=1, wait=0.0, lease=30.0)
        broker.ack([delivery])
        return delivery.body


@pytest.fixture(params=["memory", "sqlite"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    named = f"memory://given-{uuid4()}"
    made = Shop(named if request.param == "memory" else f"sqlite:///{tmp_path}/given.db")
    yield made
    made.app.close()


def test_a_second_call_of_an_id_runs(shop: Shop) -> None:
    for number in range(3):
        result = shop.note.apply_async((number,), task_id="mine")
        run_until_idle(shop.app)
        assert result.get(timeout=0) == number
    assert shop.ran == [0, 1, 2]


def test_it_runs_after_a_failure_and_for_another_task(shop: Shop) -> None:
    failed = shop.breaks.apply_async((1,), task_id="mine")
    run_until_idle(shop.app)
    with pytest.raises(ValueError, match="broken"):
        failed.get(timeout=0)
    result = shop.other.apply_async((2,), task_id="mine")
    run_until_idle(shop.app)
    assert result.get(timeout=0) == "other 2"
    assert shop.ran == [1, 2]
    record = shop.record("mine")
    assert (record.state, record.task, record.error, record.error_type) == (
        State.SUCCESS,
        "other",
        None,
        None,
    )


def test_a_call_by_name_and_one_that_is_published_run(shop: Shop) -> None:
    shop.app.send_task("note", [1], task_id="mine")
    run_until_idle(shop.app)
    caller = CloudQ("caller", broker=shop.app.conf.broker, backend=shop.app.conf.backend)
    second = caller.send_task("note", [2], task_id="mine")
    run_until_idle(shop.app)
    assert second.get(timeout=0) == 2
    caller.close()
    [third] = shop.app.publish([shop.note.options(task_id="mine").prepare(3)])
    run_until_idle(shop.app)
    assert shop.ran == [1, 2, 3]
    assert third.get(timeout=0) == 3


def test_the_end_of_an_earlier_call_is_no_answer(shop: Shop) -> None:
    shop.note.apply_async((1,), task_id="mine")
    run_until_idle(shop.app)
    second = shop.note.apply_async((2,), task_id="mine")
    assert (second.state, second.ready()) == ("PENDING", False)
    with pytest.raises(ResultTimeout):
        second.get(timeout=0)
    run_until_idle(shop.app)
    assert second.get(timeout=0) == 2


def test_neither_is_it_where_it_is_awaited(shop: Shop) -> None:
    shop.note.apply_async((1,), task_id="mine")
    run_until_idle(shop.app)
    second = shop.note.apply_async((2,), task_id="mine")

    async def value() -> Any:
        return await second

    async def wait() -> Any:
        waiting = asyncio.create_task(value())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        await asyncio.to_thread(run_until_idle, shop.app)
        return await asyncio.wait_for(waiting, 10)

    assert asyncio.run(wait()) == 2


def test_a_redelivered_call_that_has_ended_is_acked_unrun(shop: Shop) -> None:
    first = shop.sent(shop.note, "mine", 1)
    shop.deliver(first, attempts=1)
    [(_, settlement)] = shop.deliver(first)
    assert settlement.reason == "already done"
    assert shop.ran == [1]


def test_a_redelivered_older_call_does_not_overwrite_a_newer_one(shop: Shop) -> None:
    first, second = shop.sent(shop.note, "mine", 1), shop.sent(shop.note, "mine", 2)
    shop.deliver(second, attempts=1)
    shop.deliver(first)
    assert shop.record("mine").value == "2"
    shop.deliver(first, attempts=1)  # late, and for the first time
    assert shop.record("mine").value == "2"
    assert shop.ran == [2, 1, 1]  # it was never known to have ended, so it is not dropped


def test_a_redelivered_newer_call_overwrites_an_older_one(shop: Shop) -> None:
    first, second = shop.sent(shop.again, "mine", 1), shop.sent(shop.note, "mine", 2)
    shop.deliver(first, attempts=1)
    run_until_idle(shop.app)  # with two retries, whose tokens are larger
    assert shop.record("mine").value == "1"
    shop.deliver(second, attempts=3)
    assert shop.record("mine").value == "2"
    assert shop.ran == [(1, 0), (1, 1), (1, 2), 2]
    [(_, settlement)] = shop.deliver(second, attempts=4)
    assert settlement.reason == "already done"


def test_retries_belong_to_their_call(shop: Shop) -> None:
    for number in (1, 2):
        result = shop.again.apply_async((number,), task_id="mine")
        run_until_idle(shop.app)
        assert result.get(timeout=0) == number
    assert shop.ran == [(n, retry) for n in (1, 2) for retry in range(3)]


def test_steps_and_progress_are_those_of_the_call(shop: Shop) -> None:
    for number in (1, 2):
        shop.steps.apply_async((number,), task_id="mine")
        run_until_idle(shop.app)
    assert shop.ran == [1, 2]


def test_a_dead_letter_that_is_sent_again_is_the_old_call(shop: Shop) -> None:
    body_ = shop.sent(shop.note, "mine", 1)
    message = body.decode(body_, limit=10_000)
    assert message.call is not None
    assert body.decode(body.encode(message), limit=10_000).call == message.call


def test_a_second_call_can_be_revoked(shop: Shop) -> None:
    shop.note.apply_async((1,), task_id="mine")
    run_until_idle(shop.app)
    second = shop.note.apply_async((2,), task_id="mine")
    assert second.revoke()
    run_until_idle(shop.app)
    assert shop.ran == [1]
    with pytest.raises(TaskRevoked):
        second.get(timeout=0)
    third = shop.note.apply_async((3,), task_id="mine")
    run_until_idle(shop.app)
    assert (third.get(timeout=0), shop.ran) == (3, [1, 3])


def test_one_that_is_revoked_by_its_id_does_not_run(shop: Shop) -> None:
    result = shop.note.apply_async((1,), task_id="mine")
    assert shop.app.AsyncResult("mine").revoke()
    run_until_idle(shop.app)
    assert (shop.ran, result.state) == ([], "REVOKED")


def test_a_chain_of_given_ids_runs_again(shop: Shop) -> None:
    for start in (1, 2):
        steps = chain(
            shop.note.s(start).set(task_id="one"),
            shop.other.s().set(task_id="two"),
            shop.note.s(),
        )
        result = steps.delay()
        run_until_idle(shop.app)
        assert result.get(timeout=0) == f"other {start}"
        assert shop.record("two").value == f'"other {start}"'


def test_later_steps_of_a_second_chain_that_fails_have_its_end(shop: Shop) -> None:
    good = chain(shop.note.s(1).set(task_id="one"), shop.note.s().set(task_id="two"))
    good.delay()
    run_until_idle(shop.app)
    assert shop.record("two").state is State.SUCCESS
    bad = chain(shop.breaks.s(2).set(task_id="one"), shop.note.s().set(task_id="two")).delay()
    run_until_idle(shop.app)
    assert shop.record("two").state is State.FAILURE
    with pytest.raises(ValueError, match="broken"):
        bad.get(timeout=0)


def test_chords_and_groups_of_given_ids_run_again(shop: Shop) -> None:
    for turn in (1, 2):
        members = [shop.note.s(turn * n).set(task_id=f"member-{n}") for n in (1, 2)]
        joined = chord(members, shop.note.s().set(task_id="body")).delay()
        run_until_idle(shop.app)
        assert joined.get(timeout=0) == [turn, turn * 2]
        grouped = group(shop.note.s(turn).set(task_id=f"part-{n}") for n in (1, 2)).delay()
        run_until_idle(shop.app)
        assert grouped.get(timeout=0) == [turn, turn]


def test_callbacks_of_a_second_failure_run(shop: Shop) -> None:
    for _ in (1, 2):
        shop.breaks.apply_async(("main",), task_id="mine", link_error=shop.other.s())
        run_until_idle(shop.app)
    assert shop.ran == ["main", "mine", "main", "mine"]


def test_a_record_without_a_mark_is_of_an_earlier_call(shop: Shop) -> None:
    backend = shop.app.runtime.backend
    assert backend is not None
    backend.store([Record(id="mine", state=State.SUCCESS, value="1", finished_at=1.0)])
    result = shop.note.apply_async((2,), task_id="mine")
    assert result.state == "PENDING"
    run_until_idle(shop.app)
    assert result.get(timeout=0) == 2


def test_a_record_that_an_older_worker_wrote_is_the_answer(shop: Shop) -> None:
    result = shop.note.apply_async((2,), task_id="mine")
    backend = shop.app.runtime.backend
    assert backend is not None
    ended = backend.clock() + 1
    backend.store([Record(id="mine", state=State.SUCCESS, value="5", finished_at=ended)])
    assert result.get(timeout=0) == 5


def test_a_message_without_a_mark_is_acked_where_its_record_has_ended(shop: Shop) -> None:
    old = body.encode(
        body.decode(shop.sent(shop.note, "mine", 1), limit=10_000).model_copy(update={"call": None})
    )
    shop.deliver(old, attempts=1)
    [(_, settlement)] = shop.deliver(old, attempts=1)
    assert (settlement.reason, shop.ran) == ("already done", [1])


def test_ids_that_nobody_gave_have_no_mark(shop: Shop) -> None:
    message = shop.app.publisher.message_of(shop.note.prepare(1))
    assert message.call is None
    result = shop.note.delay(1)
    run_until_idle(shop.app)
    assert shop.record(result.id).call is None
    assert "call" not in shop.app.runtime.backend.get([key(result.id)])[key(result.id)].fields  # type: ignore[union-attr]


def test_two_runs_at_once_keep_their_records_apart() -> None:
    app = CloudQ("at-once", broker="memory://at-once", task_track_started=True)
    with in_memory(app):

        @app.task
        def slow(what: int) -> int:
            return what

        with worker(app, threads=4) as running:
            results = [slow.apply_async((n,), task_id="mine") for n in range(20)]
            running.run_until_idle()
        assert results[-1].get(timeout=0) == 19
        assert not running.failures


def test_an_equal_call_does_not_take_the_value_of_an_earlier_call_of_the_id(shop: Shop) -> None:
    """The claim of a call that runs is not judged by what was recorded of its id before."""
    backend = shop.app.runtime.backend
    assert backend is not None
    shop.note.apply_async(("old",), task_id="mine")
    run_until_idle(shop.app)
    at = Key("once#note#charge")
    running = idempotency.Claimant(owner="mine", fence=1, delivery="a", call="f" * 22)
    assert isinstance(idempotency.claim(backend, at, running, 60), idempotency.Claimed)
    equal = idempotency.Claimant(owner="other", fence=1, delivery="b")
    assert isinstance(idempotency.claim(backend, at, equal, 60), idempotency.Busy)
    again = idempotency.Claimant(owner="mine", fence=9, delivery="c", call="e" * 22)
    assert isinstance(idempotency.claim(backend, at, again, 60), idempotency.Busy)
    later = idempotency.Claimant(owner="mine", fence=2, delivery="d", call="f" * 22)
    assert isinstance(idempotency.claim(backend, at, later, 60), idempotency.Claimed)


def test_a_unique_call_is_not_let_go_by_an_earlier_call_of_its_id(shop: Shop) -> None:
    @shop.app.task(name="single", unique=True)
    def single(what: Any = None) -> None:
        shop.ran.append(what)

    shop.note.apply_async(("old",), task_id="mine")
    run_until_idle(shop.app)
    single.apply_async((), task_id="mine")
    assert single.delay().id == "mine"
    run_until_idle(shop.app)
    assert shop.ran == ["old", None]


def test_an_older_call_that_expires_does_not_overwrite_a_newer_one(shop: Shop) -> None:
    first = body.decode(shop.sent(shop.note, "mine", 1), limit=10_000)
    second = shop.note.apply_async((2,), task_id="mine")
    run_until_idle(shop.app)
    late = first.model_copy(update={"expires": 1.0})
    [(_, settlement)] = shop.deliver(body.encode(late), attempts=1)
    assert settlement.state is State.REVOKED
    assert second.get(timeout=0) == 2


def test_an_older_call_does_not_take_the_record_of_one_that_runs(shop: Shop) -> None:
    backend = shop.app.runtime.backend
    assert backend is not None
    runs = Record(id="mine", state=State.STARTED, call="b", fence=1)
    assert backend.advance(runs) is None
    for state in (State.STARTED, State.SUCCESS):
        standing = backend.advance(Record(id="mine", state=state, call="a", fence=9))
        assert standing is not None
        assert standing.call == "b"
    assert shop.record("mine") == runs
    later = Record(id="mine", state=State.RETRY, call="c", fence=0)
    assert backend.advance(later) is None
    assert shop.record("mine") == later


def test_who_waits_is_not_woken_by_the_end_of_an_earlier_call() -> None:
    ended = Record(id="mine", state=State.SUCCESS, call="a")
    looker = Looker(lambda _, own: {"mine": ended}, lambda: None)

    async def wait() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(looker.ended({"mine": "b"}, Pauses(0.0)), 0.3)
        for call in ("a", "0", None):
            assert await asyncio.wait_for(looker.ended({"mine": call}, Pauses(0.0)), 10) == {
                "mine": ended
            }

    asyncio.run(wait())


# ---- ids of calls of a bundle

LARGE = "x" * 150_000
"""More than may lie with the ends of others in one item."""


@pytest.mark.parametrize("first", [1, LARGE])
@pytest.mark.parametrize("second", [2, LARGE[1:]])
def test_a_later_call_has_the_id_of_one_in_a_bundle_for_its_own(
    shop: Shop, first: Any, second: Any
) -> None:
    results = shop.app.publish([shop.note.prepare(what) for what in (first, 0)], bundle=2)
    run_until_idle(shop.app)
    id = results[0].id
    assert [shop.app.AsyncResult(each.id).get(timeout=0) for each in results] == [first, 0]
    for what in (second, 3, LARGE[2:]):
        later = shop.note.apply_async((what,), task_id=id)
        assert later.state is State.PENDING
        run_until_idle(shop.app)
        assert later.get(timeout=1) == what
        assert shop.app.AsyncResult(id).get(timeout=1) == what
        assert shop.record(id).value is not None
        assert shop.app.AsyncResult(results[1].id).get(timeout=0) == 0
    assert shop.ran == [first, 0, second, 3, LARGE[2:]]


@pytest.mark.parametrize("first", [1, LARGE])
def test_a_later_call_of_one_in_a_bundle_is_revoked_and_forgotten_by_itself(
    shop: Shop, first: Any
) -> None:
    results = shop.app.publish([shop.note.prepare(what) for what in (first, 0)], bundle=2)
    run_until_idle(shop.app)
    id = results[0].id
    later = shop.note.apply_async((2,), task_id=id)
    assert later.revoke()
    run_until_idle(shop.app)
    assert shop.ran == [first, 0]
    assert later.state is shop.app.AsyncResult(id).state is State.REVOKED
    assert not shop.app.AsyncResult(id).revoke()
    after = shop.note.apply_async((3,), task_id=id)
    run_until_idle(shop.app)
    assert after.get(timeout=1) == 3
    after.forget()
    assert after.state is shop.app.AsyncResult(id).state is State.PENDING
    last = shop.again.apply_async((4,), task_id=id)
    run_until_idle(shop.app)
    assert last.get(timeout=1) == shop.app.AsyncResult(id).get(timeout=1) == 4


def test_a_later_call_runs_where_the_first_was_revoked_in_its_bundle(shop: Shop) -> None:
    revoked, _ = shop.app.publish([shop.steps.prepare(what) for what in range(2)], bundle=2)
    revoked.revoke()
    run_until_idle(shop.app)
    for task in (shop.steps, shop.again):  # with states before the end, and tries
        later = task.apply_async((5,), task_id=revoked.id)
        run_until_idle(shop.app)
        assert later.get(timeout=1) == shop.app.AsyncResult(revoked.id).get(timeout=1) == 5
    body_ = shop.sent(shop.note, revoked.id, 6)
    shop.deliver(body_)  # it has come before, and ended its process
    assert shop.record(revoked.id).value == "6"


def test_a_revocation_in_a_bundle_goes_by_the_id_until_an_end_comes(shop: Shop) -> None:
    first, _ = shop.app.publish([shop.note.prepare(what) for what in range(2)], bundle=2)
    bundle = shop.app.broker.receive("default", count=1, wait=0.0, lease=30.0)
    first.revoke()
    second = shop.note.apply_async((2,), task_id=first.id)
    run_until_idle(shop.app)
    assert second.state is State.REVOKED
    third = shop.again.apply_async((3,), task_id=first.id)
    run_until_idle(shop.app)
    assert third.get(timeout=1) == 3
    shop.app.broker.release(bundle, after=0.0)
    run_until_idle(shop.app)  # what comes now is the oldest call
    assert shop.app.AsyncResult(first.id).get(timeout=1) == 3


def test_later_calls_of_a_bundle_may_share_one_too(shop: Shop) -> None:
    firsts = shop.app.publish([shop.note.prepare(what) for what in range(3)], bundle=3)
    firsts[2].revoke()
    run_until_idle(shop.app)
    calls = [
        shop.note.options(task_id=first.id).prepare(10 + what) for what, first in enumerate(firsts)
    ]
    seconds = shop.app.publish(calls, bundle=3)
    assert seconds[1].revoke()
    run_until_idle(shop.app)
    assert shop.ran == [0, 1, 10, 12]
    ends = [State.SUCCESS, State.REVOKED, State.SUCCESS]
    assert [each.state for each in seconds] == ends
    assert [shop.app.AsyncResult(each.id).state for each in firsts] == ends


def test_a_caller_is_told_the_end_of_the_later_call_though_it_read_the_first_s() -> None:
    """An end that was read a moment ago is given again, but not in place of a later one."""
    with in_memory(CloudQ("given", broker="memory://")) as app:

        @app.task
        def note(what: int) -> int:
            return what

        results = app.publish([note.prepare(what) for what in range(2)], bundle=2)
        run_until_idle(app)
        id = results[0].id
        assert app.AsyncResult(id).get(timeout=0) == 0
        later = note.apply_async((7,), task_id=id)
        run_until_idle(app)
        assert app.AsyncResult(id).get(timeout=0) == 7
        assert later.get(timeout=0) == 7
