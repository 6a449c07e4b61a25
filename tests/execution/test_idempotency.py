"""Equal calls of an idempotent task: one runs, the others get what it came to."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from cloudq import (
    CloudQ,
    ConfigurationError,
    EncodeError,
    Reject,
    State,
    Task,
    TimeLimitExceeded,
    chain,
)
from cloudq.execution.commit import commit
from cloudq.execution.settlement import Action
from cloudq.worker.pool import pipe
from tests.support.bench import Bench


@pytest.fixture
def charge(app: Bench) -> Any:
    runs: list[object] = []

    @app.task(name="charge", idempotent=True)
    def charge(*args: object, **kwargs: object) -> int:
        runs.append(args)
        if charge.errors:  # type: ignore[attr-defined]
            raise charge.errors.pop()  # type: ignore[attr-defined]
        return len(runs)

    charge.runs, charge.errors = runs, []  # type: ignore[attr-defined]
    return charge


def test_equal_calls_run_once_and_have_one_value(app: Bench, charge: Any) -> None:
    results = [charge.delay(7, currency="EUR") for _ in range(3)]
    app.work()
    assert [result.get(timeout=0) for result in results] == [1, 1, 1]
    assert len(charge.runs) == 1


def test_other_arguments_are_another_call(app: Bench, charge: Any) -> None:
    for args, kwargs in (([1], {}), ([2], {}), ([1], {"a": 1}), ([[1]], {}), (["1"], {})):
        charge.apply_async(args, kwargs)
    app.work()
    assert len(charge.runs) == 5


def test_the_order_of_keywords_does_not_matter(app: Bench, charge: Any) -> None:
    charge.delay(a=1, b=2)
    charge.delay(b=2, a=1)
    app.work()
    assert len(charge.runs) == 1


def test_a_function_may_name_the_key(app: Bench) -> None:
    runs: list[int] = []

    @app.task(idempotent=lambda order, amount: f"order-{order}")
    def charge(order: int, amount: int) -> int:
        runs.append(amount)
        return amount

    results = [charge.delay(1, 10), charge.delay(1, 20), charge.delay(2, 30)]
    app.work()
    assert runs == [10, 30]
    assert [result.get(timeout=0) for result in results] == [10, 10, 30]


def test_a_key_function_that_raises_fails_the_task_and_not_the_worker(app: Bench) -> None:
    @app.task(idempotent=lambda order: str(order["number"]))
    def charge(order: dict[str, int]) -> None: ...

    result = charge.delay({})
    app.work()
    with pytest.raises(KeyError, match="number"):
        result.get(timeout=0)


def test_a_call_may_name_its_key_for_any_task(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="t")
    def task(value: int) -> int:
        runs.append(value)
        return value

    results = [task.apply_async([n], idempotency_key="same") for n in (1, 2)]
    task.apply_async([3], idempotency_key="other")
    task.delay(4)
    app.work()
    assert runs == [1, 3, 4]
    assert results[1].get(timeout=0) == 1


def test_two_tasks_may_use_the_same_key(app: Bench) -> None:
    runs: list[str] = []
    for name in ("a", "b"):
        task: Any = app.task(name=name)(lambda name=name: runs.append(name))
        task.apply_async(idempotency_key="same")
    app.work()
    assert runs == ["a", "b"]


def test_while_the_first_runs_an_equal_call_waits(app: Bench, charge: Any) -> None:
    first, second = charge.delay(1), charge.delay(1)
    running = app.one()
    outcome = app.settle(running)  # it has run, and nothing is recorded yet
    waiting = app.step()
    assert f"an equal call, {first.id}, is running" in waiting.reason
    assert app.state(second) is State.PENDING
    assert app.receive() == []
    app.finish(running, outcome)
    app.work()
    assert (second.get(timeout=0), len(charge.runs)) == (1, 1)


def test_waiting_for_an_equal_call_does_not_count_as_deaths(
    app: Bench, charge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.configure_deliveries(3)
    monkeypatch.setattr("cloudq.execution.equal_calls._BUSY_AFTER", 0.0)
    charge.delay(1)
    second = charge.delay(1)
    running = app.one()
    outcome = app.settle(running)
    for _ in range(20):
        assert app.step().state is None
    app.finish(running, outcome)
    app.work()
    assert second.get(timeout=0) == 1
    assert app.dead() == []


def test_an_ordered_call_waits_in_its_place(app: Bench, charge: Any) -> None:
    charge.delay(1)
    charge.apply_async([1], group_key="g")
    app.settle(app.one())
    assert app.step().action is Action.RELEASE


def test_after_a_failure_an_equal_call_runs_again(app: Bench, charge: Any) -> None:
    charge.errors.append(ValueError("bad"))
    first, second = charge.delay(1), charge.delay(1)
    assert [app.step().state, app.step().state] == [State.FAILURE, State.SUCCESS]
    assert (first.state, second.get(timeout=0), len(charge.runs)) == (State.FAILURE, 2, 2)


def test_a_redelivered_call_may_claim_what_it_had_claimed(app: Bench, charge: Any) -> None:
    result = charge.delay(1)
    app.settle(app.one())  # the process dies before anything is recorded
    app.lose_leases()
    app.step()
    assert result.get(timeout=0) == 2


def test_a_retry_keeps_its_claim(app: Bench) -> None:
    runs: list[int] = []

    @app.task(idempotent=True, autoretry_for=[OSError], default_retry_delay=50.0)
    def task() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        return len(runs)

    first = task.delay()
    app.step()  # the retry is out
    second = task.delay()
    assert f"an equal call, {first.id}, is running" in app.step().reason
    app.work()
    assert (first.get(timeout=0), second.get(timeout=0)) == (2, 2)


def test_a_claim_is_forgotten_in_time(charge: Any, app: Bench) -> None:
    charge.delay(1)
    app.work()
    app.clock.ahead += app.conf.idempotency_expires + 1
    charge.delay(1)
    app.work()
    assert len(charge.runs) == 2


def test_the_claim_of_a_dead_process_ends_with_its_time_limit(app: Bench) -> None:
    runs: list[int] = []

    @app.task(idempotent=True, time_limit=60.0)
    def task() -> None:
        runs.append(1)

    task.delay()
    dead = app.one()
    app.settle(dead)
    app.broker.ack([dead])
    task.delay()
    assert "is running" in app.step().reason
    app.clock.ahead += 61
    app.work()
    assert len(runs) == 2


def test_with_the_store_down_an_idempotent_call_waits_unrun(app: Bench, charge: Any) -> None:
    result = charge.delay(1)
    delivery = app.one()
    job = app.job(delivery)
    app.store.down.add("update")
    settlement = app.runner.run(job)
    assert "the store is down" in settlement.reason
    app.finish(delivery, settlement)
    assert (charge.runs, app.left(), app.receive()) == ([], 1, [])
    app.store.down.clear()
    app.work()
    assert (result.get(timeout=0), len(charge.runs)) == (1, 1)


def test_a_value_that_is_too_large_leaves_no_claim_behind(app: Bench) -> None:
    sizes = [500_000, 10]

    @app.task(idempotent=True)
    def task() -> str:
        return "x" * sizes.pop(0)

    first, second = task.delay(), task.delay()
    delivery = app.one()
    settlement = app.settle(delivery)
    smaller = commit([(delivery, settlement)], app.broker, app.backend).failed[0][1]
    app.finish(delivery, smaller)
    assert app.step().state is State.SUCCESS
    assert (first.state, second.get(timeout=0)) == (State.FAILURE, "x" * 10)


def test_a_claim_that_the_store_will_never_take_is_a_failure(app: Bench, charge: Any) -> None:
    app.store.limits = replace(app.store.limits, item=10)
    charge.delay(1)
    settlement = app.settle(app.one())
    assert (settlement.state, settlement.resend) == (State.FAILURE, None)
    assert charge.runs == []


def test_without_a_backend_there_is_nothing_to_claim(app: Bench, charge: Any) -> None:
    app.conf.backend = "none"
    app.runtime._backend = None
    charge.delay(1)
    charge.delay(1)
    app.work()
    assert len(charge.runs) == 2


def test_two_copies_of_one_message_delivered_at_once_run_once(app: Bench, charge: Any) -> None:
    result = charge.delay(1)
    delivery = app.one()
    copy = replace(delivery, receipt="another lease")
    job, other = app.job(delivery), app.job(copy)
    settlement = app.runner.run(job)
    assert f"an equal call, {result.id}, is running" in app.runner.run(other).reason
    app.finish(delivery, settlement)
    again = app.runner.run(app.job(copy)) if app.runner.open([copy])[0] else None
    assert again is None
    assert len(charge.runs) == 1


def test_the_same_delivery_may_claim_again(app: Bench, charge: Any) -> None:
    charge.delay(1)
    job = app.job(app.one())
    app.runner.run(job)  # and the process that ran it died
    assert app.runner.run(job).state is State.SUCCESS
    assert len(charge.runs) == 2


def test_a_later_delivery_takes_the_claim_over(app: Bench, charge: Any) -> None:
    charge.delay(1)
    app.runner.run(app.job(app.one()))
    app.lose_leases()
    assert app.step().state is State.SUCCESS
    assert len(charge.runs) == 2


@pytest.mark.parametrize("end", ["fails", "is superseded", "is put back"])
def test_the_late_end_of_an_earlier_delivery_leaves_the_claim_of_the_one_that_runs(
    app: Bench, end: str
) -> None:
    """An equal call would run beside that one."""
    runs: list[int] = []

    @app.task(name="t", bind=True, idempotent=True)
    def task(self: Task[..., int]) -> int:
        runs.append(self.request.attempts)
        if len(runs) == 1:
            app.lose_leases()
            app.runner.run(app.job(app.one()))  # a later delivery, which has yet to be settled
            if end == "is put back":
                raise Reject("later", requeue=True)
            if end == "fails":
                raise ValueError
        self.checkpoint("begun")
        return len(runs)

    task.delay()
    first = app.one()
    late = app.runner.run(app.job(first))
    commit([(first, replace(late, fenced=True))], app.broker, app.backend)
    task.delay()
    assert "is running" in app.runner.run(app.job(app.one())).reason
    assert runs == [1, 2]


def test_an_earlier_delivery_does_not_take_it_back(app: Bench, charge: Any) -> None:
    charge.delay(1)
    early = app.job(app.one())
    app.lose_leases()
    app.runner.run(app.job(app.one()))
    assert "is running" in app.runner.run(early).reason
    assert len(charge.runs) == 1


@pytest.mark.parametrize("end", ["revoked", "stopped"])
def test_the_claim_of_a_call_that_ended_without_completing_it_is_free(app: Bench, end: str) -> None:
    runs: list[int] = []

    @app.task(name="t", idempotent=True, autoretry_for=[OSError], max_retries=3)
    def task() -> int:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        return len(runs)

    first = task.delay()
    if end == "revoked":
        assert app.step().state is State.RETRY
        first.revoke()
    else:
        delivery = app.one()
        app.settle(delivery)  # it runs, and is killed from outside
        app.finish(delivery, app.runner.stopped(app.job(delivery), TimeLimitExceeded("late")))
    second = task.delay()
    app.work()
    assert first.state == (State.REVOKED if end == "revoked" else State.FAILURE)
    assert (second.get(timeout=0), len(runs)) == (2, 2)
    assert app.clock.ahead < 3600, "the claim would end by itself then"


def test_a_success_that_was_recorded_without_its_claim_counts(app: Bench, charge: Any) -> None:
    charge.delay(1)
    delivery = app.one()
    app.finish(delivery, replace(app.settle(delivery), extra=None))  # that write was lost
    second = charge.delay(1)
    app.work()
    assert (second.get(timeout=0), len(charge.runs)) == (1, 1)


@pytest.mark.parametrize("options", [{"idempotent": True}, {}])
@pytest.mark.parametrize("value", [7, None, {"a": [1]}])
def test_an_equal_call_gets_the_value_of_one_that_ignored_its_own(
    app: Bench, options: dict[str, Any], value: object
) -> None:
    runs: list[int] = []

    @app.task(name="pay", **options)
    def pay(order: int) -> Any:
        runs.append(order)
        return value

    key: Any = {} if options else {"idempotency_key": "k"}
    first = pay.apply_async([1], ignore_result=True, **key)
    app.work()
    second = pay.apply_async([1], **key)
    app.work()
    assert (second.get(timeout=0), runs) == (value, [1])
    with pytest.raises(ConfigurationError):
        first.get(timeout=0)
    assert app.results.record(first.id) is None


def test_it_comes_from_a_call_with_a_callback_as_well(app: Bench) -> None:
    told: list[int] = []
    pay, tell = app.task(name="pay", idempotent=True)(_seven), app.task(name="tell")(told.append)
    pay.apply_async(ignore_result=True, link=tell.s())
    app.work()
    second = pay.delay()
    app.work()
    assert (second.get(timeout=0), told) == (7, [7])


def _seven() -> int:
    return 7


def test_what_could_not_be_kept_is_an_error_for_those_who_ask(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="open", idempotent=True)
    def open_it() -> Any:
        runs.append(1)
        return object()

    first = open_it.apply_async(ignore_result=True)
    assert app.step().state is State.SUCCESS
    second = open_it.delay()
    app.work()
    with pytest.raises(EncodeError, match=rf"the equal call {first.id} has run.*object cannot be"):
        second.get(timeout=0)
    open_it.apply_async(ignore_result=True)
    assert app.step().state is State.SUCCESS
    assert runs == [1]


@pytest.mark.parametrize("conditional", [False, True])
def test_a_value_that_is_ignored_may_be_too_large_to_be_kept(app: Bench, conditional: bool) -> None:
    runs: list[int] = []

    @app.task(name="large", idempotent=True)
    def large() -> str:
        runs.append(1)
        return "x" * 500_000

    given: Any = {"task_id": "mine"} if conditional else {}
    large.apply_async(ignore_result=True, **given)
    delivery = app.one()
    settlement = app.settle(delivery)
    assert settlement.fenced == conditional
    smaller = commit([(delivery, settlement)], app.broker, app.backend).failed[0][1]
    assert app.finish(delivery, smaller).state is State.SUCCESS
    second = large.delay()
    app.work()
    with pytest.raises(EncodeError, match="it could not be stored"):
        second.get(timeout=0)
    assert runs == [1]


def test_a_value_that_is_kept_comes_from_the_child(app: Bench) -> None:
    pay = app.task(name="pay", idempotent=True)(_seven)
    pay.apply_async(ignore_result=True)
    settlement = app.settle(app.one())
    assert settlement.extra is not None
    assert pipe.unpack_settlement(pipe.pack_settlement(3, settlement)) == settlement


def test_a_key_function_with_the_parameters_of_the_task_makes_one_key(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="pay", idempotent=lambda order, copies=1: f"{order} {copies}")
    def pay(order: int, copies: int = 1) -> None:
        runs.append(order)

    for args, kwargs in (([1], {}), ([], {"order": 1}), ([1, 1], {}), ([1], {"copies": 1})):
        pay.apply_async(args, kwargs)
    app.work()
    assert runs == [1]


def test_equal_calls_of_an_eager_app_run_each() -> None:
    runs: list[int] = []
    app = CloudQ("eager", broker="memory://eager-equal", task_always_eager=True)

    @app.task(name="pay", idempotent=True, unique=True, global_rate_limit="1/d")
    def pay(order: int) -> int:
        runs.append(order)
        return len(runs)

    assert [pay.delay(1).get(), pay.delay(1).get()] == [1, 2]
    app.close()


def test_the_claim_of_a_call_lasts_as_long_as_it_runs(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran for over an hour, and an equal call ran beside it."""
    monkeypatch.setattr("cloudq.execution.equal_calls._LEASE", 0.6)
    runs: list[int] = []
    seen: list[str] = []

    @app.task(name="t", idempotent=True)
    def task() -> int:
        runs.append(1)
        if len(runs) == 1:
            time.sleep(0.9)
            seen.append(app.step().reason)
        return len(runs)

    first, second = task.delay(), task.delay()
    app.work()
    assert "is running" in seen[0]
    assert (runs, first.get(timeout=0), second.get(timeout=0)) == ([1], 1, 1)


def test_the_claim_of_a_long_call_ends_an_hour_after_its_worker_has_died(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="t", idempotent=True, time_limit=86_000.0)
    def task() -> None:
        runs.append(1)

    task.delay()
    dead = app.one()
    app.settle(dead)
    app.broker.ack([dead])
    task.delay()
    app.clock.ahead += 3500
    assert "is running" in app.step().reason
    app.clock.ahead += 200
    app.step()
    assert runs == [1, 1]


def test_a_claim_is_not_renewed_once_another_delivery_has_it(
    app: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudq.execution.equal_calls._LEASE", 0.3)

    @app.task(name="t", idempotent=True)
    def task() -> None:
        time.sleep(0.5)

    task.delay()
    app.runner.run(app.job(app.one()))
    before = app.store.calls["update"]
    time.sleep(0.4)
    assert app.store.calls["update"] == before, "its call has ended"


def replacing(app: Bench, **options: Any) -> tuple[Any, list[int]]:
    """A task that is replaced by another, and the runs of that one."""
    runs: list[int] = []

    @app.task(name="effect", **options)
    def effect(number: int) -> int:
        runs.append(number)
        if number < 0 and len(runs) == 1:
            raise ValueError(number)
        return number * 2

    @app.task(name="swap", bind=True, idempotent=True)
    def swap(self: Task[..., int], number: int) -> None:
        self.replace(effect.s(number))

    return swap, runs


def test_a_call_that_is_replaced_keeps_its_claim_and_equal_calls_get_the_value_it_comes_to(
    app: Bench,
) -> None:
    swap, runs = replacing(app)
    first = swap.delay(4)
    app.step()
    second = swap.delay(4)
    replacement, waiting = app.receive(2)
    assert f"an equal call, {first.id}, is running" in app.settle(waiting).reason
    app.finish(waiting, app.settle(waiting))
    app.finish(replacement, app.settle(replacement))
    app.work()
    third = swap.delay(4)
    app.work()
    values = [result.get(timeout=0) for result in (first, second, third)]
    assert (values, runs) == ([8, 8, 8], [4])


def test_a_replacement_that_fails_frees_the_claim_of_its_call(app: Bench) -> None:
    swap, runs = replacing(app)
    first, second = swap.delay(-1), swap.delay(-1)
    app.work()
    assert (first.state, second.get(timeout=0), runs) == (State.FAILURE, -2, [-1, -1])


def test_the_claim_of_a_replaced_call_lasts_no_longer_than_its_record(app: Bench) -> None:
    swap, runs = replacing(app)
    app.results.expires = 500.0
    swap.delay(4)
    app.work()
    app.clock.ahead += 501
    swap.delay(4)
    assert "is running" not in app.step().reason
    app.work()
    assert runs == [4, 4]


def test_a_replacement_without_a_record_is_no_reason_to_wait(app: Bench) -> None:
    swap, runs = replacing(app, ignore_result=True)
    first, second = swap.delay(4), swap.delay(4)
    app.step()
    assert app.step().state is State.SUCCESS
    app.work()
    assert (runs, second.get(timeout=0)) == ([4], None)
    assert app.state(first) is State.PENDING


def test_the_replacement_of_a_call_may_be_an_equal_call(app: Bench) -> None:
    runs: list[int] = []

    @app.task(name="poll", bind=True, idempotent=True)
    def poll(self: Task[..., int]) -> int:
        runs.append(1)
        if len(runs) < 3:
            self.replace(poll.s())
        return len(runs)

    first, second = poll.delay(), poll.delay()
    app.work()
    assert (first.get(timeout=0), second.get(timeout=0), len(runs)) == (3, 3, 3)


def test_a_replacement_with_ids_of_its_caller_has_another_mark(app: Bench) -> None:
    _, runs = replacing(app)

    @app.task(name="chained", bind=True, idempotent=True)
    def chained(self: Task[..., int], number: int) -> None:
        effect = app.tasks["effect"]
        self.replace(chain(effect.s(number).set(task_id="given"), effect.s()))

    first, second = chained.delay(1), chained.delay(1)
    app.work()
    assert (first.get(timeout=0), second.get(timeout=0), runs) == (4, 4, [1, 2])
