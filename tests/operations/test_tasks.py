"""Tasks: found by filters, seen as a life, revoked, and run again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ, ConfigurationError, State
from cloudq.monitoring.event_log import FINAL
from cloudq.operations import audit, dead_actions, dead_letters, task_actions, tasks
from cloudq.operations.audit import Actor
from cloudq.operations.dead_actions import Edit
from cloudq.operations.tasks import FAILURES, TaskFilter
from cloudq.results.events import Event
from cloudq.testing import drain


def test_what_failed_is_found_on_day_one(shop: CloudQ) -> None:
    shop.tasks["shop.add"].delay(1, 2)
    shop.tasks["shop.fail"].delay("no luck")
    shop.tasks["shop.charge"].delay("gone")
    shop.tasks["shop.refuse"].delay("not today")
    drain(shop)
    found = tasks.search(shop, FAILURES)
    assert (found.matched, found.complete) == (3, True)
    assert {(row.task, row.state) for row in found.rows} == {
        ("shop.fail", State.FAILURE),
        ("shop.charge", State.FAILURE),
        ("shop.refuse", State.REJECTED),
    }
    [row] = tasks.search(shop, TaskFilter(error="NO LUCK")).rows
    assert (row.error_type, row.error, row.queue) == ("RuntimeError", "no luck", "default")
    assert tasks.search(shop, TaskFilter(name="shop.f*")).matched == 1
    assert tasks.search(shop, TaskFilter(queue="mail", states=(State.FAILURE,))).matched == 1
    assert tasks.search(shop, TaskFilter(worker="nobody")).matched == 0
    assert tasks.search(shop, TaskFilter(states=FAILURES.states, until=row.at - 60)).seen == 0


def test_every_end_is_found_where_requests_are_free(shop: CloudQ) -> None:
    sent = [shop.tasks["shop.add"].delay(number, 1) for number in range(3)]
    drain(shop)
    found = tasks.search(shop)
    assert shop.backend is not None
    limits = shop.backend.driver.limits
    if limits.billed or not limits.shared:  # nobody else looks into a store in memory
        assert (found.matched, set(found.recorded)) == (0, set(FAILURES.states))
        return
    assert {row.id for row in found.rows} == {result.id for result in sent}
    assert set(found.recorded) == set(FINAL)
    assert [row.at for row in found.rows] == sorted((r.at for r in found.rows), reverse=True)
    assert all(row.took is not None and row.worker == "drain" for row in found.rows)
    assert tasks.search(shop, TaskFilter(id=sent[0].id)).matched == 1


def test_the_ends_of_a_bundle_are_found_one_by_one(quick: CloudQ) -> None:
    task = quick.tasks["shop.add"]
    sent = quick.publish([task.prepare(number, 1) for number in range(5)], bundle=5)
    drain(quick)
    assert {row.id for row in tasks.search(quick).rows} == {result.id for result in sent}


def test_a_search_says_how_far_it_looked(quick: CloudQ) -> None:
    for number in range(6):
        quick.tasks["shop.add"].delay(number, 1)
    drain(quick)
    found = tasks.search(quick, limit=2, most=4)
    assert (len(found.rows), found.matched, found.seen, found.complete) == (2, 4, 4, False)
    assert found.back_to is not None
    assert found.scope == "2 of 4 among the newest 4"
    assert tasks.search(quick, limit=2).scope == "2 of 6 tasks"


def test_a_task_s_life_is_shown_whole(shop: CloudQ) -> None:
    failed = shop.tasks["shop.fail"].delay("no luck")
    drain(shop)
    found = tasks.life(shop, failed.id)
    assert found is not None
    assert (found.record.state, found.record.error) == (State.FAILURE, "no luck")
    assert [event.state for event in found.events] == [State.FAILURE]
    assert found.arguments is not None
    assert (found.arguments.whole, list(found.arguments.args)) == (True, ["no luck"])
    assert tasks.life(shop, "nobody") is None


def test_a_task_runs_again_with_its_own_arguments_or_with_others(shop: CloudQ, by: Actor) -> None:
    failed = shop.tasks["shop.fail"].delay("no luck")
    drain(shop)
    again = task_actions.run_again(shop, failed.id, by=by)
    other = task_actions.run_again(shop, failed.id, by=by, edit=Edit(kwargs={"what": "new"}))
    assert not again.redriven
    assert again.id != other.id != failed.id
    drain(shop)
    assert shop.AsyncResult(again.id).record.error == "no luck"
    assert shop.AsyncResult(other.id).record.error == "new"
    assert [entry.action for entry in audit.read(shop).entries] == ["run again", "run again"]


def test_a_task_with_a_dead_letter_goes_on_as_that_letter(shop: CloudQ, by: Actor) -> None:
    failed = shop.tasks["shop.charge"].delay("gone")
    drain(shop)
    again = task_actions.run_again(shop, failed.id, by=by, edit=Edit(kwargs={"sku": "pear"}))
    assert (again.id, again.redriven) == (failed.id, True)
    drain(shop)
    assert failed.get(timeout=10) == "pear"
    assert dead_letters.search(shop).matched == 0
    found = tasks.life(shop, failed.id)
    assert found is not None
    assert found.arguments is None  # those of the first run are not those of the last
    assert shop.backend is not None
    if not shop.backend.driver.limits.billed:
        assert [event.state for event in found.events] == [State.FAILURE, State.SUCCESS]


def test_what_cannot_run_again_says_what_to_do(quick: CloudQ, by: Actor) -> None:
    long = quick.tasks["shop.fail"].delay("x" * 1000)
    fine = quick.tasks["shop.add"].delay(1, 2)
    drain(quick)
    for id, says in (
        (long.id, "only the beginning of its arguments is recorded"),
        (fine.id, "no arguments are recorded"),
        ("nobody", "no record of task nobody"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            task_actions.run_again(quick, id, by=by)
    again = task_actions.run_again(quick, long.id, by=by, edit=Edit(args=["short"]))
    drain(quick)
    assert quick.AsyncResult(again.id).record.error == "short"


def test_a_retry_by_filter_runs_each_once(shop: CloudQ, by: Actor) -> None:
    for number in range(3):
        shop.tasks["shop.fail"].delay(f"no luck {number}")
    shop.tasks["shop.charge"].delay("gone")
    drain(shop)
    chosen = TaskFilter(states=FAILURES.states, error="luck")
    found = tasks.search(shop, chosen)
    done = task_actions.retry(shop, chosen, by=by, found=found)
    assert (len(done.again), list(done.failed)) == (3, [])
    twice = task_actions.retry(shop, chosen, by=by, found=found)
    assert len(twice.again) == 0
    assert all("was run again before" in each.reason for each in twice.failed)
    assert len(drain(shop)) == 3
    dead = task_actions.retry(shop, TaskFilter(name="shop.charge"), by=by)
    assert [each.redriven for each in dead.again] == [True]
    gone = task_actions.retry(shop, TaskFilter(name="shop.charge"), by=by)
    assert ["sent again, or deleted" in each.reason for each in gone.failed] == [True]
    assert [entry.count for entry in audit.read(shop).entries] == [0, 1, 0, 3]


def test_a_retry_leaves_out_what_has_succeeded_since(quick: CloudQ, by: Actor) -> None:
    failed = quick.tasks["shop.charge"].delay("gone")
    drain(quick)
    letters = dead_letters.search(quick, queue="mail").letters
    dead_actions.redrive(quick, letters, "mail", by=by, edit=Edit(kwargs={"sku": "here"}))
    drain(quick)
    assert quick.AsyncResult(failed.id).get(timeout=0) == "here"
    done = task_actions.retry(quick, FAILURES, by=by)
    assert [(each.id, each.reason) for each in done.failed] == [
        (failed.id, "it has succeeded since")
    ]
    assert drain(quick) == []


def test_tasks_are_revoked_before_they_start(shop: CloudQ, by: Actor) -> None:
    waits = shop.tasks["shop.add"].delay(1, 2)
    ended = shop.tasks["shop.fail"].delay("over")
    drain(shop, ["default"])
    waits = shop.tasks["shop.add"].delay(3, 4)
    done = task_actions.revoke(shop, [waits.id, ended.id], by=by)
    assert (list(done.revoked), list(done.ended)) == ([waits.id], [ended.id])
    drain(shop)
    assert waits.record.state is State.REVOKED


EVENTS = st.builds(
    Event,
    id=st.sampled_from(["a", "b"]),
    task=st.sampled_from(["shop.add", "shop.fail", "mail"]),
    state=st.sampled_from(FINAL),
    at=st.floats(0, 100),
    queue=st.sampled_from([None, "mail"]),
    worker=st.sampled_from([None, "w1"]),
    error_type=st.sampled_from([None, "ValueError"]),
    error=st.sampled_from([None, "no stock"]),
)
FILTERS = st.builds(
    TaskFilter,
    id=st.sampled_from([None, "a"]),
    name=st.sampled_from([None, "shop.*", "mail"]),
    states=st.sampled_from([FINAL, FAILURES.states, (State.SUCCESS,)]),
    queue=st.sampled_from([None, "mail"]),
    worker=st.sampled_from([None, "w1"]),
    since=st.floats(0, 100),
    until=st.one_of(st.none(), st.floats(0, 100)),
    error=st.sampled_from([None, "STOCK", "valueerror: no"]),
    words=st.sampled_from([None, "STOCK", "Add", "a"]),
)


@given(EVENTS, FILTERS)
def test_an_end_fits_all_conditions_or_is_not_chosen(event: Event, chosen: TaskFilter) -> None:
    names = ("id", "name", "states", "queue", "worker", "since", "until", "error", "words")
    parts = [TaskFilter(**{name: getattr(chosen, name)}) for name in names]
    assert chosen.matches(event) == all(part.matches(event) for part in parts)


def test_a_name_is_no_argument_where_its_task_is_not_known(quick: CloudQ, by: Actor) -> None:
    failed = quick.tasks["shop.charge"].delay("gone")
    other = quick.tasks["shop.fail"].delay("no luck")
    drain(quick)
    with CloudQ("shop", broker=quick.conf.broker) as bare:
        for id in (failed.id, other.id):
            with pytest.raises(ConfigurationError, match="use the app's own"):
                task_actions.run_again(bare, id, by=by, edit=Edit(kwargs={"sku": "pear"}))
        again = task_actions.run_again(bare, failed.id, by=by, edit=Edit(args=["pear"]))
    assert again.redriven
    drain(quick)
    assert failed.get(timeout=10) == "pear"
