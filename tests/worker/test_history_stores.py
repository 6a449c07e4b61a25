"""Events on every backend: the newest first, found by one query, also where workers record them."""

from __future__ import annotations

import json
import time
import uuid

import pytest

from cloudq import CloudQ, State
from cloudq.monitoring.commands import answer, collect, make
from cloudq.monitoring.event_log import Reader
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from tests.worker.conftest import Cloudq
from tests.worker.harness import Place, until


def test_the_newest_failures_come_first_on_every_store(every_place: Place) -> None:
    app = CloudQ(
        "history",
        broker=f"memory://{uuid.uuid4().hex}",
        backend=every_place.backend,
        task_events="tracked",
    )

    @app.task(max_retries=0)
    def check(number: int) -> int:
        if number % 2:
            raise ValueError(f"odd {number}")
        return number

    with app:
        results = [check.delay(number) for number in range(12)]
        drain(app)
        reader = Reader(app.control.backend)
        assert reader.names() == [check.name]
        page = app.control.backend.query(f"events#{check.name}#FAILURE", limit=3)
        assert len(page.items) == 3
        newest = reader.newest(names=[check.name], states=[State.FAILURE], limit=3)
        assert [event.error for event in newest] == ["odd 11", "odd 9", "odd 7"]
        assert newest[0].id == results[11].id
        assert newest[0].args == "[[11],{}]"
        assert len(reader.newest()) == 12
        assert len(reader.newest(states=[State.STARTED])) == 12
        trail = reader.trail(results[4].id)
        assert trail is not None
        assert [event.state for event in trail.events] == [State.STARTED, State.SUCCESS]


def test_commands_and_replies_pass_through_every_store(every_place: Place) -> None:
    backend = every_place.app.backend
    assert backend is not None
    heartbeats, host = Heartbeats(backend), "worker/1 of shop#a"
    heart = Heartbeat(
        hostname=host, seen=time.time(), queues=["a", "b"], longest=[["id", "t", 1.5]]
    )
    assert heartbeats.beat(heart, first=True) == frozenset()
    assert heartbeats.alive() == [heart]
    commands = [make("ping", {"n": n}, lasts=PATIENCE, reply=True) for n in range(2)]
    assert all(heartbeats.tell(host, command.to_text()) for command in commands)
    waiting = heartbeats.beat(heart)
    assert waiting == {command.to_text() for command in commands}
    for command in commands:
        answer(backend, command, host, {"ok": command.arguments["n"]})
    assert heartbeats.beat(heart, handled=waiting) == frozenset()
    for n, command in enumerate(commands):
        assert collect(backend, command, [host], timeout=PATIENCE) == {host: {"ok": n}}
    heartbeats.leave(host)
    assert heartbeats.all() == []
    assert not heartbeats.tell(host, commands[0].to_text())


def test_what_workers_record_is_listed_shown_and_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch, cloudq: Cloudq
) -> None:
    monkeypatch.setenv("CLOUDQ_TASK_EVENTS", "final")
    place.start("--processes", "1", "--threads", "4")
    good = [place.app.send_task("drill_tasks.work", [n, 0.0], queue=place.queue) for n in range(3)]
    bad = place.app.send_task("drill_tasks.work", ["secret", "no number"], queue=place.queue)
    for result in (*good, bad):
        result.get(timeout=PATIENCE, propagate=False)
    reader = Reader(place.app.control.backend)
    until(lambda: len(reader.newest()) == 4, what="four events")
    listed = cloudq(place, "tasks", "list", "--name", "drill_tasks.work", "--json")
    events = json.loads(listed.stdout)
    assert {event["id"] for event in events} == {r.id for r in (*good, bad)}
    assert "secret" not in listed.stdout.replace("'secret'", "")
    failed = cloudq(place, "tasks", "list", "--state", "failure", "--since", "1h")
    assert bad.id in failed.stdout
    assert good[0].id not in failed.stdout
    shown = cloudq(place, "tasks", "show", bad.id)
    assert "redacted: --args shows them" in shown.stdout
    assert '[["secret"' not in shown.stdout
    assert '[["secret","no number"],{}]' in cloudq(place, "tasks", "show", bad.id, "--args").stdout
    tail = cloudq(place, "events", "--since", "1h", "--state", "FAILURE", "-n", "1", "--json")
    assert json.loads(tail.stdout)["id"] == bad.id
    assert cloudq(place, "tasks", "show", "nobody").returncode == 1
    assert "events have the states" in cloudq(place, "tasks", "list", "--state", "X").stderr
    assert "--since soon: give a span" in cloudq(place, "tasks", "list", "--since", "soon").stderr
