"""Workflows whose tasks run in a Lambda: joined as in a worker, however often it is repeated."""

from __future__ import annotations

from typing import Any

from cloudq import ChordError, CloudQ, State, chord, group
from cloudq.testing.waiting import PATIENCE
from cloudq_aws import lambda_handler
from tests.functions.aws.events import Context, EventSource


class Tasks:
    """Tasks that keep what they did."""

    def __init__(self, app: CloudQ) -> None:
        self.runs: list[Any] = []
        runs = self.runs

        @app.task(name="double")
        def double(x: int) -> int:
            runs.append(("double", x))
            return 2 * x

        @app.task(name="total")
        def total(values: list[int]) -> int:
            runs.append(("total", values))
            return sum(values)

        @app.task(name="fail", max_retries=0)
        def fail() -> None:
            raise ValueError("on purpose")

        self.double, self.total, self.fail = double, total, fail

    def bodies(self) -> int:
        return sum(name == "total" for name, _ in self.runs)


def work(app: CloudQ, source: EventSource) -> None:
    """Invoke the function with what is in the queue until nothing is left."""
    handler = lambda_handler(app)
    while (event := source.take(10, wait=1.0))["Records"]:
        assert source.settle(handler(event, Context())) == []


def test_a_chord_finishes_its_body_once(app: CloudQ, source: EventSource) -> None:
    t = Tasks(app)
    result = chord((t.double.s(n) for n in range(12)), t.total.s()).delay()
    work(app, source)
    assert result.get(timeout=PATIENCE) == 132
    assert t.bodies() == 1


def test_a_batch_that_is_invoked_twice_finishes_the_body_once(
    app: CloudQ, source: EventSource
) -> None:
    t = Tasks(app)
    result = chord([t.double.s(n) for n in range(5)], t.total.s()).delay()
    handler = lambda_handler(app)
    event = source.take(5)
    handler(event, Context())
    for record in event["Records"]:  # the first answer was lost on its way
        record["attributes"]["ApproximateReceiveCount"] = "2"
    source.settle(handler(event, Context()))
    work(app, source)
    assert result.get(timeout=PATIENCE) == 20
    assert t.bodies() == 1


def test_chords_in_chains_and_in_chords(app: CloudQ, source: EventSource) -> None:
    t = Tasks(app)
    inner = group(t.double.s(1), t.double.s(2)) | t.total.s()
    result = (chord([inner, t.double.s(5)], t.total.s()) | t.double.s()).delay()
    work(app, source)
    assert result.get(timeout=PATIENCE) == 32
    assert t.bodies() == 2


def test_a_failed_member_fails_the_body(app: CloudQ, source: EventSource) -> None:
    t = Tasks(app)
    result = chord([t.fail.s(), t.double.s(1)], t.total.s()).delay()
    work(app, source)
    error = result.get(timeout=PATIENCE, propagate=False)
    assert isinstance(error, ChordError)
    assert "(fail) failed: ValueError: on purpose" in str(error)
    assert result.state is State.FAILURE
    assert t.bodies() == 0


def test_a_direct_call_that_starts_a_chain(app: CloudQ, source: EventSource) -> None:
    Tasks(app)
    event = {
        "task": "double",
        "args": [3],
        "chain": [{"task": "double", "id": "the-second"}],
    }
    assert lambda_handler(app)(event, Context())["result"] == 6
    work(app, source)
    assert app.AsyncResult("the-second").get(timeout=PATIENCE) == 12
