"""One request that takes long holds up neither its queue nor what others have done."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.slots import Slots
from localstack.servers import Endpoint
from tests.worker.fault_drill import drilled
from tests.worker.harness import until

pytestmark = pytest.mark.drill


class Holding(_Handler):
    """Holds so many requests of one kind until `go`."""

    operation: ClassVar[str]
    left: ClassVar[int]
    held: ClassVar[int]
    go: ClassVar[threading.Event]

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        if operation == self.operation and Holding.left and has_slots(json.loads(body)):
            Holding.left -= 1
            Holding.held += 1
            assert self.go.wait(PATIENCE)
        return super()._passed_on(body)


def has_slots(request: dict[str, Any]) -> bool:
    """Tell a receive that has slots from a long poll, which waits for longer."""
    return request.get("WaitTimeSeconds", 0) <= 1


@pytest.fixture
def go() -> Iterator[threading.Event]:
    Holding.go = threading.Event()
    Holding.held = 0
    yield Holding.go
    Holding.go.set()


def test_a_receive_that_is_late_has_others_made_beside_it(
    aws: Endpoint, tmp_path: Path, go: threading.Event
) -> None:
    Holding.operation, Holding.left = "ReceiveMessage", 1
    with drilled(aws, tmp_path, Holding) as drill:
        until(lambda: Holding.held, what="the first receive is held")
        drill.run({}, calls=40, chords=2)
        assert not go.is_set()
        go.set()
        assert drill.worker.stop() == 0


def test_commits_that_are_late_hold_up_no_other_outcome(
    aws: Endpoint, tmp_path: Path, go: threading.Event
) -> None:
    Holding.operation, Holding.left = "BatchWriteItem", 4  # as many as there are threads
    with drilled(aws, tmp_path, Holding) as drill, closing(drill.place.app) as app:
        first = []
        for number in range(4):
            first.append(app.send_task("square", [number]))
            until(lambda held=number + 1: Holding.held == held, what="its commit is held")
        later = [app.send_task("square", [number]) for number in range(10, 30)]
        assert [each.get(timeout=PATIENCE) for each in later] == [n * n for n in range(10, 30)]
        assert not any(each.ready() for each in first)
        go.set()
        assert [each.get(timeout=PATIENCE) for each in first] == [0, 1, 4, 9]
        assert drill.worker.stop() == 0


class Failing(_Handler):
    """Fails the first receives, as many as the SDK makes of one; notes what all ask for."""

    asked: ClassVar[list[int]]

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self.headers.get("X-Amz-Target", "").endswith(".ReceiveMessage"):
            self.asked.append(json.loads(body)["MaxNumberOfMessages"])
            if len(self.asked) <= 3:
                return 500, {}, b'{"__type": "InternalFailure", "message": "on purpose"}'
        return super()._passed_on(body)


def test_a_receive_that_failed_alone_is_made_again_for_as_many(
    aws: Endpoint, tmp_path: Path
) -> None:
    Failing.asked = []
    with drilled(aws, tmp_path, Failing) as drill:
        until(lambda: len(Failing.asked) > 3, what="it is made again")
        assert Failing.asked[:4] == [10, 10, 10, 10]
        assert drill.worker.stop() == 0


def test_slots_that_are_free_are_taken_at_once_or_not_at_all() -> None:
    slots = Slots(5, {"a": 1, "b": 1})
    assert slots.take_free("a", 3) == 3
    assert slots.take_free("a", 3) == 2
    assert slots.take_free("a", 3) == 0
    slots.give(1)
    assert slots.take_free("gone", 3) == 0
    waits = threading.Thread(target=slots.take, args=("b", 5), kwargs={"linger": PATIENCE})
    waits.start()
    until(lambda: slots._waiting, what="b waits")  # pyright: ignore[reportPrivateUsage]
    assert slots.take_free("a", 1) == 0  # b comes first
    slots.close()
    waits.join(PATIENCE)
    assert slots.take_free("a", 1) == 0
