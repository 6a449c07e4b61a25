"""Steps that are done once, and states to go on from, in workers and in functions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, EncodeError, InvalidArguments, State
from cloudq.driver.log import Log
from cloudq.execution.deadline import Deadline
from cloudq.execution.invocation import Invocation
from cloudq.execution.outcomes import Job
from cloudq.execution.settlement import Action
from cloudq.tasks.checkpoints import Progress
from tests.support.bench import Bench


@pytest.fixture
def charge(app: Bench) -> Any:
    """A task of two steps that fails between them, once for each error in `errors`."""
    did: list[str] = []
    errors: list[BaseException] = []

    def step(name: str) -> str:
        did.append(name)
        return f"{name} {len(did)}"

    @app.task(name="t", bind=True, autoretry_for=[OSError])
    def charge(this: Any) -> list[str]:
        first = this.once("first", step, "first")
        if errors:
            raise errors.pop()
        return [first, this.once("second", step, "second")]

    charge.did, charge.errors = did, errors  # type: ignore[attr-defined]
    return charge


def test_a_retry_does_not_do_a_step_again(app: Bench, charge: Any) -> None:
    charge.errors += [OSError(), OSError()]
    result = charge.delay()
    app.work()
    assert result.get(timeout=0) == ["first 1", "second 2"]
    assert charge.did == ["first", "second"]


def test_a_redelivery_does_not_do_a_step_again(app: Bench, charge: Any) -> None:
    result = charge.delay()
    app.settle(app.one())  # and its process died
    app.lose_leases()
    app.step()
    assert result.get(timeout=0) == ["first 1", "second 2"]


def test_a_step_of_another_call_is_another_step(app: Bench, charge: Any) -> None:
    results = [charge.delay(), charge.delay()]
    app.work()
    assert [result.get(timeout=0)[0] for result in results] == ["first 1", "first 3"]


def test_a_step_that_raises_is_not_done(app: Bench) -> None:
    tries: list[int] = []

    def step() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError
        return len(tries)

    @app.task(name="t", bind=True, autoretry_for=[OSError])
    def task(this: Any) -> int:
        return this.once("step", step)

    result = task.delay()
    app.work()
    assert result.get(timeout=0) == 3


def test_of_two_that_did_a_step_at_once_the_first_record_counts(app: Bench) -> None:
    copies: list[Job] = []
    did: list[int] = []

    def step() -> int:
        if copies:  # meanwhile another copy of the same message does the step too
            app.runner.run(copies.pop())
        did.append(1)
        return len(did)

    task = app.task(name="t", bind=True)(lambda this: this.once("step", step))
    task.delay()
    job = app.job(app.one())
    copies.append(job)
    settlement = app.runner.run(job)
    assert settlement.record is not None
    assert (settlement.record.value, len(did)) == ("1", 2)


def test_values_come_back_as_they_were(app: Bench) -> None:
    value = {"n": [1, None], "when": b"x", 3: {4}}
    seen: list[object] = []

    @app.task(name="t", bind=True, autoretry_for=[OSError])
    def task(this: Any) -> None:
        seen.append(this.once("step", lambda: value))
        if len(seen) == 1:
            raise OSError

    task.delay()
    app.work()
    assert seen == [value, value]


@dataclass
class Receipt:
    number: int


@pytest.mark.parametrize(
    "value", [Receipt(1), (1, (2,)), {"a": (1,)}, [Receipt(2)], bytearray(b"x")]
)
def test_the_first_run_gets_what_a_later_one_gets(app: Bench, value: object) -> None:
    seen: list[object] = []

    async def give() -> object:
        return value

    @app.task(name="t", bind=True, autoretry_for=[OSError])
    async def task(this: Any) -> None:
        seen.extend([this.once("one", lambda: value), await this.aonce("two", give)])
        if len(seen) == 2:
            raise OSError

    task.delay()
    app.work()
    assert len(seen) == 4
    assert {(type(each), repr(each)) for each in seen} == {(type(seen[3]), repr(seen[3]))}


def test_what_can_be_no_step_fails_the_call(app: Bench) -> None:
    @app.task(name="t", bind=True)
    def task(this: Any, name: str, value: object = None) -> None:
        this.once(name, lambda: value if name != "odd" else object())

    results = [task.delay(name) for name in ("", "x" * 201, "odd")]
    app.work()
    for result, error in zip(
        results, (InvalidArguments, InvalidArguments, EncodeError), strict=True
    ):
        with pytest.raises(error):
            result.get(timeout=0)


def test_a_coroutine_has_steps_too(app: Bench) -> None:
    did: list[int] = []

    async def step(n: int) -> int:
        did.append(n)
        return n + 1

    @app.task(name="t", bind=True, autoretry_for=[OSError])
    async def task(this: Any) -> int:
        value = await this.aonce("step", step, 4)
        if not this.request.retries:
            raise OSError
        return value

    result = task.delay()
    app.work()
    assert (result.get(timeout=0), did) == (5, [4])


def test_a_step_costs_two_requests_and_one_when_it_is_done(app: Bench, charge: Any) -> None:
    charge.errors.append(OSError())
    charge.delay()
    app.step()
    assert app.store.calls == {"get": 2, "update": 1}
    app.store.calls.clear()
    app.step()
    assert app.store.calls == {"get": 3, "update": 1, "put": 1}


def test_without_a_store_steps_are_refused_but_for_eager_calls() -> None:
    with CloudQ("none", broker="memory://no-store-steps", backend="none") as app:

        @app.task(name="t", bind=True)
        def task(this: Any) -> int:
            this.checkpoint(1)
            return this.once("step", lambda: this.resume(5))

        assert task.apply().get() == 5
        task.delay()
        executor = app.executor()
        [delivery] = app.broker.receive("default", count=1, wait=0, lease=60)
        settlement = executor.run(executor.open([delivery])[0][0])
        assert isinstance(settlement.error, ConfigurationError)
        assert "t: self.checkpoint needs the result backend" in str(settlement.error)


# ---- checkpoints


def counting(app: CloudQ, pause: float = 0.0, **options: Any) -> tuple[Any, list[int]]:
    did: list[int] = []

    @app.task(name="count", bind=True, **options)
    def count(this: Any, up_to: int, fail_at: int = -1) -> int:
        for n in range(this.resume(0), up_to):
            if n == fail_at and n not in did:
                did.append(n)
                raise OSError
            did.append(n)
            time.sleep(pause)
            this.checkpoint(n + 1)
        return up_to

    return count, did


def test_a_retry_goes_on_where_the_last_try_was(app: Bench) -> None:
    count, did = counting(app, autoretry_for=[OSError])
    result = count.delay(6, fail_at=3)
    app.work()
    assert (result.get(timeout=0), did) == (6, [0, 1, 2, 3, 3, 4, 5])


def test_a_redelivery_goes_on_where_the_dead_was(app: Bench) -> None:
    count, did = counting(app)
    result = count.delay(3)
    app.settle(app.one())
    app.lose_leases()
    app.step()
    assert (result.get(timeout=0), did) == (3, [0, 1, 2])


def test_in_a_worker_a_checkpoint_only_saves(app: Bench) -> None:
    count, _ = counting(app, soft_time_limit=5.0)
    result = count.delay(50)
    assert app.step().state is State.SUCCESS
    assert result.ready()


def test_who_was_overtaken_stops_at_its_checkpoint(app: Bench) -> None:
    did: list[str] = []

    @app.task(name="t", bind=True)
    def task(this: Any) -> None:
        if this.request.attempts == 1:
            app.lose_leases()
            app.step()
            did.append("late")
        this.checkpoint(this.request.attempts)
        did.append(f"after {this.request.attempts}")

    task.delay()
    settlement = app.settle(app.one())
    assert settlement.action is Action.NOTHING
    assert did == ["after 2", "late"]


def test_a_function_goes_on_in_the_next_invocation(app: Bench) -> None:
    app.configure_deliveries(2)
    count, did = counting(app, pause=0.06)
    result = count.delay(30)
    invocations = 0
    while not result.ready():
        [delivery] = app.receive(1)
        assert delivery.attempts == 1
        invocation = Invocation(
            app.executor(stop_at_hard_limit=True),
            deadline=Deadline.after(1.0, reserve=0.0),
            log=Log("cloudq.functions"),
        )
        assert invocation.run([delivery]) == []
        app.broker.ack([delivery])
        invocations += 1
        assert invocations < 30
    assert did == list(range(30))
    assert invocations > 1
    assert result.get(timeout=0) == 30


def test_the_rest_of_a_call_is_the_same_call(app: Bench) -> None:
    count, _ = counting(app, pause=0.15, time_limit=600.0)
    result = count.apply_async([10], idempotency_key="k", headers={"a": "b"})
    before = app.sent()[0]
    job = app.job(app.one())
    settlement = Deadline.after(1.0, reserve=0.0).run(app.runner, job)
    assert settlement.action is Action.ACK
    assert settlement.resend is not None
    assert settlement.drop is None
    after = settlement.resend.changed()
    assert after == {k: v for k, v in before.items() if k != "v"} | {"continued": 1}
    app.finish(job.delivery, settlement)
    app.work()
    assert result.get(timeout=0) == 10


def test_one_that_is_interrupted_after_a_checkpoint_goes_on_from_it(app: Bench) -> None:
    @app.task(name="t", bind=True)
    def task(this: Any) -> int:
        state = this.resume(0)
        this.checkpoint(state + 1)
        while state == 0:
            time.sleep(0.005)
        return state

    result = task.delay()
    job = app.job(app.one())
    executor = app.executor(stop_at_hard_limit=True)
    settlement = Deadline.after(1.0, reserve=0.0).run(executor, job)
    assert (settlement.action, settlement.state) == (Action.ACK, None)
    assert settlement.resend is not None
    app.finish(job.delivery, settlement)
    app.work()
    assert result.get(timeout=0) == 1


def test_another_step_is_begun_only_if_there_is_time_for_it() -> None:
    now = [0.0]
    progress = Progress(10.0, lambda: now[0])
    answers: list[bool] = []
    for length in (1.0, 1.0, 3.0, 0.5, 0.1, 1.0):
        now[0] += length
        answers.append(progress.step())
    assert answers == [True, True, True, False, False, False]
