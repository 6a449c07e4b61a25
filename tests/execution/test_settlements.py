"""Each field of a settlement, as the outcome of a delivery has it: what a commit then goes by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudq import InvalidArguments, State
from cloudq.driver import Delivery
from cloudq.errors import UnknownTask
from cloudq.execution.commit import commit
from cloudq.execution.outcomes import Job, Outcomes
from cloudq.execution.settlement import (
    Action,
    FailedSteps,
    copy_of,
    happened,
    unrecorded,
)
from cloudq.messages.fields import MOST
from cloudq.messages.message import TaskMessage
from cloudq.results.record import Record
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
    ended = Record(
        id="x", state=State.FAILURE, error="no", value="1", children="[]", join="j", started_at=1.0
    )
    steps = FailedSteps(because=ended, calls=[("a", "t.a")])
    assert steps.records([("b", "t.b")]) == [
        Record(id="a", state=State.FAILURE, error="no", task="t.a"),
        Record(id="b", state=State.FAILURE, error="no", task="t.b"),
    ]


def test_a_job_whose_settlement_cannot_be_made_ends_under_its_fence(outcomes: Outcomes) -> None:
    given = message(unique_key="u", shadow="shown")
    spoiled = outcomes.spoiled(job(given, fenced=True), ValueError("no"))
    assert spoiled.fenced
    assert spoiled.unique_claim == unique_key(given)
    assert (spoiled.task, spoiled.task_name) == ("shown", "t")
    assert not outcomes.spoiled(job(message()), ValueError("no")).fenced


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


def test_a_retry_goes_by_the_name_that_it_shows(outcomes: Outcomes) -> None:
    settled = outcomes.retry(job(message(shadow="shown")), ValueError("no"), 0.0)
    assert (settled.task, settled.task_name) == ("shown", "t")
    assert outcomes.retry(job(message()), ValueError("no"), 0.0).task == "t"


def test_what_leaves_no_record_happened_for_its_reason() -> None:
    settled = unrecorded(message(), Action.RELEASE, reason="not yet")
    record = happened(job(message()).delivery, settled, 5.0)
    assert (record.error, record.finished_at, record.state) == ("not yet", 5.0, State.PENDING)
    assert happened(job(message()).delivery, unrecorded(message(), Action.ACK), 5.0).error is None


def test_who_has_lost_a_message_ends_no_claim_and_no_step_of_it(app: Bench) -> None:
    ended = Record(id="x", state=State.FAILURE, error="no")
    lost = replace(
        unrecorded(message(), Action.NOTHING),
        unique_claim=unique_key(message(unique_key="u")),
        failed_steps=FailedSteps(because=ended, calls=[("a", "t.a")]),
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
