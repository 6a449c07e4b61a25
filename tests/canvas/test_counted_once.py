"""A change whose answer is lost is sent again by an SDK, and counts once all the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cloudq import ChordError, State, chord, crontab, group
from cloudq.canvas.join_items import count_member
from cloudq.canvas.slots import join_key
from cloudq.driver import Change, Item, Key
from cloudq.errors import ConfigurationError
from cloudq.schedules.entry import Entry
from cloudq.schedules.leader import LeaderLease
from cloudq.schedules.state import ScheduleStates
from cloudq.tasks.limits.concurrency import Permit, PermitRequest, acquire, permits_key
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


@pytest.fixture(autouse=True)
def resent(app: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the first of each update is lost, after its effect; the second one's comes."""
    once = app.store.update

    def update(key: Key, change: Change) -> Item:
        once(key, change)
        return once(key, change)

    monkeypatch.setattr(app.store, "update", update)


def test_added_members_are_counted_once(app: Bench, t: Tasks) -> None:
    result = chord([t.more.s(), t.same.s(1), t.more.s()], t.same.s()).delay()
    app.work()
    assert result.get(timeout=0) == [1, 1, 1, 20, 4, 20, 4]
    root = app.results.get([join_key(result.parent.id)])[join_key(result.parent.id)].fields
    assert (root["count"], root["added"]) == (7, 4)
    assert not root.get("adders")


@pytest.mark.parametrize("size", [1, 3, 120])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chord_counts_its_members_once(app: Bench, t: Tasks, size: int, is_stream: bool) -> None:
    members = (t.same.s(n) for n in range(size))
    result = chord(members if is_stream else list(members), t.total.s()).delay()
    app.work()
    assert result.get(timeout=0) == sum(range(size))
    assert [run for run in t.runs if run[0] == "total"] == [("total", list(range(size)))]


def test_a_stream_whose_members_have_ended_goes_on_when_it_is_closed(app: Bench, t: Tasks) -> None:
    def members() -> Any:
        for n in range(250):
            yield t.same.s(n)
            if n == 200:
                app.work()

    result = chord(members(), t.total.s()).delay()
    app.work()
    assert result.get(timeout=0) == sum(range(250))


def test_a_member_that_fails_ends_the_body_once(app: Bench, t: Tasks) -> None:
    result = chord([t.fail.s(), t.same.s(2)], t.total.s().link_error(t.seen.s())).delay()
    app.work()
    assert result.state is State.FAILURE
    assert len([run for run in t.runs if run[0] == "seen"]) == 1


def test_a_chord_that_is_abandoned_ends(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s().link_error(t.seen.s())).delay()
    joins = app.workflows.joins
    assert joins is not None
    joins.abandon(result.parent.id, "its header is gone")
    joins.abandon(result.parent.id, "and told again")
    app.work()
    with pytest.raises(ChordError, match="its header is gone"):
        result.get(timeout=0)
    assert len([run for run in t.runs if run[0] == "seen"]) == 1


def test_a_group_and_its_chord_run_each_call_once(app: Bench, t: Tasks) -> None:
    result = (group(t.same.s(n) for n in range(5)) | t.total.s() | t.add.s(1)).delay()
    app.work()
    assert result.get(timeout=0) == 11
    assert sum(run[0] == "total" for run in t.runs) == 1


def test_members_that_are_added_at_once_have_places_of_their_own(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1), t.same.s(2)], t.total.s()).delay()
    join = result.parent.id
    ids = [f"late-{n}" for n in range(24)]
    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(lambda id: count_member(join, id, app.results), ids))
    assert sorted(places) == list(range(1, 25))
    fields = app.results.get([join_key(join)])[join_key(join)].fields
    assert (fields["count"], fields["added"]) == (26, 24)
    assert fields["adders"] == frozenset(ids)


def test_nobody_is_added_to_a_join_that_is_gone(app: Bench) -> None:
    with pytest.raises(ChordError, match="has expired"):
        count_member("gone", "late", app.results)
    assert join_key("gone") not in app.results.get([join_key("gone")])


def test_a_permit_is_ours_and_stays_ours(app: Bench) -> None:
    key, request = permits_key("t", "k"), PermitRequest(owner="a", fence=1, delivery="d")
    permit = acquire(app.results, key, 2, request, 60.0)
    assert isinstance(permit, Permit)
    assert permit.renew()
    assert len(app.results.get([key])[key].fields) == 1
    permit.release()
    assert not app.results.get([key])[key].fields


def test_the_lead_is_taken_at_once(app: Bench) -> None:
    first = LeaderLease(app.results, Key("beat", "leader"), "one", 30.0)
    second = LeaderLease(app.results, Key("beat", "leader"), "two", 30.0)
    assert [first.look(), second.look(), first.look()] == [True, False, True]


def test_a_schedule_is_added_once(app: Bench) -> None:
    states = ScheduleStates(app.results, "shop")
    entry = Entry(name="nightly", task="t", when=crontab(minute=0))
    states.add(entry, 100.0, replace=False)
    with pytest.raises(ConfigurationError, match="exists already"):
        states.add(entry, 200.0, replace=False)
