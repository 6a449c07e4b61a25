"""A day of the archive: sends each kind of work, and prints what came of it as JSON."""

import json
import time
from datetime import UTC, datetime, timedelta

from celery import chain, chord, group, signature, states
from celery.exceptions import TaskRevokedError, TimeoutError
from celery.result import AsyncResult, GroupResult, result_from_tuple
from weather import ledger
from weather.archive import tasks as archive
from weather.celery import app
from weather.reports import tasks as reports
from weather.stations import tasks as stations

WAIT = 30


def until(condition):
    """Wait for something to be so."""
    end = time.monotonic() + WAIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def raised(result, **options):
    """Wait for a result, and return the exception as data."""
    try:
        return ["returned", result.get(timeout=WAIT, **options)]
    except Exception as exc:
        return [name_of(exc), [str(arg) for arg in exc.args], result.state]


def name_of(exc):
    """The name of an exception's class; that of a revoked task is caught, whatever it is."""
    return "TaskRevokedError" if isinstance(exc, TaskRevokedError) else type(exc).__name__


def class_tasks():
    """Tasks of classes, and the hooks of these."""
    counted = [stations.count.delay().get(timeout=WAIT) for _ in range(6)]
    return {
        "read": stations.read.delay("vienna").get(timeout=WAIT),
        "read after retries": stations.read.delay("graz", downs=1).get(timeout=WAIT),
        "down": raised(stations.read.delay("linz", downs=9)),
        "probe": stations.probe.delay("graz", downs=2).get(timeout=WAIT),
        "probe in vain": stations.probe.delay("graz", downs=9).get(timeout=WAIT),
        "ask": raised(stations.ask.delay("linz")),
        "unknown": raised(stations.read.delay("rome")),
        "broken": raised(stations.check.delay("linz")),
        "almanac": archive.almanac.delay(2020, leap=True).get(timeout=WAIT),
        "almanac by name": app.send_task("weather.almanac", [2021]).get(timeout=WAIT),
        "almanac's own": [archive.almanac.first, app.tasks["weather.almanac"] is archive.almanac],
        "counted": max(counted) >= 3,
        "attributes": [
            stations.read.max_retries,
            stations.read.retry_backoff,
            stations.read.autoretry_for == (ConnectionError,),
            archive.store.kind,
            stations.check.name,
            archive.almanac.ignore_result,
            stations.probe.default_retry_delay,
        ],
    }


def workflows():
    """Chains, groups and chords, with callbacks."""
    topic = archive.archive(["vienna", "graz"], "whole")
    flow = topic.delay()
    failed = archive.archive(["vienna", "rome"], "broken").apply_async()
    failed_as = raised(failed)[:2]
    member = chain(stations.read.s("rome"), archive.store.s("rome")).apply_async(
        link_error=stations.on_error.s(topic="member")
    )
    raised(member)
    linked = archive.double.apply_async(
        (4,), link=[archive.note.s("first"), archive.note.s(topic="second")]
    )
    saved = group(archive.double.s(n) for n in range(3)).apply_async()
    saved.save()
    again = GroupResult.restore(saved.id)
    spread = result_from_tuple(archive.spread.delay([1, 2]).get(timeout=WAIT))
    twice = archive.double.s()
    partial = archive.mean.s(1, 2)
    flat = chord(archive.double.si(n) for n in range(4))(archive.note.s(topic="chord"))
    deep = group(
        chord([archive.double.s(1), archive.double.s(2)], archive.note.s(topic="deep")),
        archive.double.s(5) | archive.double.s(),
    )()
    return {
        "whole": flow.get(timeout=WAIT),
        "failed": failed_as,
        "member": [member.state, member.parent.state],
        "linked": [linked.get(timeout=WAIT)],
        "restored": [again.join(timeout=WAIT), len(again), again.completed_count(), again.ready()],
        "same group": [again.id == saved.id, again == saved],
        "gone": GroupResult.restore("no-such-group"),
        "spread": spread.get(timeout=WAIT),
        "doubled": (archive.double.s(1) | twice | twice | twice).apply_async().get(timeout=WAIT),
        "partial": partial.apply_async((3,)).get(timeout=WAIT),
        "cloned": partial.clone((6,)).delay().get(timeout=WAIT),
        "flat": flat.get(timeout=WAIT),
        "deep": deep.get(timeout=WAIT),
        "replaced": archive.sum_up.delay("today").get(timeout=WAIT),
        "from text": signature(json.loads(json.dumps(archive.double.s(21)))).delay().get(WAIT),
        "by name": signature("weather.archive.tasks.double", args=[4], app=app).delay().get(WAIT),
        "as dict": sorted(archive.double.s(2)),
        "map": archive.double.map([1, 2]).apply_async().get(timeout=WAIT),
        "chunks": archive.mean.chunks([(1, 3), (2, 4)], 1).apply_async().get(timeout=WAIT),
        "iterated": sorted(group(archive.double.s(n) for n in range(3))().join(timeout=WAIT)),
    }


def stored():
    """Results that are read later by their ids."""
    id = stations.scan.delay(20).id
    later = AsyncResult(id)
    progress = until(lambda: later.state == "PROGRESS")
    info = later.info if later.state == "PROGRESS" else {"done": 0, "total": 20}
    value = later.get(timeout=WAIT)
    done = app.AsyncResult(id)
    own = stations.give_up.delay("nothing there")
    own_ended = until(lambda: own.state == states.FAILURE)
    soon = archive.double.apply_async((1,), countdown=0.3, headers={"tenant": "north"})
    forgotten = archive.double.delay(3)
    forgotten.get(timeout=WAIT)
    forgotten.forget()
    try:
        AsyncResult("no-such-task").get(timeout=0.2)
        none = "returned"
    except TimeoutError:
        none = "timeout"
    return {
        "progress": [progress, sorted(info), info["total"]],
        "value": value,
        "done": [done.state, done.status, done.ready(), done.successful(), done.failed()],
        "meta": [done.name, done.queue, "@" in done.worker],
        "dates": [type(done.date_done).__name__, done.date_done.tzinfo is not None],
        "text": [str(done) == id, repr(done) == f"<AsyncResult: {id}>", done == later],
        "own": [own_ended, type(own.result).__name__, str(own.result)],
        "soon": soon.get(timeout=WAIT, interval=0.05),
        "forgotten": AsyncResult(forgotten.id).state,
        "pending": [AsyncResult("no-such-task").state, none],
        "failed": [
            type(_failed().result).__name__,
            _failed().get(propagate=False).code,
            "StationBroken" in _failed().traceback,
        ],
        "no result": archive.tick.delay("day").get(timeout=WAIT),
        "who": archive.who.apply_async(headers={"tenant": "north"}).get(timeout=WAIT),
        "dates sent": archive.since.delay(datetime(2026, 5, 4, tzinfo=UTC)).get(WAIT),
        "eta": archive.double.apply_async((8,), eta=datetime.now(UTC) + timedelta(seconds=0.3)).get(
            timeout=WAIT
        ),
    }


_ids = {}


def _failed():
    if not _ids:
        _ids["failed"] = stations.check.delay("graz").id
        until(AsyncResult(_ids["failed"]).ready)
    return AsyncResult(_ids["failed"])


def stopped():
    """Tasks that end otherwise."""
    held = stations.hang.delay("graz")
    until(lambda: held.state == "HOLDING")
    station = held.info["station"]
    held.revoke(terminate=True)
    late = archive.double.apply_async((1,), expires=-1)
    try:
        held.get(timeout=WAIT)
        ended = "returned"
    except TaskRevokedError as exc:
        ended = ["TaskRevokedError", str(exc)]
    return {
        "held": [station, ended, held.state],
        "late": raised(late)[0],
        "soft": stations.calibrate.delay(5).get(timeout=WAIT),
        "no soft": stations.calibrate.delay(0).get(timeout=WAIT),
        "table": raised(reports.table.delay([{"name": "a"}, {}])),
        "letter": reports.letter.delay("week", printer=None).get(timeout=WAIT),
        "lines": len(reports.lines.delay(2000).get(timeout=WAIT)),
        "eager": [archive.double.apply((2,)).get(), archive.double(3), archive.double.run(4)],
    }


def written():
    """The lines of hooks, callbacks and signals, once all are there."""
    expected = {"errbacks": 2, "notes": 5, "failures": 8, "runs": 8, "revoked": 2, "ticks": 2}
    for kind, count in expected.items():
        until(lambda kind=kind, count=count: len(ledger.lines(kind)) >= count)
    kinds = ["errbacks", "notes", "failures", "runs", "revoked", "stored", "tasks", "after"]
    found = {kind: ledger.lines(kind) for kind in [*kinds, "published", "worker"]}
    found["ticks"] = sorted(set(ledger.lines("ticks")))
    app.loader.import_default_modules()
    found["schedules"] = sorted(app.conf.beat_schedule)
    return found


def day():
    """All parts, one after the other."""
    parts = [class_tasks, workflows, stored, stopped, written]
    return {part.__name__: part() for part in parts}


if __name__ == "__main__":
    print(json.dumps(day(), indent=1, sort_keys=True, default=repr))
