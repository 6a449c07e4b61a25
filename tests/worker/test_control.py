"""`inspect` and `control` against two live workers, on SQLite and on SQS with DynamoDB."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from cloudq import ConfigurationError, State, TaskRevoked
from cloudq.app import CloudQ
from cloudq.driver import Change, Delivery, Key
from cloudq.execution.outcomes import Job
from cloudq.messages.message import TaskMessage
from cloudq.monitoring.control import Inspect
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from cloudq.worker.control.commands import masked
from cloudq.worker.in_flight import Flights
from cloudq.worker.pool.dispatcher import Dispatcher
from cloudq.worker.settler import Settler
from localstack.servers import Endpoint
from tests.worker.conftest import Cloudq, sqlite_at, sqs_at
from tests.worker.harness import Place, Worker, until
from tests.worker.test_worker import Proxy

POOL = ("-A", "control_tasks:app", "--processes", "1", "--threads", "2", "--lease", "5")
BEAT = "0.5"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that a test can wait for; the default is for a bill."""
    monkeypatch.setenv("CLOUDQ_WORKER_HEARTBEAT", BEAT)


def started(place: Place) -> Place:
    """Start two workers, `one` and `two`, on the queue of a place."""
    place.environment["CLOUDQ_WORKER_HEARTBEAT"] = BEAT
    for name in ("one", "two"):
        place.start(*POOL, "-n", name, ready=False)
    place.await_workers()
    assert eventually(lambda: len(place.app.control.heartbeats.alive()) == 2)
    return place


@pytest.fixture
def two(place: Place) -> Place:
    """Two live workers of one test, which may leave them as it likes."""
    return started(place)


@pytest.fixture(scope="module", params=["sqlite", "sqs"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Two live workers of all tests that leave them as they are."""
    folder = tmp_path_factory.mktemp("pair")
    on_sqs = request.param == "sqs"
    made = sqs_at(request.getfixturevalue("aws"), folder) if on_sqs else sqlite_at(folder)
    with closing(made) as place:
        yield started(place)


def ok(replies: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Take the texts out of `{hostname: {"ok": ...}}` replies, by hostname."""
    assert replies is not None
    merged = {host: reply for each in replies for host, reply in each.items()}
    return {host: reply.get("ok", reply) for host, reply in merged.items()}


def test_two_workers_say_what_they_do(pair: Place) -> None:
    app, look = pair.app, pair.app.control.inspect(timeout=PATIENCE)
    assert look.ping() == {"one": {"ok": "pong"}, "two": {"ok": "pong"}}
    assert app.control.ping(destination=["two"], timeout=PATIENCE) == [{"two": {"ok": "pong"}}]
    naps = [app.send_task("drill_tasks.hold", [f"n{i}"], queue=pair.queue) for i in range(3)]
    later = app.send_task("drill_tasks.pid", countdown=500, queue=pair.queue)
    until(lambda: len(pair.entries()) >= 3, what="three naps run")
    active = look.active()
    assert active is not None
    running = [task for tasks in active.values() for task in tasks]
    assert {task["id"] for task in running} == {nap.id for nap in naps}
    assert {task["name"] for task in running} == {"drill_tasks.hold"}
    assert {task["args"][0] for task in running} == {"n0", "n1", "n2"}
    assert all(
        task["worker_pid"] and time.time() - task["time_start"] < PATIENCE for task in running
    )
    assert set(map(len, active.values())) == {1, 2}  # each has two places
    queried = look.query_task(naps[0].id, "nobody")
    assert queried is not None
    [(state, described)] = [found[naps[0].id] for found in queried.values() if found]
    assert (state, described["id"]) == ("active", naps[0].id)
    registered = look.registered()
    assert registered is not None
    assert "drill_tasks.nap" in registered["one"]
    queues = look.active_queues()
    assert queues is not None
    assert [queue["name"] for queue in queues["two"]] == [pair.queue]
    conf = look.conf()
    assert conf is not None
    assert conf["one"]["worker_heartbeat"] == 0.5
    assert "nowhere" in str(conf["one"]["task_routes"])
    assert "cloudq" in (look.report() or {})["one"]["ok"]
    scheduled = look.scheduled()
    assert scheduled is not None
    if pair.broker.startswith("sqlite"):  # SQS does not show its delayed messages
        assert [each["request"]["id"] for each in scheduled["one"]] == [later.id]
    assert (look.reserved() or {}).keys() == {"one", "two"}
    # Once they have ended they are counted.
    pair.let_go()
    for nap in naps:
        nap.get(timeout=PATIENCE)
    stats = look.stats()
    assert stats is not None
    assert sum(each["total"].get("drill_tasks.hold", 0) for each in stats.values()) == 3
    assert {each["pool"]["max-concurrency"] for each in stats.values()} == {2}
    assert look.active() == {"one": [], "two": []}


def test_revoked_tasks_do_not_run_whether_they_wait_or_are_delayed_or_run(pair: Place) -> None:
    app, control = pair.app, pair.app.control

    def begun() -> list[str]:
        return [entry for entry in pair.entries() if entry.startswith("start f")]

    fill = [app.send_task("drill_tasks.nap", [f"f{i}", 3600.0], queue=pair.queue) for i in range(4)]
    until(lambda: len(begun()) == 4, what="all places are taken")
    queued = app.send_task("drill_tasks.nap", ["queued", 0.0], queue=pair.queue)
    delayed = app.send_task("drill_tasks.nap", ["delayed", 0.0], countdown=3, queue=pair.queue)
    control.revoke([queued.id, delayed.id])
    assert not queued.ready()
    # Two that run are ended, which makes room for those that wait.
    victims = [fill[0].id, fill[3].id]
    told = ok(control.revoke(victims, terminate=True, reply=True, timeout=PATIENCE))
    assert told.keys() == {"one", "two"}
    for result in (fill[0], fill[3], queued, delayed):
        with pytest.raises(TaskRevoked):
            result.get(timeout=PATIENCE)
        assert result.state is State.REVOKED
    assert fill[0].record.error == "terminated"
    assert queued.record.error == "revoked"
    assert {"start queued", "start delayed", "end f0", "end f3"}.isdisjoint(pair.entries())
    # Neighbours in a killed process start anew; what was terminated never does.
    assert pair.counts()["start f0"] == pair.counts()["start f3"] == 1
    revoked = control.inspect(timeout=PATIENCE).revoked()
    assert revoked is not None
    known = [id for ids in revoked.values() for id in ids]
    assert {*victims, queued.id, delayed.id} <= set(known)
    control.terminate([fill[1].id, fill[2].id])
    with pytest.raises(TaskRevoked):
        fill[1].get(timeout=PATIENCE)


def test_processes_and_limits_change_while_a_worker_runs(two: Place) -> None:
    app, control = two.app, two.app.control
    one = two.workers[0]
    grown = control.pool_grow(2, destination=["one"], reply=True, timeout=PATIENCE)
    assert ok(grown) == {"one": "pool will grow to 3 processes"}
    until(lambda: len(one.children()) == 3, what="three processes")
    assert ok(control.pool_shrink(2, destination=["one"], reply=True, timeout=PATIENCE)) == {
        "one": "pool will shrink to 1 processes"
    }
    until(lambda: len(one.children()) == 1, what="one process")
    [refused] = control.pool_shrink(1, destination="one", reply=True, timeout=PATIENCE) or []
    assert "one must stay" in refused["one"]["error"]
    stats = control.inspect(destination=["one"], timeout=PATIENCE).stats()
    assert (stats or {})["one"]["pool"]["max-concurrency"] == 2
    changed = control.time_limit(
        "drill_tasks.nap", soft=None, hard=1.0, reply=True, timeout=PATIENCE
    )
    assert set(ok(changed).values()) == {"time limits set successfully"}
    stopped = app.send_task("drill_tasks.nap", ["long", 3600.0], queue=two.queue)
    error = stopped.get(timeout=PATIENCE, propagate=False)
    assert "ran longer than 1 s" in str(error)
    soft = control.time_limit("drill_tasks.nap", soft=0.5, hard=20, reply=True, timeout=PATIENCE)
    assert len(ok(soft)) == 2
    control.rate_limit("drill_tasks.hold", "600/m", reply=True, timeout=PATIENCE)
    told = control.inspect(timeout=PATIENCE).stats() or {}
    for each in told.values():
        assert each["limits"]["drill_tasks.hold"] == {"rate_limit": "600/m"}
        assert each["limits"]["drill_tasks.nap"] == {"soft_time_limit": 0.5, "time_limit": 20.0}
        assert "drill_tasks.pid" not in each["limits"]
    assert len(told) == 2
    late = app.send_task("drill_tasks.nap", ["soft", 3.0], queue=two.queue)
    assert type(late.get(timeout=PATIENCE, propagate=False)).__name__ == "SoftTimeLimitExceeded"
    for worker in two.workers:  # the processes that take their place know of it
        [child] = worker.children()
        child.kill()
    later = app.send_task("drill_tasks.nap", ["soft again", 3.0], queue=two.queue)
    assert type(later.get(timeout=PATIENCE, propagate=False)).__name__ == "SoftTimeLimitExceeded"
    [unknown] = (
        control.time_limit("gone", soft=1, destination=["two"], reply=True, timeout=PATIENCE) or []
    )
    assert "no task 'gone'" in unknown["two"]["error"]


def test_queues_come_and_go_and_a_worker_is_shut_down(two: Place) -> None:
    app, control = two.app, two.app.control
    extra = f"{two.queue}-more"
    app.broker.admin.create(extra, lease=5, max_deliveries=30)
    control.cancel_consumer(two.queue, destination=["two"], reply=True, timeout=PATIENCE)
    assert set(
        ok(control.add_consumer(extra, destination=["two"], reply=True, timeout=PATIENCE))
    ) == {"two"}
    again = ok(control.add_consumer(extra, destination=["two"], reply=True, timeout=PATIENCE))
    assert again == {"two": f"already consuming from {extra!r}"}
    look = control.inspect(destination=["two"], timeout=PATIENCE)
    assert [queue["name"] for queue in (look.active_queues() or {})["two"]] == [extra]
    result = app.send_task("drill_tasks.pid", queue=extra)
    assert result.get(timeout=PATIENCE) in {child.pid for child in two.workers[1].children()}
    gone = ok(
        control.add_consumer("there-is-none", destination=["two"], reply=True, timeout=PATIENCE)
    )
    assert "two" in gone
    if not two.broker.startswith("sqlite"):  # which makes a queue at its first use
        left = "there-is-none"
        until(lambda: left not in str(look.active_queues()), what="it is left alone")
    assert look.ping() == {"two": {"ok": "pong"}}
    control.shutdown(destination=["two"])
    assert two.workers[1].process.wait(PATIENCE) == 0
    assert control.inspect(timeout=PATIENCE).ping() == {"one": {"ok": "pong"}}
    assert [heart.hostname for heart in control.heartbeats.all()] == ["one"]


def test_the_command_line_asks_and_tells(pair: Place, cloudq: Cloudq) -> None:
    app = ("-A", "control_tasks:app")
    pinged = cloudq(pair, "inspect", "ping", "--json", "--timeout", "180")
    assert json.loads(pinged.stdout) == {"one": {"ok": "pong"}, "two": {"ok": "pong"}}
    told = cloudq(pair, "control", *app, "set_level", "7", "-d", "two")
    assert (told.returncode, told.stdout) == (0, "two: 7\n"), told.stderr
    levels = json.loads(cloudq(pair, "inspect", *app, "levels", "--json").stdout)
    assert (levels["one"]["level"], levels["two"]["level"]) == (None, 7)
    high = cloudq(pair, "control", *app, "set_level", "12", "-d", "two")
    assert high.returncode == 1
    assert "level 12 is above 9" in high.stderr
    none = cloudq(pair, "control", *app, "set_level", "0", "-d", "two")
    assert (none.returncode, "level 0 is none" in none.stderr) == (1, True)
    bad = cloudq(pair, "control", *app, "set_level", "high")
    assert bad.returncode == 2
    assert "level: invalid literal" in bad.stderr
    nobody = cloudq(pair, "inspect", "ping", "-d", "three")
    assert nobody.returncode == 2
    assert "no live worker three; live workers: one, two" in nobody.stderr
    assert "did you mean ping?" in cloudq(pair, "inspect", "pin").stderr
    status = cloudq(pair, "status")
    assert status.returncode == 0
    assert [line.split()[:2] for line in status.stdout.splitlines()[1:]] == [
        ["one", "up"],
        ["two", "up"],
    ]
    waiting = pair.app.send_task("drill_tasks.nap", ["x", 0.0], countdown=400, queue=pair.queue)
    told = cloudq(pair, "control", "revoke", waiting.id)
    assert (told.returncode, told.stdout) == (0, f"{waiting.id}: revoked\n")
    assert waiting.record.revoked or waiting.state is State.REVOKED
    wrong = cloudq(pair, "control", "terminate", "SIGUSR1", waiting.id)
    assert wrong.returncode == 2
    assert "a task is ended by one of" in wrong.stderr
    assert cloudq(pair, "control", "terminate", "SIGTERM", waiting.id).returncode == 0
    done = json.loads(cloudq(pair, "audit", "--json").stdout)
    told = [(each["action"], each["what"], each["outcome"]) for each in done]
    assert told == [
        ("terminate", f"all workers signal=SIGTERM task_id={waiting.id}", "done"),
        ("revoke", f"task {waiting.id}", "done"),
        ("set_level", "two level=0", "two: SystemExit: level 0 is none"),
        ("set_level", "two level=12", "two: ValueError: level 12 is above 9"),
        ("set_level", "two level=7", "done"),
    ]


def test_a_worker_that_was_killed_is_told_from_the_living(
    sqlite_place: Place,
) -> None:
    worker = sqlite_place.start(*POOL, "-n", "gone")
    heartbeats = sqlite_place.app.control.heartbeats
    [heart] = eventually(heartbeats.alive)
    worker.kill()
    assert heartbeats.all() == [heart] or heartbeats.all()[0].seen >= heart.seen
    eventually(lambda: not heartbeats.alive())
    assert heartbeats.all()[0].hostname == "gone"
    assert Inspect(sqlite_place.app.control).ping() is None


def test_a_new_worker_obeys_no_command_of_an_earlier_one(sqlite_place: Place) -> None:
    backend = sqlite_place.app.backend
    assert backend is not None
    stale = json.dumps({"id": "1", "name": "shutdown", "expires": time.time() + 600})
    backend.update(Key("workers", "again"), Change(set={"commands": frozenset({stale})}))
    worker = sqlite_place.start(*POOL, "-n", "again")
    # What is sent before its first heartbeat counts as a command for the earlier one.
    heartbeats = sqlite_place.app.control.heartbeats
    until(lambda: [heart.hostname for heart in heartbeats.all()] == ["again"], what="a heartbeat")
    assert sqlite_place.app.control.ping(destination=["again"], timeout=PATIENCE) == [
        {"again": {"ok": "pong"}}
    ]
    assert worker.process.poll() is None
    # One that has expired on its way is left alone, too.
    late = json.dumps({"id": "2", "name": "shutdown", "expires": time.time() - 1})
    assert sqlite_place.app.control.heartbeats.tell("again", late)
    until(lambda: "has expired and is not run" in worker.log(), what="it is looked at")
    assert sqlite_place.app.control.ping(timeout=PATIENCE) == [{"again": {"ok": "pong"}}]
    assert worker.stop() == 0


def test_without_a_heartbeat_nobody_is_there(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch, cloudq: Cloudq
) -> None:
    monkeypatch.setenv("CLOUDQ_WORKER_HEARTBEAT", "0")
    sqlite_place.start(*POOL)
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert sqlite_place.app.control.heartbeats.all() == []
    asked = cloudq(sqlite_place, "inspect", "ping")
    assert asked.returncode == 1
    assert "no live worker found in this store: `cloudq worker` starts one" in asked.stderr


@pytest.fixture
def stopped(sqlite_place: Place) -> Iterator[Worker]:
    # One heartbeat serves for the whole test, however slow the commands start that look at it.
    sqlite_place.environment["CLOUDQ_WORKER_HEARTBEAT"] = "120"
    worker = sqlite_place.start(*POOL, "-n", "stopped")
    eventually(sqlite_place.app.control.heartbeats.alive)
    worker.process.send_signal(signal.SIGSTOP)
    yield worker
    worker.process.send_signal(signal.SIGCONT)


def test_who_does_not_reply_is_left_out_in_time(
    sqlite_place: Place, stopped: Worker, cloudq: Cloudq
) -> None:
    assert sqlite_place.app.control.inspect(timeout=0.5).ping() is None
    asked = cloudq(sqlite_place, "inspect", "ping", "--timeout", "0.2")
    assert asked.returncode == 1
    assert "stopped did not reply in time" in asked.stderr


def test_what_waits_in_hand_is_dropped_when_it_is_revoked() -> None:
    """Behind another of its ordered group, as no child has room for it yet."""
    app = CloudQ("parts", broker="memory://revoked-in-hand")
    app.task(name="t")(print)
    settler = Settler(app, released=[].extend, starved=lambda: False)  # not started
    dispatcher = Dispatcher(
        executor=app.executor(), broker=app.broker, settler=settler, max_tasks_per_child=None
    )
    deliveries = [
        Delivery(queue="q", id=n, body=b"", receipt=None, attempts=1, lease=60.0, group="g")
        for n in ("first", "second")
    ]
    first, second = Flights().add(deliveries, time.monotonic() + 60)
    for flight in (first, second):
        message = TaskMessage(id=flight.delivery.id, task="t", queue="q")
        flight.job = Job(delivery=flight.delivery, message=message, fenced=False)
    dispatcher.submit([first, second])
    dispatcher.pump()
    assert (first.settling, second.settling) == (False, False)
    first.revoked = second.revoked = True
    dispatcher.pump()
    # The second follows, since the first has ended.
    assert (first.settling, second.settling) == (True, True)
    app.close()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("amqps://user:pa%20ss@host/x", "amqps://***@host/x"),
        (
            "servicebus://ns?key_name=n&key=c2VjcmV0PQ==&tier=premium",
            "servicebus://ns?key_name=***&key=***&tier=premium",
        ),
        ("Endpoint=sb://ns/;SharedAccessKey=abc=;X=1", "Endpoint=sb://ns/;SharedAccessKey=***;X=1"),
        ("sqs://?endpoint_url=http://127.0.0.1:1", "sqs://?endpoint_url=http://127.0.0.1:1"),
        (15.0, 15.0),
    ],
)
def test_secrets_in_urls_are_not_told(value: object, shown: object) -> None:
    assert masked(value) == shown


def test_an_app_without_a_store_says_what_is_missing() -> None:
    app = CloudQ("plain", broker="sqs://", backend="none")
    with pytest.raises(ConfigurationError, match="without a result backend"):
        app.control.ping(timeout=PATIENCE)


@pytest.fixture
def proxy(aws: Endpoint) -> Iterator[Proxy]:
    proxy = Proxy(aws.url)
    yield proxy
    proxy.close()


def test_while_the_store_is_down_leases_are_kept_and_the_heart_beats_again_later(
    sqs_place: Place, proxy: Proxy
) -> None:
    direct = sqs_place.backend
    sqs_place.backend = direct.partition("?")[0] + f"?endpoint_url={proxy.url}"
    worker = sqs_place.start(*POOL[2:], "--lease", "2", "-n", "cut")
    heartbeats = sqs_place.app.control.heartbeats
    assert eventually(heartbeats.alive)
    nap = sqs_place.app.send_task("drill_tasks.nap", ["nap", 7.0])
    until(lambda: "start nap" in sqs_place.entries(), what="the nap starts")
    proxy.cut()
    until(lambda: "no heartbeat" in worker.log(), what="the outage is told")
    until(lambda: "end nap" in sqs_place.entries(), what="the nap ends")
    assert not heartbeats.alive()
    assert worker.process.poll() is None
    proxy.mend()
    assert nap.get(timeout=PATIENCE) == "nap"
    assert eventually(heartbeats.alive)
    # Its lease of two seconds was kept all the while, so nobody else has got it.
    assert sqs_place.counts() == {"start nap": 1, "end nap": 1}
    assert worker.log().count("no heartbeat") == 1
    until(lambda: "the heartbeat is back" in worker.log(), what="its return is told")
    assert worker.stop() == 0
