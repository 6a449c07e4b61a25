"""The items of a join in the store: how long they lie there, who is in them, what they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cloudq import BackendError, ChordError, State, chain, chord
from cloudq.canvas.join_items import JOINS, body_in, members_of, values_in
from cloudq.canvas.joins import Joins
from cloudq.canvas.slots import Slot, join_key, shard_key
from cloudq.driver import Change, Item, Key, Outgoing
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def joins(app: Bench) -> Joins:
    assert app.workflows.joins is not None
    return app.workflows.joins


def item(app: Bench, key: Key) -> Item | None:
    return app.results.get([key]).get(key)


def delete_shard(app: Bench, join: str) -> None:
    app.results.delete([shard_key(join, 0)])


@pytest.mark.parametrize("end", ["sent", "failed", "abandoned", "cannot start", "refused"])
def test_a_join_expires_when_it_was_to_whatever_becomes_of_it(
    app: Bench, t: Tasks, end: str
) -> None:
    body: Any = t.total.s().set(queue="mail") if end in ("cannot start", "refused") else t.total.s()
    members = [t.more.s(), t.fail.s() if end == "failed" else t.same.s(1)]
    result = chord(members, body).delay()
    join = result.parent.id
    root = item(app, join_key(join))
    assert root is not None
    if end == "abandoned":
        delete_shard(app, join)
    if end == "cannot start":
        app.wire.change_limits = lambda limits: replace(limits, body=900)
    app.work()
    left = item(app, join_key(join))
    assert left is not None
    assert left.expires == root.expires
    for number in range(1 if end == "abandoned" else 0, 1):
        shard = item(app, shard_key(join, number))
        assert shard is not None
        assert shard.expires is not None


def test_a_join_that_expires_as_its_body_is_sent_leaves_nothing(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1)], t.total.s()).delay()
    join = result.parent.id
    send = app.memory.send

    def late(queue: str, messages: Sequence[Outgoing]) -> Any:
        app.results.delete([join_key(join)])
        return send(queue, messages)

    app.wire.inner.send = late  # type: ignore[method-assign]
    app.step()
    assert item(app, join_key(join)) is None


def test_the_error_callback_of_a_chord_in_parts_is_called_once(app: Bench, t: Tasks) -> None:
    members = [t.same.s(n) for n in range(5)]
    result = chord(members, t.total.s().on_error(t.seen.s())).delay()
    delete_shard(app, result.parent.id)
    for _ in members:
        app.step()
    assert [call["task"] for call in app.sent()] == ["seen"]
    app.work()
    assert [run[:2] for run in t.runs if run[0] == "seen"] == [("seen", result.id)]


def test_each_call_of_a_body_that_fails_is_recorded_under_its_name(app: Bench, t: Tasks) -> None:
    steps: Any = chain
    result: Any = chord(
        [t.fail.s()], steps(t.total.s(), t.add.s(1), t.same.s(), t.told.s())
    ).delay()
    app.work()
    calls: list[Any] = [result]
    while calls[-1].parent is not None and len(calls) < 4:
        calls.append(calls[-1].parent)
    records = [app.record(call) for call in calls]
    assert [record.task for record in records] == ["told", "same", "add", "total"]
    assert [record.state for record in records] == [State.FAILURE] * 4
    assert [bool(record.join) for record in records] == [True, False, False, False]


def test_the_error_callback_of_a_body_that_fails_gets_its_request(app: Bench, t: Tasks) -> None:
    seen: list[Any] = []

    @app.task(name="watch")
    def watch(request: dict[str, Any], error: str, traceback: str) -> None:
        seen.append((request["id"], request["task"]))

    result = chord([t.fail.s()], t.total.s().on_error(watch.s())).delay()
    app.work()
    assert seen == [(result.id, "total")]


def test_a_body_whose_join_is_lost_is_still_that_of_its_join(app: Bench, t: Tasks) -> None:
    result = (chord([t.same.s(1), t.same.s(2)], t.total.s()) | t.add.s(1)).delay()
    body = result.parent
    join = body.parent.id
    app.results.delete([join_key(join)])
    app.work()
    assert (app.record(body).state, app.record(body).join) == (State.FAILURE, join)
    assert (app.record(result).state, app.record(result).join) == (State.FAILURE, None)


# ---- who is in it


def test_members_are_read_in_as_few_requests_as_hold_their_shards(app: Bench, t: Tasks) -> None:
    result = chord([t.more.s(), t.same.s(1)], t.total.s()).delay()
    join = result.parent.id
    app.step()
    app.step()
    app.store.limits = replace(app.store.limits, get=3)
    before = app.store.calls["get"]
    members = members_of(join, app.results)
    assert members is not None
    assert len(members) == 4
    assert app.store.calls["get"] == before + 2  # the root, and one shard with two more


def test_who_adds_a_member_asks_twice(app: Bench, t: Tasks) -> None:
    result = chord([t.same.s(1)], t.total.s()).delay()
    before = app.store.calls["update"]
    slot = Slot(join=result.parent.id, index=0)
    assert joins(app).add(slot, "x").index == 500_000_100
    assert app.store.calls["update"] == before + 2
    assert members_of(slot.join, app.results) == [result.parent[0].id, "x"]


def test_a_join_that_is_gone_has_no_members(app: Bench) -> None:
    assert members_of("gone", app.results) is None
    with pytest.raises(ChordError, match="has expired"):
        values_in("gone", app.results)
    with pytest.raises(ChordError, match="has expired"):
        joins(app).add(Slot(join="gone", index=0), "x")


def test_where_requests_are_free_joins_are_listed_by_their_roots(app: Bench, t: Tasks) -> None:
    chord([t.same.s(1)], t.total.s()).delay()
    assert app.store.query(JOINS, after=None, limit=10).items == []
    app.store.limits = replace(app.store.limits, billed=False)
    result = chord([t.same.s(1)], t.total.s()).delay()
    app.clock.ahead += 1.0
    other = chord([t.same.s(1)], t.total.s()).delay()
    listed = app.store.query(JOINS, after=None, limit=10).items
    names = [each.key.sort for each in listed]
    assert len(names) == 2
    assert [result.parent.id in names[1], other.parent.id in names[0]] == [True, True]
    root = item(app, join_key(result.parent.id))
    assert root is not None
    assert listed[1].expires == root.expires
    assert body_in(root) == (result.id, "total")


# ---- what it may be

ROOT = Key("join#j")


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ('{"body":"b","node":{"task":"t"}}', ("b", "t")),
        ('{"body":"b","node":[]}', ("b", "")),
        ('{"body":"b"}', ("b", "")),
        ('{"node":{"task":"t"}}', ("", "t")),
        ("[]", ("", "")),
        ("{", ("", "")),
    ],
)
def test_a_body_is_named_as_far_as_it_can_be_read(text: str, body: tuple[str, str]) -> None:
    assert body_in(Item(key=ROOT, fields={"follows": text}, expires=None)) == body
    assert body_in(Item(key=ROOT, fields={}, expires=None)) == ("", "")


@pytest.mark.parametrize("text", ["{}", "5", '"x"', "null"])
def test_a_shard_whose_ids_are_no_list_is_named(app: Bench, t: Tasks, text: str) -> None:
    result = chord([t.same.s(1)], t.total.s()).delay()
    change = Change(set={"ids": text}, keep_expires=True)
    app.results.update(shard_key(result.parent.id, 0), change)
    with pytest.raises(BackendError, match="its ids are no list"):
        members_of(result.parent.id, app.results)


@pytest.mark.parametrize(
    "text", ["[]", "5", '{"ids":[]}', '{"ids":"x"}', '{"ids":{"a":1}}', "{}", "null"]
)
def test_a_lost_join_whose_ends_name_no_body_is_named(app: Bench, t: Tasks, text: str) -> None:
    result = chord([t.same.s(1)], t.total.s()).delay()
    join = result.parent.id
    app.results.update(shard_key(join, 0), Change(set={"ends": text}, keep_expires=True))
    app.results.delete([join_key(join)])
    with pytest.raises(BackendError, match="its ends name no body"):
        joins(app).abandon(join, "why")
