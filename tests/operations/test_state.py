"""Queues, workflows, schedules, workers, the overview and the audit log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cloudq import CloudQ, ConfigurationError, chord, crontab
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations import audit, overview, queues, schedules, workers, workflows
from cloudq.operations.audit import Actor
from cloudq.testing import drain
from localstack.servers import Endpoint


def test_queues_have_numbers_or_a_problem(shop: CloudQ) -> None:
    shop.tasks["shop.add"].delay(1, 2)
    shop.tasks["shop.charge"].delay("gone")
    drain(shop, ["mail"])
    rows = {row.queue: row for row in queues.queues(shop)}
    assert (rows["default"].ready, rows["mail"].ready, rows["mail"].dead) == (1, 0, 1)
    assert [row.problem for row in rows.values()] == [None, None]
    [missing] = queues.queues(shop, ["nowhere"])
    assert "nowhere" in (missing.problem or "")


def test_a_purge_leaves_dead_letters_and_is_logged(shop: CloudQ, by: Actor) -> None:
    shop.tasks["shop.charge"].delay("gone")
    drain(shop)
    shop.tasks["shop.charge"].delay("pear")
    done = queues.purge(shop, "mail", by=by)
    assert done.deleted == 1
    row = queues.queue(shop, "mail")
    assert (row.ready, row.dead) == (0, 1)
    [entry] = audit.read(shop).entries
    assert (entry.who, entry.via, entry.action, entry.what) == (
        "ana",
        "test",
        "purge",
        "queue mail",
    )


def test_a_queue_is_deleted_with_what_is_in_it(shop: CloudQ, by: Actor) -> None:
    shop.tasks["shop.charge"].delay("pear")
    before = queues.delete(shop, "mail", by=by)
    assert before.ready == 1
    assert "mail" not in queues.queue_names(shop)


def test_a_pause_is_seen_by_who_looks_later(shop: CloudQ, by: Actor) -> None:
    paused = queues.pause(shop, "default", by=by)
    assert paused.notes == (queues.FUNCTIONS_GO_ON,)
    assert queues.pauses(shop)["default"].by == "ana"
    again = queues.pause(shop, "default", by=Actor(who="bob"))
    assert (again.changed, queues.pauses(shop)["default"].by) == (False, "ana")
    assert queues.resume(shop, "default", by=by).changed
    assert not queues.resume(shop, "default", by=by).changed
    with pytest.raises(Exception, match="nowhere"):
        queues.pause(shop, "nowhere", by=by)


def test_the_newest_actions_come_first(shop: CloudQ, by: Actor) -> None:
    for number in range(5):
        audit.write(shop, by, "count", f"number {number}", count=number)
    audit.write(shop, Actor(who="bob"), "look", "away")
    page = audit.read(shop, limit=2)
    assert [entry.what for entry in page.entries] == ["away", "number 4"]
    assert not page.complete
    mine = audit.read(shop, who="ana")
    assert ([entry.count for entry in mine.entries], mine.complete) == ([4, 3, 2, 1, 0], True)
    assert audit.read(shop, action="look").entries[0].who == "bob"
    assert audit.read(shop, since=time.time() + 60).entries == []


def test_an_action_without_a_store_is_in_the_log_alone(
    aws: Endpoint, by: Actor, caplog: pytest.LogCaptureFixture
) -> None:
    with CloudQ("bare", broker=f"sqs://?endpoint_url={aws.url}") as app:
        with caplog.at_level("INFO", logger="cloudq.audit"):
            audit.write(app, by, "purge", "queue mail", count=3)
        assert "purge by ana" in caplog.text
        with pytest.raises(ConfigurationError):
            audit.read(app)


def test_a_chord_under_way_names_who_is_missing(shop: CloudQ) -> None:
    add = shop.tasks["shop.add"]

    @shop.task(name="shop.total")
    def total(values: list[int]) -> int:
        return sum(values)

    result = chord([add.s(1, 1), add.s(2, 2)], total.s()).delay()
    listed = workflows.workflows(shop)
    if shop.broker.limits("default").billed:
        assert listed.problem == workflows.NOT_LISTED
    else:
        [one] = listed.workflows
        assert (one.state, one.count, one.left) == ("under way", 2, 2)
        assert one.body == (result.id, "shop.total")
        seen = workflows.workflow(shop, one.id)
        assert seen is not None
        assert len(seen.missing) == 2
    drain(shop)
    assert list(workflows.workflows(shop).workflows) == []
    done = workflows.workflow(shop, result.id)
    assert done is not None
    assert (done.state, done.left, list(done.missing)) == ("done", 0, [])


def test_schedules_are_shown_paused_and_run(quick: CloudQ, by: Actor) -> None:
    quick.schedules.declare("shop.add", crontab(hour="7"), {"name": "daily", "args": (1, 2)})
    [row] = schedules.schedules(quick).schedules
    assert (row.name, row.task, row.state, row.last) == ("daily", "shop.add", "on", None)
    assert row.next is not None
    assert schedules.due_next([row]) == [row]
    schedules.pause(quick, "daily", by=by)
    [row] = schedules.schedules(quick).schedules
    assert (row.state, row.next) == ("paused", None)
    schedules.resume(quick, "daily", by=by)
    [row] = schedules.schedules(quick).schedules
    assert (row.state, row.runs, row.last) == ("on", 0, None)  # to resume is no run
    quick.schedules.states.ran(quick.schedules.entry("daily"), time.time() + 60, 2)
    [row] = schedules.schedules(quick).schedules
    assert (row.runs, row.last is None) == (2, False)
    id = schedules.run_now(quick, "daily", by=by)
    drain(quick)
    assert quick.AsyncResult(id).get(timeout=10) == 3
    assert len(schedules.next_runs(quick, "daily", count=3)) == 3
    assert "no cloud scheduler" in (schedules.cloud(quick).problem or "")
    actions = [entry.action for entry in audit.read(quick).entries]
    assert actions == ["run now", "resume", "pause"]


def test_an_overview_has_rates_from_the_second_look_on(shop: CloudQ) -> None:
    def beat(done: int, failed: int) -> None:
        heart = Heartbeat(
            hostname="w1",
            seen=time.time(),
            started=5.0,
            processes=1,
            threads=2,
            done=done,
            failed=failed,
            queues=("default",),
            running=1,
            longest=[["id1", "shop.add", time.time() - 5]],
        )
        shop.control.heartbeats.beat(heart)

    beat(100, 1)
    shop.tasks["shop.fail"].delay("no luck")
    drain(shop)
    first = overview.overview(shop)
    assert first.rates is None
    assert [row.name for row in first.workers] == ["w1"]
    assert [task.id for task in first.running] == ["id1"]
    [series] = first.failures
    assert (series.task, series.total, series.counts[-1]) == ("shop.fail", 1, 1)
    assert series.latest == "RuntimeError: no luck"
    beat(150, 3)
    second = overview.overview(shop, first.snapshot)
    assert second.rates is not None
    assert second.rates.ending == pytest.approx(50 / second.rates.over)
    assert second.rates.failing == pytest.approx(2 / second.rates.over)
    assert second.problems == {}


def test_a_store_that_is_down_hides_no_queue(tmp_path: Path) -> None:
    broker, nowhere = f"sqlite:///{tmp_path}/q.db", "dynamodb://t?endpoint_url=http://127.0.0.1:9"
    with CloudQ("shop", broker=broker, backend=nowhere) as app:
        app.send_task("any")
        seen = overview.overview(app)
    assert [(row.queue, row.ready) for row in seen.queues] == [("default", 1)]
    assert "cannot read" in seen.problems["store"]
    assert list(seen.workers) == []


def test_a_worker_that_is_not_there_is_told(quick: CloudQ, by: Actor) -> None:
    with pytest.raises(ConfigurationError, match="no live worker w9"):
        workers.shutdown(quick, "w9", by=by)
    with pytest.raises(ConfigurationError, match="not a command of control"):
        workers.tell(quick, "ping", by=by)
