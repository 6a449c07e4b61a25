"""Workflows on real workers: each comes to the same over SQLite and over SQS with DynamoDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudq import ChordError, CloudQ, State, chord, group
from cloudq.testing.waiting import PATIENCE
from tests.canvas.workflow_cases import CASES
from tests.servers import unique
from tests.worker.conftest import make
from tests.worker.flow_tasks import Tasks
from tests.worker.harness import Place


class Running:
    """A place with a worker at work, and workflows that were started together."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.tasks = Tasks(place.app)
        self.started: dict[str, Any] = {}

    def start_all(self) -> None:
        for name, (workflow, _) in CASES.items():
            self.started[name] = workflow(self.tasks).delay()


@pytest.fixture(scope="module", params=["sqlite", "sqs"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("flows")
    broker = backend = f"sqlite:///{folder}/cloudq.db"
    if request.param == "sqs":
        aws = request.getfixturevalue("aws")
        broker = f"sqs://?endpoint_url={aws.url}"
        backend = f"dynamodb://{unique('flows')}?endpoint_url={aws.url}"
    queue = unique("flows")
    app = CloudQ("flows", broker=broker, backend=backend, task_default_queue=queue)
    place = Place(
        app=app,
        broker=broker,
        backend=backend,
        queue=queue,
        folder=folder,
        tasks="flow_tasks:app",
        environment={"CLOUDQ_TASK_DEFAULT_QUEUE": queue},
    )
    try:
        if request.param == "sqs":
            make(place)
        place.start("--processes", "2", "--threads", "8")
        running = Running(place)
        running.start_all()
        yield running
    finally:
        place.close()


@pytest.mark.parametrize("case", CASES)
def test_what_a_workflow_comes_to(running: Running, case: str) -> None:
    assert running.started[case].get(timeout=PATIENCE) == CASES[case][1]


def test_a_failed_member_fails_the_body(running: Running) -> None:
    t = running.tasks
    inner = chord([t.fail.s(), t.add.s(1, 2)], t.total.s())
    result = chord([inner, t.add.s(1, 2)], t.total.s()).delay()
    with pytest.raises(ChordError, match="failed"):
        result.get(timeout=PATIENCE)
    assert result.state is State.FAILURE


def test_what_follows_a_failed_step_is_not_waited_for(running: Running) -> None:
    t = running.tasks
    result = (t.fail.s() | group(t.same.s(), t.same.s())).delay()
    with pytest.raises(ValueError, match="on purpose"):
        result.get(timeout=PATIENCE)


def test_headers_and_origins_travel(running: Running) -> None:
    t = running.tasks
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first = t.look.s().set(headers={"traceparent": parent, "tenant": "a"})
    result = (first | group(t.look.si(), t.look.si()) | t.same.s()).delay()
    members = result.get(timeout=PATIENCE)
    header = result.parent
    root = header.parent
    assert [m["id"] for m in members] == [leaf.id for leaf in header.leaves()]
    for member in members:
        assert (member["root"], member["parent"], member["group"]) == (root.id, root.id, header.id)
        assert member["headers"] == {"traceparent": parent, "tenant": "a"}


def test_nothing_is_left(running: Running) -> None:
    admin = running.place.app.broker.admin
    assert admin.peek_dead(running.place.queue, count=10) == []
