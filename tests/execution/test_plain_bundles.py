"""Bundles of plain calls: which they are, and that their calls end as any others do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from cloudq import CloudQ, Ignore, Reject, Task, signals
from cloudq.driver import Delivery, Item, Key, Outgoing
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Settlement
from cloudq.messages.bundle import write_bundle
from cloudq.messages.ids import bundled_id, new_bundle
from cloudq.messages.message import TaskMessage
from cloudq.messages.plain_calls import PlainCalls
from cloudq.results.bundle_item import Delivered, bundle_key, plain_part, read_item
from cloudq.results.record import Record, State
from tests.support.bench import Bench

HOST = "here"


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("plain", broker="memory://plain-bundles", default_retry_delay=0.0) as app:
        yield app


def work(n: int, *rest: int) -> int:
    return n + sum(rest)


def is_plain(app: CloudQ, calls: list[Any], **options: Any) -> bool:
    app.publish(calls, bundle=len(calls), **options)
    opened = app.executor(hostname=HOST).sort(
        app.broker.receive("default", count=1, wait=0.0, lease=60)
    )
    assert len(opened.plain) + bool(opened.jobs or opened.settled) == 1
    return bool(opened.plain)


def test_calls_with_nothing_of_their_own_are_plain(app: CloudQ) -> None:
    task = app.task(work)
    assert is_plain(app, [task.prepare(n) for n in range(3)])
    assert is_plain(app, [task.prepare(5) for _ in range(3)])
    assert is_plain(app, [task.prepare(n, *range(n)) for n in range(3)])


@pytest.mark.parametrize(
    "options",
    [
        {"rate_limit": "9/s"},
        {"concurrency": 3},
        {"idempotent": True},
        {"time_limit": 9.0},
        {"soft_time_limit": 9.0},
        {"track_started": True},
        {"ignore_result": True},
    ],
    ids=str,
)
def test_those_of_a_task_with_rules_are_not(app: CloudQ, options: dict[str, Any]) -> None:
    task = app.task(work, **options)
    assert not is_plain(app, [task.prepare(n) for n in range(3)])


@pytest.mark.parametrize(
    "options",
    [{"expires": 60}, {"time_limit": 9}, {"shadow": "other"}, {"headers": {"own": "x"}}],
    ids=str,
)
def test_those_with_options_of_their_own_are_not(app: CloudQ, options: dict[str, Any]) -> None:
    task = app.task(work)
    calls = [task.prepare(n) for n in range(2)]
    expected = "headers" in options  # those of users say nothing of how a call runs
    assert is_plain(app, [task.options(**options).prepare(9), *calls]) is False
    assert is_plain(app, [task.options(**options).prepare(n) for n in range(3)]) is expected


def test_those_of_several_tasks_and_those_that_come_again_are_not(app: CloudQ) -> None:
    one, other = app.task(work, name="one"), app.task(work, name="other")
    assert not is_plain(app, [one.prepare(1), other.prepare(2)])
    app.publish([one.prepare(n) for n in range(2)], bundle=2)
    executor = app.executor(hostname=HOST)
    [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=60)
    [plain] = executor.sort([delivery]).plain
    assert (plain.end.task, plain.end.state, plain.end.worker) == ("one", State.SUCCESS, HOST)
    assert plain.end.finished_at is None, "each has its own"
    assert not executor.sort([replace(delivery, attempts=2)]).plain


def test_those_of_an_ordered_group_from_another_queue_and_of_no_task_are_not(app: CloudQ) -> None:
    task = app.task(work)
    app.publish([task.prepare(n) for n in range(2)], bundle=2)
    executor = app.executor(hostname=HOST)
    [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=60)
    assert executor.sort([delivery]).plain
    for changed in ({"group": "g"}, {"queue": "other"}):
        assert not executor.sort([replace(delivery, **changed)]).plain
    with CloudQ("other", broker="memory://plain-bundles") as other:
        assert not other.executor(hostname=HOST).sort([delivery]).plain


def test_those_of_which_something_is_recorded_are_not(app: CloudQ) -> None:
    task = app.task(work)
    results = app.publish([task.prepare(n) for n in range(3)], bundle=3)
    results[1].revoke()
    executor = app.executor(hostname=HOST)
    opened = executor.sort(app.broker.receive("default", count=1, wait=0.0, lease=60))
    assert not opened.plain
    assert (len(opened.jobs), [end.state for _, end in opened.settled]) == (2, [State.REVOKED])


def test_none_are_while_a_receiver_waits_for_each(app: CloudQ) -> None:
    task = app.task(work)

    def heard(*_: object, **__: object) -> None: ...

    signals.task_received.connect(heard)
    try:
        assert not is_plain(app, [task.prepare(n) for n in range(3)])
    finally:
        signals.task_received.disconnect(heard)


def received(bench: Bench) -> list[Delivery]:
    return list(bench.broker.receive("default", count=10, wait=0.0, lease=60))


def bundled(bench: Bench, **options: Any) -> Delivery:
    task = bench.task(work, name=f"work {options}", **options)
    bench.publish([task.prepare(n) for n in range(3)], bundle=3)
    [delivery] = received(bench)
    return delivery


def looked_up(bench: Bench, deliveries: list[Delivery]) -> tuple[list[str], int]:
    """Return which bundles are set aside as plain, and how many reads that and the rest took."""
    bench.store.calls.clear()
    opened = bench.executor(hostname=HOST).sort(deliveries)
    return [each.parcel.whole.id for each in opened.plain], bench.store.calls["get"]


@pytest.mark.parametrize("billed", [True, False])
def test_where_reads_are_billed_there_is_none_for_plain_ones_beside_others(billed: bool) -> None:
    with Bench() as bench:
        bench.store.limits = replace(bench.store.limits, billed=billed)
        one, other = bundled(bench), bundled(bench)
        ruled = bundled(bench, time_limit=9.0)
        bench.task(work, name="alone").delay(1)
        [alone] = received(bench)
        assert looked_up(bench, [one, other]) == ([one.id, other.id], 1)
        assert looked_up(bench, [one, alone]) == (([], 2) if billed else ([one.id], 2))
        assert looked_up(bench, [one, ruled]) == (([], 1) if billed else ([one.id], 2))


def test_what_is_recorded_of_them_is_looked_up_at_the_lower_price() -> None:
    asked: list[bool] = []
    with Bench() as bench:
        get = bench.store.get

        def noted(keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
            asked.append(consistent)
            return get(keys, consistent=consistent)

        bench.store.get = noted  # type: ignore[method-assign]
        assert looked_up(bench, [one := bundled(bench)]) == ([one.id], 1)
    assert asked == [False]


def test_a_single_call_in_a_bundle_is_not_plain(app: CloudQ) -> None:
    id, task = bundled_id(new_bundle(), 0), app.task(work)
    body = write_bundle([TaskMessage(id=id, task=task.name, args=[1], queue="default")])
    app.broker.driver.send("default", [Outgoing(id="m", body=body)])
    deliveries = app.broker.receive("default", count=1, wait=0.0, lease=60)
    assert not app.executor(hostname=HOST).sort(deliveries).plain


# ---- how they end


def succeed(self: Task[..., Any], n: int) -> int:
    return n


def give_nothing(self: Task[..., Any], n: int) -> None: ...


def fail(self: Task[..., Any], n: int) -> None:
    raise ValueError(n)


def exit_(self: Task[..., Any], n: int) -> None:
    raise SystemExit(3)


def retry(self: Task[..., Any], n: int) -> None:
    raise self.retry(exc=KeyError(n))


def retry_oddly(self: Task[..., Any], n: int) -> None:
    raise self.retry(countdown="soon")  # type: ignore[arg-type]


def retry_in_silence(self: Task[..., Any], n: int) -> int:
    self.retry(throw=False)
    return n


def ignore(self: Task[..., Any], n: int) -> None:
    raise Ignore


def reject(self: Task[..., Any], n: int) -> None:
    raise Reject("no", requeue=bool(n))


def give_what_cannot_be_written(self: Task[..., Any], n: int) -> object:
    return object()


def call_others(self: Task[..., Any], n: int) -> int:
    self.app.tasks["other"].delay(n)
    return n


def replace_itself(self: Task[..., Any], n: int) -> None:
    self.replace(self.app.tasks["other"].s(n))


def take_two(self: Task[..., Any], n: int, m: int) -> int:
    return n + m


ENDS: list[Callable[..., Any]] = [
    *(succeed, give_nothing, fail, exit_, retry, retry_oddly, retry_in_silence, ignore, reject),
    *(give_what_cannot_be_written, call_others, replace_itself, take_two),
]


def told(settlement: Settlement) -> Settlement:
    """Leave out of an outcome what differs from run to run."""
    record = settlement.record
    if record is not None:
        assert record.finished_at is None or abs(record.finished_at - time.time()) < 60
        children = record.children and "some"
        record = replace(
            record, started_at=None, finished_at=None, traceback=None, children=children
        )
    resend = settlement.resend and settlement.resend.model_copy(update={"not_before": None})
    starts = None if settlement.starts is None else replace(settlement.starts, messages=[])
    return replace(settlement, record=record, resend=resend, error=None, starts=starts)


def as_settlement(job: Job, outcome: object, expected: Settlement) -> Settlement:
    if isinstance(outcome, Settlement):
        return outcome
    assert isinstance(outcome, tuple)
    value, started, finished = outcome
    assert started <= finished
    ended = Record(
        id=job.message.id,
        state=State.SUCCESS,
        task=job.message.task,
        value=value,
        fence=1,
        queue="default",
        worker=HOST,
        started_at=started,
        finished_at=finished,
    )
    return replace(expected, record=ended)


@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("end", ENDS, ids=[each.__name__ for each in ENDS])
def test_a_plain_call_ends_as_any_other(
    app: CloudQ, end: Callable[..., Any], watched: bool
) -> None:
    app.task(work, name="other")
    task = app.task(end, name="work", bind=True, max_retries=2)
    seen: list[object] = []

    def heard(sender: object, *, state: str, **_: object) -> None:
        seen.append(state)

    delivery = Delivery(
        queue="default", id="m", body=b"", receipt=1, attempts=1, lease=60.0, group=None, sent_at=0
    )
    fields = {"task": task.name, "queue": "default", "sent_at": 1.0}
    calls = PlainCalls(new_bundle(), fields, [(0, [1], None), (3, None, {"n": 2})])
    executor = app.executor(hostname=HOST)
    run = executor.plain_run(calls, delivery)
    if watched:
        signals.task_postrun.connect(heard)
    try:
        for index in (0, 1):
            job = Job(delivery=delivery, message=calls[index])
            before = len(seen)
            outcome = run.run(index)
            between = len(seen)
            expected = executor.run(job)
            assert seen[before:between] == seen[between:]
            is_plain = expected.state is State.SUCCESS and end is not call_others
            assert isinstance(outcome, Settlement) != is_plain
            assert told(as_settlement(job, outcome, expected)) == told(expected)
    finally:
        signals.task_postrun.disconnect(heard)
    assert bool(seen) == watched


class Whole(BaseModel):
    n: int


def give_what_does_not_fit(n: int) -> Whole:
    return {"n": n or "none"}  # type: ignore[return-value]


def test_values_of_a_task_on_many_items_are_checked_by_its_hint(app: CloudQ) -> None:
    """A group of chunks is a bundle of such calls."""
    app.task(give_what_does_not_fit, name="work")
    fields = {"task": "cloudq.starmap", "queue": "default", "sent_at": 1.0}
    calls = PlainCalls(
        new_bundle(), fields, [(0, ["work", [[1], [2]]], None), (1, ["work", [[1], [0]]], None)]
    )
    delivery = Delivery(
        queue="default", id="m", body=b"", receipt=1, attempts=1, lease=60.0, group=None, sent_at=0
    )
    run = app.executor(hostname=HOST).plain_run(calls, delivery)
    assert isinstance(run.run(0), tuple)
    failed = run.run(1)
    assert isinstance(failed, Settlement)
    assert (failed.state, "for item 2 does not fit" in failed.reason) == (State.FAILURE, True)


# ---- how their ends are recorded

SHARED = Record(
    id="x", state=State.SUCCESS, task="t", fence=1, queue="q", worker=HOST, parent="p" * 32
)
DELIVERED = Delivered("m", 1)


def test_their_ends_are_read_as_those_of_others() -> None:
    name = new_bundle()
    ends = [(0, "1", 5.123456, 6.5), (7, None, 5.0, 6.123456), (3, '"text"', 5.0, 6.0)]
    found = read_item(
        name, Item(key=bundle_key(name), fields={"p0": plain_part(SHARED, ends)}, expires=None)
    )
    assert found.records == {
        number: replace(
            SHARED,
            id=f"{name}{number:04x}",
            value=value,
            started_at=round(began, 3),
            finished_at=round(ended, 3),
        )
        for number, value, began, ended in ends
    }


def test_ends_that_are_not_the_first_or_are_large_are_left_to_others(app: CloudQ) -> None:
    backend = app.backend
    assert backend is not None
    name = new_bundle()
    large = (9, "x" * backend.driver.limits.item, 1.0, 2.0)
    assert backend.bundles.add_plain(name, SHARED, [large], DELIVERED) is None
    assert backend.bundles.add_plain(name, SHARED, [(0, "1", 1.0, 2.0)], DELIVERED) == set()
    assert backend.bundles.add_plain(name, SHARED, [(1, "2", 1.0, 2.0)], DELIVERED) is None
    assert backend.bundles.read([name])[name].records.keys() == {0}
