"""Ending what runs from a result: `revoke(terminate=True)` of calls, groups and workflows."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from cloudq import AsyncResult, CloudQ, ConfigurationError, TaskRevoked, group
from cloudq.results.record import State
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, until

POOL = ("-A", "drill_tasks:app", "--processes", "1", "--threads", "3", "--lease", "5")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that a test can wait for; the default is for a bill."""
    monkeypatch.setenv("CLOUDQ_WORKER_HEARTBEAT", "0.5")


def test_a_running_call_is_ended_by_its_result(place: Place) -> None:
    place.start(*POOL)
    eventually(place.app.control.heartbeats.alive)
    result = place.app.send_task("drill_tasks.nap", ["one", 3600.0], queue=place.queue)
    until(lambda: "start one" in place.entries(), what="it runs")
    assert result.revoke()  # which alone lets it run on
    assert not result.ready()
    assert result.revoke(terminate=True, signal="SIGKILL", wait=True)
    with pytest.raises(TaskRevoked, match="terminated"):
        result.get(timeout=PATIENCE)
    assert not result.revoke(terminate=True)  # it has ended
    assert place.counts() == {"start one": 1}


def test_members_of_a_group_and_what_is_before_it_are_ended(sqlite_place: Place) -> None:
    app = sqlite_place.app
    sqlite_place.start(*POOL)
    eventually(app.control.heartbeats.alive)
    naps = [app.signature("drill_tasks.nap", [f"n{i}", 3600.0]) for i in range(4)]
    members = group(naps).delay()
    until(lambda: len(sqlite_place.entries()) == 3, what="three of four run")
    members.revoke(terminate=True, signal=signal.SIGTERM, wait=True)
    for member in members.leaves():
        with pytest.raises(TaskRevoked):
            member.get(timeout=PATIENCE)
    assert {member.state for member in members.leaves()} == {State.REVOKED}
    assert "end n0" not in sqlite_place.entries()
    first = app.signature("drill_tasks.nap", ["first", 3600.0])
    flow: AsyncResult[Any] = (first | app.signature("drill_tasks.nap", [0.0])).delay()
    until(lambda: "start first" in sqlite_place.entries(), what="the chain runs")
    assert flow.revoke(terminate=True)
    with pytest.raises(TaskRevoked, match="terminated"):
        flow.parent.get(timeout=PATIENCE)


def test_commands_of_large_groups_are_told_in_parts(sqlite_place: Place) -> None:
    app = sqlite_place.app
    sqlite_place.start(*POOL, "-n", "one")
    eventually(app.control.heartbeats.alive)
    ids = [f"id-{n}" for n in range(1100)]
    told = app.control.revoke(ids, terminate=True, reply=True, timeout=PATIENCE)
    assert told is not None
    said = [reply["one"]["ok"] for reply in told]
    assert [text.count("id-") for text in said] == [500, 500, 100]


def test_another_signal_is_refused_before_anything_is_revoked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    with CloudQ("plain", broker=url, backend=url) as app:
        result = app.send_task("gone")
        for wrong in ("SIGUSR1", signal.SIGUSR1, 99):
            with pytest.raises(ConfigurationError, match="a task is ended by one of"):
                result.revoke(terminate=True, signal=wrong)
        assert not result.record.revoked
        lone: AsyncResult[object] = AsyncResult(result.id, app.backend)
        with pytest.raises(ConfigurationError, match="knows no workers"):
            lone.revoke(terminate=True)
        assert not result.record.revoked
        assert lone.revoke()


def test_the_queues_of_an_app_are_emptied_with_a_count(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/q.db"
    app = CloudQ("plain", broker=url, backend=url, priority_queues=["mail"])
    with app:
        mail = app.task(name="mail", queue="mail", priority=9)(print)
        plain = app.task(name="plain")(print)
        assert app.control.purge() == 0
        plain.delay()
        plain.apply_async(countdown=500)
        mail.delay()
        app.send_task("foreign", queue="another")
        assert app.control.discard_all() == 3
        assert app.broker.admin.stats("default").ready == 0
        assert app.broker.admin.stats("mail-high").ready == 0
        assert app.broker.admin.stats("another").ready == 1  # no task of the app names it
        assert app.control.purge() == 0


@pytest.mark.parametrize("cloud", ["sqs", "pubsub", "servicebus"])
def test_queues_in_clouds_are_emptied(cloud: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue(f"{cloud}_place")
    app = place.app
    missing = app.task(name="elsewhere", queue=f"{place.queue}-missing")
    missing(print)  # its queue was never made: nothing is in it
    app.send_task("drill_tasks.pid", queue=place.queue)
    app.send_task("drill_tasks.pid", queue=place.queue, countdown=300)
    count = app.control.purge()
    assert count == (None if cloud == "pubsub" else 2)
    if cloud == "pubsub":  # what is delayed was parked in the store
        assert app.broker.scheduled(place.queue, count=10) == []
