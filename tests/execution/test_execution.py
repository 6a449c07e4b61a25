"""The outcome table: what became of a delivery, what is recorded, what happens to the message."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from cloudq import (
    BackendError,
    CloudQ,
    Ignore,
    Reject,
    SoftTimeLimitExceeded,
    State,
    Task,
    TimeLimitExceeded,
    WorkerLost,
)
from cloudq.driver import Code, Outgoing
from cloudq.execution.commit import commit, dispose
from cloudq.execution.settlement import Action
from cloudq.messages.body import encode
from cloudq.messages.message import TaskMessage
from cloudq.testing import drain
from tests.support.bench import Bench


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


def task_of(app: Bench, run: Any = lambda: "value", **options: Any) -> Any:
    """A task named "t" that calls `run` and counts its runs."""
    runs: list[int] = []

    @app.task(name="t", **options)
    def task(*args: object) -> object:
        runs.append(1)
        return run(*args)

    task.runs = runs  # type: ignore[attr-defined]
    return task


def raises(error: BaseException) -> Any:
    def run() -> None:
        raise error

    return run


# ---- the rows of the table


def test_returned_is_recorded_as_success_and_acked(app: Bench) -> None:
    task = task_of(app)
    result = task.delay()
    before = time.time()
    settlement = app.step()
    assert (settlement.state, settlement.action) == (State.SUCCESS, Action.ACK)
    record = app.record(result)
    assert (record.state, record.value, record.task) == (State.SUCCESS, '"value"', "t")
    assert (record.worker, record.queue, record.retries) == ("bench", "default", 0)
    assert before - 1 <= (record.started_at or 0) <= (record.finished_at or 0) <= time.time()
    assert app.left() == 0


def test_the_ack_comes_after_the_record_is_durable(app: Bench) -> None:
    result = task_of(app).delay()
    delivery = app.one()
    committed = commit([(delivery, app.settle(delivery))], app.broker, app.backend)
    assert app.state(result) is State.SUCCESS
    assert app.left() == 1
    assert dispose(committed.ready, app.broker) == []
    assert app.left() == 0


def test_raised_with_retries_left_sends_a_copy_and_then_acks(app: Bench) -> None:
    task_of(app, raises(OSError("x")), autoretry_for=[OSError]).delay()
    delivery = app.one()
    settlement = app.settle(delivery)
    assert (settlement.state, settlement.action, settlement.record) == (
        State.RETRY,
        Action.ACK,
        None,
    )
    committed = commit([(delivery, settlement)], app.broker, app.backend)
    assert app.left() == 2
    dispose(committed.ready, app.broker)
    assert [message["retries"] for message in app.sent()] == [1]


def test_raised_with_none_left_is_recorded_as_failure_and_acked(app: Bench) -> None:
    result = task_of(app, raises(ValueError("bad", 3))).delay()
    settlement = app.step()
    assert settlement.action is Action.ACK
    record = app.record(result)
    assert (record.state, record.error_type) == (State.FAILURE, "ValueError")
    assert (record.error, record.error_args) == ("('bad', 3)", '["bad",3]')
    assert "ValueError: ('bad', 3)" in (record.traceback or "")
    assert "test_execution.py" in (record.traceback or "")
    assert (app.left(), len(app.dead())) == (0, 0)


def test_a_failure_is_dead_lettered_where_the_task_says_so(app: Bench) -> None:
    result = task_of(app, raises(ValueError("bad")), dead_letter=True).delay()
    app.step()
    assert app.state(result) is State.FAILURE
    assert app.left() == 0
    dead = app.dead()[0]
    assert dead.reason == "ValueError: bad"
    assert json.loads(dead.body)["id"] == result.id


def test_the_soft_limit_is_as_raised(app: Bench) -> None:
    result = task_of(app, raises(SoftTimeLimitExceeded())).delay()
    app.step()
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=0)


def test_the_hard_limit_is_a_failure_that_is_acked(app: Bench) -> None:
    # What a supervisor asks for after it has stopped the child.
    result = task_of(app).delay()
    delivery = app.one()
    settlement = app.runner.stopped(app.job(delivery), TimeLimitExceeded())
    assert settlement.action is Action.ACK
    app.finish(delivery, settlement)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=0)


def test_a_dead_process_leaves_nothing_and_the_message_comes_back(app: Bench) -> None:
    result = task_of(app).delay()
    app.job(app.one())
    app.lose_leases()
    assert app.state(result) is State.PENDING
    app.step()
    assert result.get(timeout=0) == "value"


def test_after_too_many_deaths_it_is_worker_lost_and_dead_lettered(app: Bench) -> None:
    app.configure_deliveries(3)
    task = task_of(app)
    result = task.delay()
    for _ in range(3):
        app.job(app.one())
        app.lose_leases()
    settlement = app.step()
    assert settlement.action is Action.DEAD_LETTER
    assert not task.runs
    with pytest.raises(WorkerLost, match="delivered 4 times and never finished"):
        result.get(timeout=0)
    assert (app.dead()[0].reason or "").startswith("WorkerLost: delivered 4 times")
    assert app.left() == 0


def test_expired_is_revoked_unrun(app: Bench) -> None:
    task = task_of(app)
    result = task.apply_async(expires=0.0)
    settlement = app.step()
    assert (settlement.state, settlement.action) == (State.REVOKED, Action.ACK)
    assert (app.record(result).error, task.runs, app.left()) == ("expired", [], 0)


@pytest.mark.parametrize("late", [False, True])
def test_a_second_message_of_a_call_that_comes_late_changes_no_end(app: Bench, late: bool) -> None:
    # A publisher to whom the answer was lost has sent it twice: each is a first delivery.
    task = task_of(app, lambda: "value")
    result = task.apply_async(expires=30.0)
    delivery = app.one()
    app.post(app.job(delivery).message)
    app.clock.ahead += 31.0 * late
    app.finish(delivery, app.settle(delivery))
    before = app.record(result)
    assert before.state is (State.REVOKED if late else State.SUCCESS)
    app.clock.ahead += 31.0
    settlement = app.step()
    assert (settlement.action, settlement.reason) == (Action.ACK, "already done")
    assert app.record(result) == before
    assert (len(task.runs), app.left()) == (int(not late), 0)


def test_revoked_is_not_run(app: Bench) -> None:
    task = task_of(app)
    result = task.delay()
    assert result.revoke()
    settlement = app.step()
    assert (settlement.state, settlement.action) == (State.REVOKED, Action.ACK)
    assert (app.record(result).error, task.runs, app.left()) == ("revoked", [], 0)


@pytest.mark.parametrize("outcome", [State.SUCCESS, State.FAILURE, State.REVOKED, State.REJECTED])
def test_a_redelivery_after_the_end_is_acked_unrun(app: Bench, outcome: State) -> None:
    run = {
        State.FAILURE: raises(ValueError("bad")),
        State.REJECTED: raises(Reject("no")),
    }.get(outcome, lambda: "value")
    task = task_of(app, run)
    result = task.delay()
    if outcome is State.REVOKED:
        result.revoke()
    delivery = app.one()
    committed = commit([(delivery, app.settle(delivery))], app.broker, app.backend)
    assert not committed.failed
    before, runs = app.record(result), len(task.runs)
    assert before.state is outcome
    app.lose_leases()  # the process dies before it can ack
    settlement = app.step()
    # A burial that the crash has cut short is made up for.
    buried = outcome is State.REJECTED
    expected = (Action.DEAD_LETTER, "no") if buried else (Action.ACK, "already done")
    assert (settlement.action, settlement.reason) == expected
    assert len(task.runs) == runs
    assert app.record(result) == before
    assert (app.left(), len(app.dead())) == (0, int(buried))


def test_a_late_record_of_a_lost_lease_is_refused(app: Bench, caplog: Any) -> None:
    result = task_of(app, lambda: len(answers)).delay()
    answers = [1]
    first = app.one()
    slow = app.settle(first)  # it has run and is about to be recorded
    app.lose_leases()
    second = app.one()
    assert app.job(second).fenced
    # Whose lease may be lost writes under the fence, as a worker does.
    committed = commit([(first, replace(slow, fenced=True))], app.broker, app.backend)
    assert committed.ready[0][1].action is Action.NOTHING
    assert "its lease was lost while it ran" in caplog.text
    assert app.state(result) is State.PENDING
    answers = [1, 2]
    app.finish(second, app.runner.run(app.job(second)))
    assert result.get(timeout=0) == 2
    assert app.left() == 0


def test_of_two_deliveries_the_later_may_end_first(app: Bench) -> None:
    value = "first"
    result = task_of(app, lambda: value).delay()
    first = app.one()
    slow = app.settle(first)
    app.lose_leases()
    value = "second"
    app.step()
    assert result.get(timeout=0) == "second"
    late = commit([(first, replace(slow, fenced=True))], app.broker, app.backend)
    assert late.ready[0][1].action is Action.ACK  # it is done; deleting a lost lease does nothing
    assert app.record(result).value == '"second"'


def test_an_earlier_delivery_that_is_opened_late_is_left_alone(app: Bench) -> None:
    task = task_of(app)
    task.delay()
    app.one()
    app.lose_leases()
    second = app.one()
    app.lose_leases()
    third = app.one()
    app.job(third)
    assert app.settle(second).action is Action.NOTHING
    assert app.settle(second).reason == "a later delivery has it"
    assert not task.runs


def test_a_redelivered_task_without_a_record_is_recorded(app: Bench) -> None:
    result = task_of(app).delay()
    app.one()
    app.lose_leases()
    settlement = app.step()
    assert settlement.fenced
    assert app.record(result).value == '"value"'
    assert app.left() == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"hello", "undecodable: Invalid JSON"),
        (b'{"Records": []}', "foreign message"),
        (b'{"v": 9, "id": "a", "task": "t"}', "unknown version 9"),
        (b'{"v": 1, "id": "a", "task": "gone"}', "unknown task 'gone': is its module in"),
        (b'{"v": 1, "id": "a", "task": "t", "args": ' + b"[" * 9000 + b"]" * 9000 + b"}", "undeco"),
    ],
)
def test_what_cannot_be_run_is_dead_lettered_with_a_reason(
    app: Bench, body: bytes, reason: str
) -> None:
    task = task_of(app)
    app.memory.send("default", [Outgoing(id="bad", body=body)])
    result = task.delay()
    app.work()
    assert result.get(timeout=0) == "value"
    assert (app.dead()[0].reason or "").startswith(reason)
    assert app.dead()[0].body == body
    assert app.left() == 0


def test_an_oversized_body_is_dead_lettered(app: Bench) -> None:
    app.conf.max_body = 1024
    app.memory.send("default", [Outgoing(id="big", body=b"x" * 1025)])
    app.step()
    assert (app.dead()[0].reason or "").startswith("oversized: 1,025 bytes, this app accepts 1,024")


@pytest.mark.parametrize(
    "args", [[1, 2, 3], [{"$uuid": 5}], [{"$int": "x"}], [{"$dict": [[[1], 2]]}]], ids=repr
)
def test_arguments_that_do_not_fit_are_a_failure(app: Bench, args: list[Any]) -> None:
    @app.task(name="fits")
    def fits(a: int) -> int:
        return a

    app.post(TaskMessage(id="x", task="fits", args=args, queue="default"))
    app.step()
    assert app.state("x") is State.FAILURE
    assert app.record("x").error_type in (
        "cloudq.errors.InvalidArguments",
        "cloudq.errors.DecodeError",
    )
    assert app.left() == 0


# ---- the store is down


def test_with_the_store_down_nothing_is_opened_and_all_is_kept(app: Bench) -> None:
    task = task_of(app)
    result = task.delay()
    delivery = app.one()
    app.store.down.add("all")
    with pytest.raises(BackendError, match="no answer") as error:
        app.runner.open([delivery])
    assert error.value.code == Code.UNREACHABLE
    assert app.left() == 1
    app.store.down.clear()
    app.finish(delivery, app.settle(delivery))
    assert (result.get(timeout=0), len(task.runs), app.left()) == ("value", 1, 0)


@pytest.mark.parametrize("attempts", [1, 2])
def test_with_the_store_down_an_outcome_is_kept_until_it_is_recorded(
    app: Bench, attempts: int
) -> None:
    result = task_of(app).delay()
    if attempts == 2:
        app.one()
        app.lose_leases()
    delivery = app.one()
    settlement = app.settle(delivery)
    app.store.down.add("all")
    for _ in range(3):
        committed = commit([(delivery, settlement)], app.broker, app.backend)
        assert (list(committed.ready), list(committed.failed)) == ([], [(delivery, settlement)])
        assert isinstance(committed.error, BackendError)
    assert app.left() == 1
    app.store.down.clear()
    app.finish(delivery, settlement)
    assert (result.get(timeout=0), app.left()) == ("value", 0)


def test_an_outcome_that_is_refused_for_now_is_committed_again(app: Bench) -> None:
    task = task_of(app)
    results = [task.delay() for _ in range(3)]
    settled = [(delivery, app.settle(delivery)) for delivery in app.receive()]
    app.store.refuse = lambda item: Code.THROTTLED if results[0].id in str(item.key) else None
    committed = commit(settled, app.broker, app.backend)
    assert [d.id for d, _ in committed.failed] == [results[0].id]
    assert [d.id for d, _ in committed.ready] == [results[1].id, results[2].id]
    assert committed.error is not None
    app.store.refuse = lambda item: None
    again = commit(committed.failed, app.broker, app.backend)
    assert not again.failed
    assert app.state(results[0]) is State.SUCCESS


def test_with_the_broker_down_no_retry_is_lost_and_none_sent_twice(app: Bench) -> None:
    task_of(app, raises(OSError("x")), autoretry_for=[OSError], track_started=True).delay()
    delivery = app.one()
    settlement = app.settle(delivery)
    app.wire.down.add("send")
    committed = commit([(delivery, settlement)], app.broker, app.backend)
    assert list(committed.failed) == [(delivery, settlement)]
    app.wire.down.clear()
    app.store.down.add("all")
    committed = commit(committed.failed, app.broker, app.backend)
    assert committed.failed[0][1].resend is None  # it is out, so it is not sent again
    app.store.down.clear()
    committed = commit(committed.failed, app.broker, app.backend)
    assert not committed.failed
    dispose(committed.ready, app.broker)
    assert [message["retries"] for message in app.sent()] == [1]


def test_started_is_not_worth_stopping_for(app: Bench) -> None:
    task = task_of(app, track_started=True)
    result = task.delay()
    job = app.job(app.one())
    app.store.down.add("all")
    settlement = app.runner.run(job)
    app.store.down.clear()
    app.finish(job.delivery, settlement)
    assert result.get(timeout=0) == "value"


# ---- a crash between any two steps of a retry


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_crash_between_the_steps_of_a_retry_loses_nothing(
    app: Bench, steps: int, tracked: bool
) -> None:
    """Steps: 0 it has run, 1 the copy is sent, 2 the record is written, 3 it is acked."""
    task = task_of(
        app,
        lambda: "value" if len(task.runs) > 1 else raises(OSError("x"))(),
        autoretry_for=[OSError],
        track_started=tracked,
    )
    result = task.delay()
    delivery = app.one()
    settlement = app.settle(delivery)
    if steps == 1:
        app.store.down.add("all")
    if steps:
        committed = commit([(delivery, settlement)], app.broker, app.backend)
        app.store.down.clear()
        assert app.left() == 2
        if steps == 3:
            dispose(committed.ready, app.broker)
            assert app.left() == 1
    app.lose_leases()
    app.work()
    assert (result.get(timeout=0), app.left(), app.dead()) == ("value", 0, [])
    # With the retry on record the original is known for done, and is not run again.
    if tracked and steps >= 2:
        assert len(task.runs) == 2


def test_the_original_of_a_recorded_retry_is_acked_unrun(app: Bench) -> None:
    task = task_of(app, raises(OSError("x")), autoretry_for=[OSError], track_started=True)
    task.delay()
    delivery = app.one()
    commit([(delivery, app.settle(delivery))], app.broker, app.backend)
    copy = app.one()
    app.lose_leases()
    original = next(d for d in app.receive() if d.id != copy.id)
    assert app.settle(original).reason == "already done"


# ---- results that cannot be stored


@pytest.mark.parametrize("value", [object(), {"a": [1j]}, "\ud800", 10**5000], ids=type)
def test_a_result_that_cannot_be_written_is_a_failure(app: Bench, value: object) -> None:
    result = task_of(app, lambda: value).delay()
    app.step()
    record = app.record(result)
    assert (record.state, record.error_type) == (State.FAILURE, "cloudq.errors.EncodeError")
    assert app.left() == 0


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_result_over_the_stores_limit_is_a_failure(app: Bench, attempts: int) -> None:
    result = task_of(app, lambda: "x" * 500_000).delay()
    if attempts == 2:  # the record is then written under the fence
        app.one()
        app.lose_leases()
    delivery = app.one()
    committed = commit([(delivery, app.settle(delivery))], app.broker, app.backend)
    assert len(committed.failed) == 1
    app.finish(delivery, committed.failed[0][1])
    record = app.record(result)
    assert (record.state, record.value) == (State.FAILURE, None)
    assert (record.error or "").startswith("the result could not be stored")
    assert app.left() == 0


# ---- whatever a task raises


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1), MemoryError()],
    ids=repr,
)
def test_whatever_a_task_raises_is_its_outcome(app: Bench, error: BaseException) -> None:
    result = task_of(app, raises(error)).delay()
    app.step()
    assert app.record(result).error_type == type(error).__name__
    assert app.left() == 0


def test_an_error_that_cannot_be_shown_is_a_failure_too(app: Bench) -> None:
    result = task_of(app, raises(Broken())).delay()
    app.step()
    assert app.record(result).error == "<its __str__ raised RuntimeError>"


def test_an_error_with_a_strange_file_name_can_be_recorded(plain: CloudQ) -> None:
    @plain.task(dead_letter=True)
    def opens() -> None:
        raise ValueError("cannot read caf\udce9.txt")  # as os.fsdecode gives it

    result = opens.delay()
    drain(plain)
    assert result.record.error == "cannot read caf\\udce9.txt"
    assert [dead.reason for dead in plain.broker.admin.peek_dead("default", count=9)] == [
        "ValueError: cannot read caf\\udce9.txt"
    ]
    with pytest.raises(ValueError, match="cannot read caf"):
        result.get(timeout=0)


def test_long_errors_are_cut(app: Bench) -> None:
    result = task_of(app, raises(ValueError("x" * 100_000)), dead_letter=True).delay()
    app.step()
    record = app.record(result)
    assert len(record.error or "") == len(record.traceback or "") == 32_000
    assert len(app.dead()[0].reason or "") == 1000
    with pytest.raises(ValueError, match="xxx"):
        result.get(timeout=0)


def test_ignore_acks_and_records_nothing(app: Bench) -> None:
    result = task_of(app, raises(Ignore())).delay()
    assert app.step().action is Action.ACK
    assert (app.state(result), app.left()) == (State.PENDING, 0)


def test_reject_dead_letters_with_its_reason(app: Bench) -> None:
    result = task_of(app, raises(Reject("no such customer"))).delay()
    app.step()
    assert (app.state(result), app.dead()[0].reason) == (State.REJECTED, "no such customer")


def test_reject_with_requeue_puts_it_back(app: Bench) -> None:
    errors: list[BaseException] = [Reject("later", requeue=True)]
    task = task_of(app, lambda: raises(errors.pop())() if errors else "value")
    result = task.delay()
    settlement = app.step()
    assert (settlement.action, settlement.reason) == (Action.RELEASE, "later")
    assert (app.state(result), app.left()) == (State.PENDING, 1)
    app.work()
    assert (result.get(timeout=0), len(task.runs)) == ("value", 2)


# ---- results that nobody wants, states that somebody does


@pytest.mark.parametrize("where", ["app", "task", "call"])
def test_an_ignored_result_is_not_recorded(where: str) -> None:
    with Bench(task_ignore_result=where == "app") as app:
        task = task_of(app, **({"ignore_result": True} if where == "task" else {}))
        result = task.apply_async(**({"ignore_result": True} if where == "call" else {}))
        settlement = app.step()
        assert settlement.state is State.SUCCESS
        assert (app.state(result), app.left()) == (State.PENDING, 0)
        assert not app.store.calls["put"]


def test_the_call_has_the_last_word_on_its_result(app: Bench) -> None:
    result = task_of(app, ignore_result=True).apply_async(ignore_result=False)
    app.step()
    assert app.state(result) is State.SUCCESS


def test_started_is_recorded_where_it_is_tracked(app: Bench) -> None:
    states: list[State] = []
    task = task_of(app, lambda: states.append(app.record("given").state), track_started=True)
    task.apply_async(task_id="given")
    app.step()
    assert states == [State.STARTED]
    assert app.state("given") is State.SUCCESS


def test_an_app_without_a_backend_runs_tasks(app: Bench) -> None:
    app.conf.backend = "none"
    app.runtime._backend = None
    task = task_of(app)
    task.delay()
    assert app.step().state is State.SUCCESS
    assert (len(task.runs), app.left()) == (1, 0)


# ---- early messages


def test_a_delay_beyond_the_brokers_limit_goes_in_hops(app: Bench) -> None:
    app.wire.change_limits = lambda limits: replace(limits, max_delay=900.0)
    task = task_of(app)
    result = task.apply_async(countdown=2000.0)
    due = app.sent()[0]["not_before"]
    assert app.receive() == []
    app.clock.ahead = 901.0
    hop = app.step()
    assert (hop.action, hop.state, hop.reason) == (Action.ACK, None, "not due yet")
    assert (app.left(), task.runs) == (1, [])
    message = app.sent()[0]
    assert (message["not_before"], message["id"]) == (due, result.id)
    assert message.get("retries", 0) == 0


@pytest.mark.parametrize(("early", "runs"), [(0.9, 1), (2.0, 0)])
def test_a_message_less_than_a_second_early_is_run(app: Bench, early: float, runs: int) -> None:
    task = task_of(app)
    message = TaskMessage(id="x", task="t", queue="default", not_before=time.time() + early)
    app.memory.send("default", [Outgoing(id="x", body=encode(message))])
    app.step()
    assert len(task.runs) == runs


def test_hops_end_when_it_is_time(app: Bench) -> None:
    app.wire.change_limits = lambda limits: replace(limits, max_delay=900.0)
    task = task_of(app)
    task.apply_async(countdown=2000.0, dedup_key="once")
    steps = 0
    while app.left():
        app.clock.ahead += 900.5
        app.step()
        steps += 1
    assert (steps, len(task.runs)) == (3, 1)


# ---- copies that cannot be sent


def test_a_retry_that_is_too_large_to_send_is_kept_in_place(app: Bench) -> None:
    task = task_of(
        app,
        lambda text: raises(OSError("x"))(),
        autoretry_for=[OSError],
        max_retries=1,
        default_retry_delay=5.0,
    )
    task.delay("x" * 500)
    size = len(app.memory.peek("default", count=1)[0].body)
    app.wire.change_limits = lambda limits: replace(limits, body=size)
    other = app.task(name="other", autoretry_for=[OSError])(raises(OSError("y")))
    other.delay()
    settled = [(delivery, app.settle(delivery)) for delivery in app.receive()]
    committed = commit(settled, app.broker, app.backend)
    assert not committed.failed
    kept, sent = (settlement for _, settlement in committed.ready)
    assert (kept.action, kept.resend) == (Action.RELEASE, None)
    assert 0 < kept.after <= 5.0
    assert "its copy cannot be sent: the message for t is" in kept.reason
    assert sent.action is Action.ACK
    assert dispose(committed.ready, app.broker) == []
    assert app.left() == 2


def test_a_retry_where_the_queue_cannot_delay_is_kept_in_place(app: Bench) -> None:
    task_of(app, raises(OSError("x")), autoretry_for=[OSError], default_retry_delay=9.0).delay()
    app.wire.change_limits = lambda limits: replace(limits, max_delay=0.0)
    settlement = app.step()
    assert settlement.action is Action.RELEASE
    assert app.receive() == []
    app.clock.ahead = 10.0
    assert len(app.receive()) == 1


# ---- ordered groups


def test_a_retry_of_an_ordered_group_stays_in_its_place(app: Bench) -> None:
    seen: list[tuple[int, int]] = []

    @app.task(name="step", bind=True, autoretry_for=[OSError], max_retries=2)
    def step(self: Task[..., Any], number: int) -> None:
        seen.append((number, self.request.retries))
        if number == 1 and self.request.retries < 2:
            raise OSError("not yet")

    for number in (1, 2, 3):
        step.apply_async([number], group_key="customer-7")
    app.work()
    assert seen == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]


def test_an_ordered_group_goes_on_after_a_failure_for_good(app: Bench) -> None:
    @app.task(name="step", autoretry_for=[OSError], max_retries=1, track_started=True)
    def step(number: int) -> int:
        if number == 1:
            raise OSError("never")
        return number

    results = [step.apply_async([number], group_key="g") for number in (1, 2)]
    app.work()
    assert [app.state(result) for result in results] == [State.FAILURE, State.SUCCESS]
    assert app.record(results[0]).retries == 1


def test_retries_of_an_ordered_group_do_not_count_as_deaths(app: Bench) -> None:
    app.configure_deliveries(2)
    runs: list[int] = []

    @app.task(name="step", autoretry_for=[OSError], max_retries=5)
    def step() -> None:
        runs.append(1)
        raise OSError("never")

    result = step.apply_async(group_key="g")
    app.work()
    assert len(runs) == 6
    with pytest.raises(OSError, match="never"):
        result.get(timeout=0)


# ---- what is logged


def test_arguments_are_not_logged(app: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    task_of(app, lambda secret: secret).delay("s3cret")
    app.work()
    assert "s3cret" not in caplog.text


def test_a_dead_letter_that_is_sent_again_is_run_again(plain: CloudQ) -> None:
    broken = [True]

    @plain.task(name="mended", dead_letter=True)
    def mended() -> str:
        if broken[0]:
            raise ValueError("broken")
        return "well"

    result = mended.delay()
    drain(plain)
    assert result.record.state is State.FAILURE
    admin = plain.broker.admin
    broken[0] = False
    assert not admin.redrive("default", admin.peek_dead("default", count=10))
    assert [settlement.state for settlement in drain(plain)] == [State.SUCCESS]
    again = plain.AsyncResult(result.id)
    assert again.get(timeout=0) == "well"
    assert admin.peek_dead("default", count=10) == []


@pytest.mark.parametrize("ran", [True, False])
def test_a_call_that_has_ended_does_not_expire_when_its_message_comes_again(
    app: Bench, ran: bool
) -> None:
    result = task_of(app).apply_async(expires=30.0)
    first = app.one()
    if ran:  # and the worker dies before it acks the message
        commit([(first, app.settle(first))], app.broker, app.backend)
    before = app.record(result)
    app.lose_leases()
    app.work()
    after = app.record(result)
    assert after.state is (State.SUCCESS if ran else State.REVOKED)
    assert not ran or after == before
    assert app.left() == 0


def test_a_worker_that_stood_still_before_a_burial_does_not_run_the_task_again(app: Bench) -> None:
    runs: list[int] = []

    def fails() -> None:
        runs.append(1)
        raise ValueError("broken")

    result = task_of(app, fails, dead_letter=True).delay()
    first = app.one()
    app.lose_leases()
    assert app.step().state is State.FAILURE
    ended = app.record(result)
    late = app.settle(first)
    assert (late.action, late.state) == (Action.NOTHING, None)
    app.finish(first, late)
    assert app.record(result) == ended
    assert len(runs) == len(app.dead()) == 1


def test_a_task_that_puts_itself_back_is_no_hot_loop(plain: CloudQ) -> None:
    @plain.task(name="later")
    def later() -> None:
        raise Reject("not now", requeue=True)

    later.delay()
    assert [settlement.reason for settlement in drain(plain)] == ["not now"]
    stats = plain.broker.admin.stats("default")
    assert (stats.ready, stats.delayed) == (0, 1)
