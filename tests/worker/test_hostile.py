"""Hostile messages at a real worker: they go to the dead letters, and nothing beside them waits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudq import SoftTimeLimitExceeded, State
from cloudq.driver import Delivery, Outgoing
from cloudq.execution.settlement import Action, Settlement
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.control.counters import UNREGISTERED, Counters
from tests.worker.harness import Place, until

PID = "drill_tasks.pid"
HOSTILE: dict[str, dict[str, Any]] = {
    "slot": {"slot": "x"},
    "slot-expired": {"slot": "x", "expires": 1},
    "chain": {"chain": [{"bogus": 1}]},
    "link": {"link_error": [{"task": PID, "options": {"countdown": "x"}}]},
    "retries": {"retries": 10**4000},
    "serializer": {"serializer": "nope"},
    "soft": {"soft_time_limit": 1e308},
    "hard": {"time_limit": 1e308},
    "unknown-slot": {"task": "gone", "slot": "x"},
    "unknown-chain": {"task": "gone", "chain": [5]},
    "shadow": {"shadow": "x" * 3000},
}


def test_hostile_messages_take_no_slot_and_stop_nobody(sqlite_place: Place) -> None:
    place = sqlite_place
    place.environment["CLOUDQ_TASK_EVENTS"] = "final"
    sent = [
        Outgoing(
            id=f"{name}-{copy}",
            body=json.dumps({"v": 1, "id": f"{name}-{copy}", "task": PID} | fields).encode(),
        )
        for name, fields in HOSTILE.items()
        for copy in range(3)
    ]
    sent.append(Outgoing(id="big", body=b'{"v":1,"id":"big","task":"drill_tasks.pid","x":1e400}'))
    assert not place.app.broker.driver.send(place.queue, sent)
    worker = place.start("--processes", "1", "--threads", "2", "--lease", "2")
    results = [place.app.send_task(PID) for _ in range(10)]
    assert len({result.get(timeout=PATIENCE) for result in results}) == 1
    admin = place.app.broker.admin
    until(
        lambda: len(admin.peek_dead(place.queue, count=100)) == 3 * len(HOSTILE),
        what="the dead letters",
    )
    assert all(dead.reason for dead in admin.peek_dead(place.queue, count=100))
    until(
        lambda: (admin.stats(place.queue).ready, admin.stats(place.queue).leased) == (0, 0),
        what="nothing is kept leased",
    )
    for name in HOSTILE:  # the caller hears of it, and does not wait for ever
        assert place.app.AsyncResult(f"{name}-0").state is State.FAILURE, name
    assert "Traceback" not in worker.log()


def test_a_soft_limit_still_holds_after_them(sqlite_place: Place) -> None:
    place = sqlite_place
    body = json.dumps({"v": 1, "id": "far", "task": PID, "soft_time_limit": 3e9}).encode()
    place.app.broker.driver.send(place.queue, [Outgoing(id="far", body=body)])
    place.start("--processes", "1", "--threads", "2")
    assert place.app.AsyncResult("far").get(timeout=PATIENCE)
    nap = place.app.send_task("drill_tasks.hold", ["nap"], soft_time_limit=0.5)
    with pytest.raises(SoftTimeLimitExceeded):
        nap.get(timeout=PATIENCE)


def test_only_registered_tasks_are_counted_by_name() -> None:
    counters = Counters({"known"})
    delivery = Delivery(queue="q", id="1", body=b"{}", receipt=None, attempts=1, lease=60)
    for number in range(1000):
        for name in ("known", f"gone-{number}"):
            settlement = Settlement(
                action=Action.ACK, task=f"shadow {number}", name=name, state=State.SUCCESS
            )
            counters.add([(delivery, settlement)])
    assert counters.ends() == {("known", "SUCCESS"): 1000, (UNREGISTERED, "SUCCESS"): 1000}
