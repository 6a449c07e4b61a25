"""A call that was revoked runs no more, whatever is recorded of it until its next try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from cloudq import CloudQ, State, Task, chain
from cloudq.execution.settlement import Action
from cloudq.messages.ids import place_of
from cloudq.results.record import Record, fence, key
from cloudq.testing import VirtualClock, worker
from cloudq.testing.waiting import PATIENCE
from tests.support.bench import Bench

DAY = 86_400.0


def retried(self: Task[..., Any]) -> None:
    raise self.retry(countdown=5)


def raised(self: Task[..., Any]) -> None:
    raise OSError


def told(self: Task[..., Any]) -> None:
    self.update_state(state="HALF WAY")
    raise self.retry(countdown=5)


def saved(self: Task[..., Any]) -> None:
    self.checkpoint(1)
    raise self.retry(countdown=5)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


@pytest.fixture(params=[True, False], ids=["tracked", "untracked"])
def app(request: pytest.FixtureRequest) -> CloudQ:
    url = f"memory://{uuid4()}"
    return CloudQ("revoked", broker=url, backend=url, task_track_started=request.param)


@pytest.mark.parametrize("way", [retried, raised, told, saved])
@pytest.mark.parametrize("bundle", [None, 2])
@pytest.mark.parametrize("queue", ["default", "kept.fifo"])
def test_a_call_that_is_revoked_as_it_runs_is_not_tried_again(
    app: CloudQ, way: Callable[[Any], None], bundle: int | None, queue: str
) -> None:
    ran: list[int] = []

    @app.task(bind=True, autoretry_for=[OSError], default_retry_delay=5, queue=queue)
    def work(self: Task[..., Any], n: int) -> None:
        ran.append(n)
        if n == 1:
            assert app.AsyncResult(self.request.id).revoke()
            way(self)

    clock = VirtualClock()
    with worker(app, clock=clock):
        call = work.options(group_key="kept" if queue == "kept.fifo" else None)
        results = app.publish([call.prepare(n) for n in range(2)], bundle=bundle)
        clock.advance(60)
        assert ran == [0, 1]
        assert [result.state for result in results] == [State.SUCCESS, State.REVOKED]


def test_the_first_step_of_a_revoked_chain_is_not_tried_again(app: CloudQ) -> None:
    ran: list[str] = []

    @app.task(autoretry_for=[OSError], default_retry_delay=5)
    def first() -> None:
        ran.append("first")
        line.revoke()
        raise OSError

    @app.task
    def second() -> None:
        ran.append("second")

    clock = VirtualClock()
    with worker(app, clock=clock):
        line = chain(first.si(), second.si()).delay()
        clock.advance(60)
        assert ran == ["first"]
        assert line.state is line.parent.state is State.REVOKED


@pytest.mark.parametrize("given", [None, "mine"])
def test_a_retry_whose_copy_has_started_is_acked_and_leaves_its_record(given: str | None) -> None:
    """The copy is sent before the retry is recorded, and another worker may be fast."""
    with Bench(task_track_started=True) as bench:

        @bench.task(bind=True)
        def work(self: Task[..., Any]) -> None:
            raise self.retry(countdown=0)

        result = work.apply_async(task_id=given)
        delivery = bench.one()
        settlement = bench.settle(delivery)
        started = Record(id=result.id, state=State.STARTED, fence=fence(1, 1), call=result.call)
        assert bench.results.advance(started) is None
        assert bench.finish(delivery, settlement).action is Action.ACK
        assert bench.state(result) is State.STARTED
        assert bench.left() == 1


# ---- how long a revocation is remembered


def test_it_is_remembered_for_a_month_though_others_of_its_bundle_end(bench: Bench) -> None:
    @bench.task
    def work(n: int) -> None: ...

    late, *others = bench.publish([work.prepare(n) for n in range(4)], bundle=4)
    bundles = bench.results.bundles
    place = place_of(late.id)
    assert place is not None
    late.revoke()
    kept = bench.clock() + 30 * DAY
    for number, other in enumerate(others, 1):
        bundles.add(place.bundle, {number: Record(id=other.id, state=State.SUCCESS)})
        other.revoke()
    bench.work()  # it claims nothing, as the first delivery
    assert life(bench, f"bundle#{place.bundle}") > kept


def test_it_is_remembered_though_the_bundle_is_delivered_again(bench: Bench) -> None:
    @bench.task
    def work(n: int) -> None: ...

    late, other = bench.publish([work.prepare(n) for n in range(2)], bundle=2)
    place = place_of(late.id)
    assert place is not None
    bench.one()
    late.revoke()
    bench.lose_leases()
    bench.runner.open([bench.one()])
    assert life(bench, f"bundle#{place.bundle}") > bench.clock() + 30 * DAY
    assert bench.results.bundles.add(place.bundle, {1: Record(id=other.id, state=State.SUCCESS)})
    assert life(bench, f"bundle#{place.bundle}") > bench.clock() + 30 * DAY


def test_a_later_try_in_a_bundle_is_revoked_after_days() -> None:
    url = f"memory://{uuid4()}"
    app = CloudQ("revoked", broker=url, backend=url)
    ran: list[tuple[str, int]] = []

    @app.task(bind=True)
    def work(self: Task[..., Any], name: str, after: float) -> None:
        ran.append((name, self.request.retries))
        if not self.request.retries:
            raise self.retry(countdown=after)

    clock = VirtualClock()
    with worker(app, clock=clock):
        late, _ = app.publish([work.prepare("A", 3 * DAY), work.prepare("B", 900.0)], bundle=2)
        clock.advance(5)
        assert late.revoke()
        for _ in range(8):
            clock.advance(DAY / 2)
        assert ran == [("A", 0), ("B", 0), ("B", 1)]


def test_what_a_task_records_after_it_was_revoked_does_not_make_that_forgotten(
    bench: Bench,
) -> None:
    bench.results.revoke("mine")
    for state in (State.STARTED, State.RETRY):
        assert bench.results.advance(Record(id="mine", state=state, fence=1)) is None
        found = bench.results.record("mine")
        assert found is not None
        assert (found.state, found.revoked) == (state, True)
        assert life(bench, "task#mine") > bench.clock() + 30 * DAY


def test_to_revoke_again_does_not_make_it_shorter(bench: Bench) -> None:
    far = bench.clock() + 100 * DAY
    assert bench.results.revoke("mine", due=far)
    assert bench.results.revoke("mine")
    assert life(bench, "task#mine") > far


def test_no_request_is_added_but_where_there_is_a_mark(bench: Bench) -> None:
    bench.results.advance(Record(id="mine", state=State.STARTED))
    assert bench.store.calls == {"update": 1}
    bench.results.revoke("mine")
    assert bench.store.calls == {"update": 2}
    bench.results.advance(Record(id="mine", state=State.RETRY))
    assert bench.store.calls == {"update": 4}
    bench.results.advance(Record(id="mine", state=State.SUCCESS))
    assert bench.store.calls == {"update": 5}


def test_a_later_call_that_starts_as_its_id_is_revoked_stays_revoked(bench: Bench) -> None:
    bench.results.advance(Record(id="mine", state=State.RETRY, fence=fence(3, 0), call="1"))
    bench.results.revoke("mine")
    assert bench.results.advance(Record(id="mine", state=State.STARTED, fence=1, call="2")) is None
    found = bench.results.record("mine")
    assert found is not None
    assert (found.call, found.revoked) == ("2", True)
    assert life(bench, "task#mine") > bench.clock() + 30 * DAY
    assert bench.results.advance(Record(id="mine", state=State.REVOKED, fence=1, call="2")) is None
    assert bench.results.advance(Record(id="mine", state=State.STARTED, fence=1, call="3")) is None
    found = bench.results.record("mine")
    assert found is not None
    assert not found.revoked


def test_a_retry_in_place_after_a_replacement_is_counted(app: CloudQ) -> None:
    """Its record counts how often the task was sent, as that of its start does."""
    runs: list[int] = []

    def inner(self: Task[..., Any]) -> None:
        runs.append(self.request.retries)
        raise self.retry(countdown=0)

    def outer(self: Task[..., Any]) -> None:
        raise self.replace(again.s())

    again: Any = app.task(name="inner", bind=True, max_retries=2, queue="kept.fifo")(inner)
    first: Any = app.task(name="outer", bind=True, queue="kept.fifo")(outer)
    with worker(app):
        result = first.delay()
        result.get(timeout=PATIENCE, propagate=False)
        assert (runs, result.state) == ([0, 1, 2], State.FAILURE)


def test_the_retry_of_an_earlier_call_leaves_the_record_of_a_later_one(bench: Bench) -> None:
    bench.results.advance(Record(id="mine", state=State.STARTED, fence=1, call="2"))
    refused = bench.results.advance(Record(id="mine", state=State.RETRY, fence=fence(1, 0)))
    assert refused is not None
    bench.results.advance(Record(id="mine", state=State.SUCCESS, fence=1, call="2"))
    found = bench.results.record("mine")
    assert found is not None
    assert (found.state, found.call) == (State.SUCCESS, "2")


def life(bench: Bench, partition: str) -> float:
    """Return when an item expires."""
    at = key("")._replace(partition=partition)
    expires = bench.store.get([at], consistent=True)[at].expires
    assert expires is not None
    return expires
