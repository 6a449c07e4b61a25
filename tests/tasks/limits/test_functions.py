"""Limits in functions: what is over one is acked to the platform, and comes back as a message."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq.driver.log import Log
from cloudq.execution.deadline import Deadline
from cloudq.execution.direct_call import DirectCall, run_call
from cloudq.execution.invocation import Invocation
from cloudq.tasks.limits.concurrency import Permit, PermitRequest, acquire, permits_key
from cloudq_aws.functions import lambda_handler
from tests.support.bench import Bench


def invoke(app: Bench) -> Invocation:
    return Invocation(
        app.executor(stop_at_hard_limit=True),
        deadline=Deadline.after(60.0, reserve=0.0),
        log=Log("cloudq.functions"),
    )


def limited(app: Bench, **options: Any) -> tuple[Any, list[int]]:
    ran: list[int] = []
    task = app.task(name="t", **options)(lambda n=0: ran.append(n))
    return task, ran


@pytest.mark.parametrize("option", ["rate_limit", "global_rate_limit"])
def test_what_is_over_a_rate_is_acked_and_comes_back(app: Bench, option: str) -> None:
    task, ran = limited(app, **{option: "1/m"})
    app.publish(task.prepare(n) for n in range(3))
    deliveries = app.receive(3)
    assert invoke(app).run(deliveries) == []
    app.broker.ack(deliveries)
    assert len(ran) == 1
    assert [message["waits"] for message in app.sent()] == [1, 1]
    # What the invocation has left of its time is no limit of the copy.
    assert "time_limit" not in app.sent()[0]


def test_what_finds_its_key_busy_is_acked_and_comes_back(app: Bench) -> None:
    task, ran = limited(app, concurrency="k")
    request = PermitRequest(owner="other", fence=1, delivery="d")
    other = acquire(app.results, permits_key("t", "k"), 1, request, 60.0)
    assert isinstance(other, Permit)
    task.delay()
    deliveries = app.receive(1)
    assert invoke(app).run(deliveries) == []
    app.broker.ack(deliveries)
    other.release()
    app.work()
    assert ran == [0]


def test_a_place_is_held_for_no_longer_than_the_invocation_may_run(app: Bench) -> None:
    until: list[float] = []

    @app.task(name="t", concurrency="k")
    def task() -> None:
        [item] = app.results.get([permits_key("t", "k")]).values()
        until.append(float(str(item.fields["h0"]).split(" ")[0]) - app.clock())

    task.delay()
    invoke(app).run(app.receive(1))
    assert 60 <= until[0] <= 91


def test_a_direct_call_that_is_over_a_limit_says_that_it_waits(app: Bench) -> None:
    task, ran = limited(app, global_rate_limit="1/m")
    task.delay()
    app.work()
    fields = {"v": 1, "id": "direct", "task": "t", "args": [5]}
    call = DirectCall(fields=fields, queue="default", request="r")
    answer = run_call(invoke(app), call)
    assert answer["state"] == "PENDING"
    assert "over 1/m in all" in answer["reason"]
    app.work()
    assert ran == [0, 5]


def test_a_lambda_keeps_one_gate_for_all_of_its_invocations(app: Bench) -> None:
    task, ran = limited(app, rate_limit="1/h")
    handler = lambda_handler(app)
    answers = [handler({"task": "t", "args": [n]}, None) for n in range(2)]
    assert ran == [0]
    assert "over 1/h in this worker" in answers[1]["reason"]
    assert task.name == "t"
