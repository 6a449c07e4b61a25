"""A worker that waits for messages stops soon, and what its last receive gets comes again."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from cloudq.cli.commands.worker import POLL_WAIT, poll_wait
from cloudq.testing.kit.proxy import _Handler  # pyright: ignore[reportPrivateUsage]
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.leases import FIRST
from localstack.servers import Endpoint
from tests.worker.fault_drill import LEASE, WORKER, drilled
from tests.worker.harness import until

# ---- at a terminal


def test_the_polls_of_a_worker_are_short_where_a_person_has_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, others = os.openpty()
    with open(own, "rb"), open(others) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert 1 <= poll_wait(None) <= 2
        assert poll_wait(20.0) == 20.0
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert poll_wait(None) == POLL_WAIT
    monkeypatch.setattr(sys, "stdin", None)
    assert poll_wait(None) == POLL_WAIT


# ---- on SQS, whose polls go on when the caller has gone


class Outliving(_Handler):
    """Goes on with a long poll until it gets a message, whether its caller is there or not."""

    leases: ClassVar[dict[bool, int]]  # by whether it is a long poll
    waiting: ClassVar[int]
    taken: ClassVar[int]
    over: ClassVar[threading.Event]

    def _passed_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        answer = super()._passed_on(body)
        if not self.headers.get("X-Amz-Target", "").endswith(".ReceiveMessage"):
            return answer
        asked = json.loads(body)
        is_long = asked["WaitTimeSeconds"] > 1
        Outliving.leases[is_long] = asked["VisibilityTimeout"]
        if is_long:
            Outliving.waiting += 1
            while not (self.over.is_set() or json.loads(answer[2]).get("Messages")):
                answer = super()._passed_on(body)
            Outliving.waiting -= 1
            Outliving.taken += bool(json.loads(answer[2]).get("Messages"))
        return answer


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setenv("CLOUDQ_WORKER_POLL_WAIT", "2")
    Outliving.leases, Outliving.waiting, Outliving.taken = {}, 0, 0
    Outliving.over = threading.Event()
    yield Outliving.over
    Outliving.over.set()


@pytest.mark.drill
def test_a_stop_does_not_wait_for_a_long_poll_whose_message_comes_again(
    aws: Endpoint, tmp_path: Path, over: threading.Event
) -> None:
    with drilled(aws, tmp_path, Outliving) as drill, closing(drill.place.app) as app:
        until(lambda: Outliving.waiting, what="a long poll is under way")
        assert drill.worker.stop() == 0
        assert Outliving.waiting == 1
        assert "left the receive under way" in drill.worker.log()
        result = app.send_task("square", [3])
        until(lambda: Outliving.taken, what="the poll of the worker that has left gets it")
        assert not result.ready()
        over.set()
        drill.place.start(*WORKER)
        assert result.get(timeout=PATIENCE) == 9
    assert Outliving.leases == {True: FIRST, False: LEASE}
