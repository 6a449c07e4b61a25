"""Each field of a settlement, as the outcome of a delivery has it: what a commit then goes by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, InvalidArguments, Reject, State, chain
from cloudq.canvas.slots import MemberResult, Slot
from cloudq.driver import Delivery, Key
from cloudq.driver.log import Log
from cloudq.errors import UnknownTask
from cloudq.execution.commit import commit
from cloudq.execution.consume import Consumer
from cloudq.execution.idempotency import completed
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import (
    DELIVERED,
    Action,
    FailedSteps,
    Settlement,
    copy_of,
    delivered_before,
    happened,
    unrecorded,
)
from cloudq.execution.spoiled import replace_record, spoiled
from cloudq.execution.unstarted import already_buried, already_done
from cloudq.messages.fields import MOST
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record, fence
from cloudq.tasks.checkpoints import Superseded
from cloudq.tasks.limits.unique import unique_key
from tests.support.bench import Bench

KEY = f"messages/2026-01-01/{32 * 'a'}"
STORED = {"key": KEY, "size": 1, "sha256": "0" * 64, "as": "json"}
CLAIM = {"$blob": STORED}


def message(**fields: Any) -> TaskMessage:
    given: dict[str, Any] = {"id": "x", "task": "t", "queue": "default", "sent_at": 1.0}
    return TaskMessage(**given | fields)


def job(given: TaskMessage, *, attempts: int = 1, **fields: Any) -> Job:
    delivery = Delivery(
        queue="default", id="m", body=b"", receipt=(1, 1), attempts=attempts, lease=60.0
    )
    return Job(delivery=delivery, message=given, **fields)


@pytest.fixture
def outcomes(app: Bench) -> Outcomes:
    app.task(name="t")(lambda: None)
    return app.runner._outcomes  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("count", ["retries", "replaced", "continued"])
def test_each_further_message_of_a_call_has_a_larger_fence_than_any_before(count: str) -> None:
    last = job(message(), attempts=10_000)
    assert job(message(**{count: 1})).fence > last.fence

    both = {"retries": 1, "replaced": 1, "continued": 1}
    assert job(message(**both)).fence > job(message(**{**both, count: 0}), attempts=10_000).fence


@pytest.mark.parametrize("count", ["retries", "replaced", "continued", "waits"])
def test_a_count_ends_where_messages_end_theirs(count: str) -> None:
    assert getattr(copy_of(message(), **{count: MOST}), count) == MOST
    with pytest.raises(InvalidArguments, match=count):
        copy_of(message(), **{count: MOST + 1})


def test_only_a_number_of_deliveries_is_taken_for_one() -> None:
    for text, number in (("7", 7), (9 * "9", 999_999_999), (10 * "9", 0), ("-1", 0), ("x", 0)):
        assert delivered_before(message(headers={DELIVERED: text})) == number


def test_what_ends_without_a_record_ends_its_claim_and_needs_no_payload() -> None:
    given = message(unique_key="u", args=[CLAIM])
    acked = unrecorded(given, Action.ACK)
    assert acked.unique_claim == unique_key(given) is not None
    assert [*acked.frees] == [KEY]
    buried = unrecorded(given, Action.DEAD_LETTER)  # it may be sent again from there
    assert (buried.unique_claim, [*buried.frees]) == (unique_key(given), [])
    for settled in (
        unrecorded(given, Action.ACK, resend=copy_of(given, retries=1)),
        unrecorded(given, Action.RELEASE),
        unrecorded(given, Action.NOTHING),
    ):
        assert (settled.unique_claim, [*settled.frees]) == (None, [])
    assert unrecorded(message(), Action.ACK).unique_claim is None


def test_the_records_of_steps_that_never_run_have_the_end_of_the_one_before_and_no_more() -> None:
    before = Record(
        id="x", state=State.FAILURE, error="no", value="1", children="[]", join="j", started_at=1.0
    )
    steps = FailedSteps(because=before, calls=[("a", "t.a")])
    assert steps.records([("b", "t.b")]) == [
        Record(id="a", state=State.FAILURE, error="no", task="t.a"),
        Record(id="b", state=State.FAILURE, error="no", task="t.b"),
    ]


def test_a_job_whose_settlement_cannot_be_made_ends_under_its_fence(outcomes: Outcomes) -> None:
    given = message(unique_key="u", shadow="shown")
    failed = outcomes.spoiled(job(given, fenced=True), ValueError("no"))
    assert failed.fenced
    assert failed.record is not None
    assert failed.record.dead_lettered
    assert failed.unique_claim == unique_key(given)
    assert (failed.task, failed.task_name) == ("shown", "t")
    assert not outcomes.spoiled(job(message()), ValueError("no")).fenced
    before = message(chain=[{"task": "t", "id": "y"}])
    steps = outcomes.spoiled(job(before), ValueError("no")).failed_steps
    assert steps is not None
    assert [*steps.calls] == [("y", "t")]


def test_what_cannot_be_run_is_recorded_in_the_queue_that_brought_it(outcomes: Outcomes) -> None:
    given = message(queue="elsewhere")
    failed = outcomes.unrunnable(job(given).delivery, given, UnknownTask("no task"))
    assert failed.record is not None
    assert failed.record.queue == "default"
    assert (failed.fenced, failed.action) == (True, Action.DEAD_LETTER)


def test_a_call_that_goes_on_is_a_message_of_the_same_id(outcomes: Outcomes) -> None:
    settled = outcomes.continued(job(message(waits=3)))
    assert settled.resend is not None
    assert (settled.action, settled.resend.id) == (Action.ACK, "x")
    assert (settled.resend.continued, settled.resend.waits) == (1, 0)
    assert (settled.task, settled.reason) == ("t", "goes on from its checkpoint")


def test_a_retry_goes_by_the_name_that_it_shows(outcomes: Outcomes) -> None:
    settled = outcomes.retry(job(message(shadow="shown")), ValueError("no"), 0.0)
    assert (settled.task, settled.task_name) == ("shown", "t")
    assert outcomes.retry(job(message()), ValueError("no"), 0.0).task == "t"


def test_what_leaves_no_record_happened_for_its_reason() -> None:
    settled = unrecorded(message(), Action.RELEASE, reason="not yet")
    record = happened(job(message()).delivery, settled, 5.0)
    assert (record.error, record.finished_at, record.state) == ("not yet", 5.0, State.PENDING)
    assert (record.task, record.queue) == ("t", "default")
    assert happened(job(message()).delivery, unrecorded(message(), Action.ACK), 5.0).error is None


def test_who_has_lost_a_message_ends_no_claim_and_no_step_of_it(app: Bench) -> None:
    because = Record(id="x", state=State.FAILURE, error="no")
    lost = replace(
        unrecorded(message(), Action.NOTHING),
        unique_claim=unique_key(message(unique_key="u")),
        failed_steps=FailedSteps(because=because, calls=[("a", "t.a")]),
    )
    before = app.store.calls.copy()
    done = commit([(job(message()).delivery, lost)], app.broker, app.results)
    assert [settled for _, settled in done.ready] == [lost]
    assert app.store.calls == before
    assert app.results.record("a") is None
    kept = replace(lost, action=Action.ACK)
    commit([(job(message()).delivery, kept)], app.broker, app.results)
    record = app.results.record("a")
    assert record is not None
    assert (record.state, record.error) == (State.FAILURE, "no")


def ended(**fields: Any) -> Record:
    return Record(id="x", state=State.FAILURE, task="t", finished_at=5.0, **fields)


@pytest.mark.parametrize(
    ("sent_at", "attempts", "action", "reason"),
    [
        (None, 1, None, ""),  # the service does not tell
        (5.1, 1, None, ""),  # sent again from the dead letters
        (5.0, 1, Action.NOTHING, "a later delivery has it"),
        (4.0, 1, Action.NOTHING, "a later delivery has it"),
        (4.0, 2, Action.DEAD_LETTER, "why"),
        (5.1, 2, Action.DEAD_LETTER, "why"),
    ],
)
def test_what_is_among_the_dead_letters_is_run_again_if_it_was_sent_after_its_end(
    sent_at: float | None, attempts: int, action: Action | None, reason: str
) -> None:
    given = job(message(), attempts=attempts)
    given = replace(given, delivery=replace(given.delivery, sent_at=sent_at))
    settled = already_buried(given, ended(), "why")
    assert (settled and settled.action) == action
    assert settled is None or settled.reason == reason
    if attempts == 1:
        assert already_buried(given, replace(ended(), finished_at=None), "why") is None


def test_a_message_whose_call_has_ended_tells_what_its_end_may_lack(app: Bench) -> None:
    step = app.task(name="t")(lambda *_: None)
    chain(step.si(), step.si()).delay()
    first = app.job(app.one()).message
    done = already_done(first, ended())
    assert (done.action, done.reason) == (Action.ACK, "already done")
    assert done.failed_steps is not None
    assert [task for _, task in done.failed_steps.calls] == ["t"]
    assert already_done(first, replace(ended(), state=State.SUCCESS)).failed_steps is None
    retried = already_done(first, replace(ended(), state=State.RETRY))
    assert (retried.failed_steps, retried.member_result) == (None, None)


def test_a_call_whose_copy_cannot_be_sent_ends_as_all_of_it_must_know(app: Bench) -> None:
    slot = Slot(join="j", index=0)
    given = message(
        slot=slot.to_wire(),
        unique_key="u",
        parent="p",
        gather="g",
        call="c",
        retries=2,
        replaced=1,
        continued=1,
        link=[],
        chain=[{"task": "t", "id": "y"}],
    )
    settled = unrecorded(given, Action.ACK, resend=given)
    _, failed = spoiled((job(given).delivery, settled), "too long")
    record = failed.record
    assert record is not None
    assert (record.task, record.parent, record.join, record.retries) == ("t", "p", "g", 2)
    assert record.call == "c"
    assert failed.failed_steps is not None
    assert [id for id, _ in failed.failed_steps.calls] == ["y"]
    assert (record.queue, record.fence, record.dead_lettered) == ("default", fence(4, 1), True)
    assert record.error == "its outcome could not be carried out: too long"
    assert failed.member_result is not None
    assert (failed.member_result.slot.join, failed.member_result.record) == ("j", record)
    assert failed.unique_claim == unique_key(given)
    assert (failed.action, failed.resend, failed.starts) == (Action.DEAD_LETTER, None, None)


def test_what_has_no_call_goes_by_its_message_where_it_cannot_be_carried_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoiled((job(message()).delivery, Settlement(action=Action.ACK)), "no")
    assert "task m: its outcome could not be carried out: no" in caplog.text
    spoiled((job(message()).delivery, unrecorded(message(), Action.ACK)), "no")
    assert "task x: its outcome" in caplog.text


def test_who_saves_its_state_too_late_leaves_its_message_to_another(app: Bench) -> None:
    def late() -> None:
        raise Superseded("another delivery has it")

    app.task(name="t")(late).delay()
    left = app.step()
    assert (left.action, left.record) == (Action.NOTHING, None)
    assert left.reason == "another delivery has it"


def test_the_failure_of_an_outcome_is_what_its_chord_hears_and_drops_its_claim() -> None:
    claim = completed(Key("once#t#k"), "x", "1", 9.0)
    told = MemberResult(slot=Slot(join="j", index=0), record=ended())
    settled = replace(unrecorded(message(), Action.ACK, member_result=told), extra=claim)
    other = replace(ended(), error="other")
    _, failed = replace_record((job(message()).delivery, settled), other)
    assert failed.member_result == replace(told, record=other)
    assert (failed.extra, failed.drop, failed.record) == (None, claim.key, other)
    assert failed.state is State.FAILURE
    _, kept = replace_record((job(message()).delivery, replace(settled, extra=None)), None)
    assert (kept.member_result, kept.drop) == (told, None)


def test_payloads_of_what_leaves_no_record_go_with_its_message_and_no_sooner(
    tmp_path: Path,
) -> None:
    app = CloudQ(
        "payloads",
        broker=f"memory://{tmp_path.name}",
        payload_store=f"file:///{tmp_path}/payloads",
        payload_store_over=2000,
    )

    @app.task(ignore_result=True)
    def sized(text: str) -> int:
        return len(text)

    def stored() -> int:
        return sum(each.is_file() for each in (tmp_path / "payloads").rglob("*"))

    with app:
        sized.delay("x" * 3000)
        consumer = Consumer(app.executor(), log=Log("test"))
        [first] = app.broker.receive("default", count=1, wait=0.0, lease=60.0)
        jobs, _ = consumer.open([first])
        pairs = consumer.commit([(first, consumer.run_job(jobs[0]))]).ready
        app.broker.release([first])
        [again] = app.broker.receive("default", count=1, wait=0.0, lease=60.0)
        assert consumer.dispose(pairs) == []  # another has the message, and its payload
        assert stored() == 1
        consumer.consume([again])
        assert stored() == 0


def test_the_payload_of_a_message_that_could_not_be_acked_stays(tmp_path: Path) -> None:
    store = tmp_path / "payloads"

    def stored() -> int:
        return sum(each.is_file() for each in store.rglob("*"))

    with Bench(payload_store=f"file:///{store}", payload_store_over=2000) as app:

        @app.task(ignore_result=True)
        def sized(text: str) -> int:
            return len(text)

        sized.delay("x" * 3000)
        consumer = Consumer(app.runner, log=Log("test"))
        delivery = app.one()
        pairs = consumer.commit([(delivery, app.settle(delivery))]).ready
        app.wire.failing["ack"] = 1
        assert [each.delivery for each in consumer.dispose(pairs)] == [delivery]
        assert stored() == 1
        assert consumer.dispose(pairs) == []
        assert stored() == 0


def test_the_payload_of_a_dead_letter_stays_with_it(tmp_path: Path) -> None:
    store = tmp_path / "payloads"
    with Bench(payload_store=f"file:///{store}", payload_store_over=2000) as app:

        @app.task
        def refuses(text: str) -> None:
            raise Reject("no", requeue=False)

        refuses.delay("x" * 3000)
        Consumer(app.runner, log=Log("test")).consume([app.one()])
        assert len(app.dead()) == 1
        assert sum(each.is_file() for each in store.rglob("*")) == 1
