"""Errors of the user's logging and classes in a worker: no thread ends, nothing is repeated."""

from __future__ import annotations

import pytest

from cloudq import CloudQ, wait_for
from cloudq.testing.waiting import PATIENCE
from tests.worker import raising_tasks
from tests.worker.harness import Place, until


@pytest.fixture
def place(sqlite_place: Place) -> Place:
    sqlite_place.tasks = "raising_tasks:app"
    sqlite_place.app.close()
    sqlite_place.app = CloudQ(
        "drills",
        broker=sqlite_place.broker,
        backend=sqlite_place.backend,
        signing_keys={"k": "0123456789abcdef0123456789abcdef"},
        accept_content=["json", "pickle"],
    )
    return sqlite_place


def _is_empty(place: Place) -> bool:
    stats = place.app.broker.admin.stats("default")
    return not (stats.ready or stats.leased)


@pytest.mark.parametrize(
    "raises",
    [
        "handler:RuntimeError",
        "handler:Panic",
        "handler:SystemExit",
        "filter:RuntimeError",
        "formatter:Panic",
    ],
)
def test_a_worker_goes_on_whatever_the_users_logging_raises(place: Place, raises: str) -> None:
    place.environment["RAISES"] = raises
    worker = place.start("-c", "1")
    for number in range(3):
        failed = place.app.send_task("raising_tasks.fail", [number])
        assert isinstance(failed.get(timeout=PATIENCE, propagate=False), ValueError), worker.log()
    place.app.send_task("raising_tasks.unknown")
    assert place.app.send_task("raising_tasks.double", [4]).get(timeout=PATIENCE) == 8
    until(lambda: _is_empty(place), what="all messages are settled")
    told = [line for line in worker.log().splitlines() if line.startswith("cloudq: logging")]
    assert len(told) == 1
    assert "no room for records (" in told[0]
    assert "raising_tasks.py" in told[0]
    assert worker.stop() == 0


def test_what_logging_raises_for_a_tasks_own_record_is_the_tasks(place: Place) -> None:
    place.environment["RAISES"] = "handler:RuntimeError"
    worker = place.start("-c", "1")
    own = place.app.send_task("raising_tasks.log_and_fail")
    assert isinstance(own.get(timeout=PATIENCE, propagate=False), RuntimeError)
    assert worker.stop() == 0


def test_an_argument_that_panics_as_a_receiver_is_told_of_it_ends_no_thread(place: Place) -> None:
    place.environment["HEARS"] = "1"
    worker = place.start("-c", "1")
    broken = [
        place.app.send_task("raising_tasks.show", [raising_tasks.Panics()], serializer="pickle")
        for _ in range(3)
    ]
    wait_for(broken, timeout=PATIENCE)
    errors = [str(each.get(propagate=False)) for each in broken]
    assert errors == ["an argument cannot be unpickled: index out of bounds"] * 3
    assert place.app.send_task("raising_tasks.double", [4]).get(timeout=PATIENCE) == 8
    until(lambda: _is_empty(place), what="all messages are settled")
    assert worker.stop() == 0


def test_a_panic_in_a_services_library_ends_no_thread(place: Place) -> None:
    place.environment["PANICS"] = "receive ack extend"
    worker = place.start("-c", "1")
    results = [place.app.send_task("raising_tasks.double", [n]) for n in range(5)]
    wait_for(results, timeout=PATIENCE)
    assert [result.get() for result in results] == [0, 2, 4, 6, 8]
    until(lambda: _is_empty(place), what="all messages are settled")
    assert "as planned" in worker.log()
    assert worker.stop() == 0
