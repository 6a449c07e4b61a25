"""Ends and marks in the item of a bundle, beside what lies apart of a call or of a later one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cloudq import State
from cloudq.driver import Change, Item, Key, StoreLimits
from cloudq.messages.ids import Place, bundled_id, new_bundle
from cloudq.results.bundle_item import bundle_key
from cloudq.results.bundles import with_mark
from cloudq.results.record import Record, from_item, key
from tests.support.bench import Bench


@pytest.fixture
def bundle() -> str:
    return new_bundle()


def ended(bundle: str, number: int, value: object = None, **fields: Any) -> Record:
    fields = {"state": State.SUCCESS, "task": "t", "finished_at": 5.0, **fields}
    return Record(id=bundled_id(bundle, number), value=str(value or number), **fields)


def ends(bundle: str, *numbers: int) -> dict[int, Record]:
    return {number: ended(bundle, number) for number in numbers}


def test_the_end_of_a_later_call_takes_the_place_of_one_that_lies_apart(
    app: Bench, bundle: str
) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    place = Place(bundle, 0)
    large, later = ended(bundle, 0, "x" * 900), ended(bundle, 0, "later", call="a")
    assert app.results.bundles.end(place, large) is None
    assert app.results.bundles.end(place, later) is None
    assert app.results.record(large.id) == later


def test_a_large_end_does_not_replace_that_of_a_later_call(app: Bench, bundle: str) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    place = Place(bundle, 0)
    later, earlier = (ended(bundle, 0, call * 900, call=call) for call in "ba")
    assert app.results.bundles.end(place, later) is None
    app.results.bundles.end(place, earlier)
    assert app.results.record(later.id) == later


def test_the_end_of_a_later_call_takes_its_mark_of_revocation_away(app: Bench, bundle: str) -> None:
    id, bundles = bundled_id(bundle, 0), app.results.bundles
    bundles.add(bundle, ends(bundle, 0))

    def mark() -> tuple[bool, float | None]:
        item = app.store.get([key(id)], consistent=True)[key(id)]
        return from_item(item).revoked, item.expires

    for call, standing in (("a", "a"), ("b", "c")):
        app.results.advance(Record(id=id, state=State.STARTED, call=standing))
        kept = app.clock() + 90_000.0
        app.store.update(key(id), Change(set={"revoked": True}, expires=kept))
        assert bundles.end(Place(bundle, 0), ended(bundle, 0, call=call)) is None
        assert mark() == (call != standing, kept), "a still later call keeps its own"


def test_a_call_that_has_left_its_bundle_is_revoked_by_the_mark_in_it(
    app: Bench, bundle: str
) -> None:
    started = Record(id=bundled_id(bundle, 0), state=State.STARTED, custom="PROGRESS")
    app.results.advance(started)
    assert app.results.record(started.id) == started
    app.results.revoke(started.id)
    assert app.results.record(started.id) == replace(started, revoked=True)
    mark = Record(id=started.id, state=State.PENDING, revoked=True)
    assert with_mark(None, mark) == mark
    assert with_mark(started, None) == started
    assert with_mark(ended(bundle, 0), mark) == ended(bundle, 0)


def test_the_end_of_an_earlier_call_is_no_word_about_one_that_runs(app: Bench, bundle: str) -> None:
    app.results.bundles.add(bundle, ends(bundle, 0, 1))
    id = bundled_id(bundle, 0)
    running = Record(id=id, state=State.STARTED, call="a")
    app.results.advance(running)
    assert app.results.record(id) == running
    assert app.results.records([id, bundled_id(bundle, 1)], own=True) == {
        id: running,
        bundled_id(bundle, 1): ended(bundle, 1),
    }


def item_of(app: Bench, bundle: str) -> Item:
    return app.store.get([bundle_key(bundle)], consistent=True)[bundle_key(bundle)]


def test_a_call_that_has_ended_meanwhile_gets_no_mark(app: Bench, bundle: str) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    bundles = app.results.bundles
    before = bundles.read([bundle])[bundle]
    bundles.add(bundle, {0: ended(bundle, 0), 1: ended(bundle, 1, "x" * 900)})
    for number in (0, 1):
        for known in (before, bundles.read([bundle])[bundle]):
            assert bundles.revoke(known, number, keep=60.0).revoked == set()
    assert "revoked" not in item_of(app, bundle).fields


def test_a_mark_is_kept_for_its_time(app: Bench, bundle: str) -> None:
    app.clock.stand_still()
    bundles = app.results.bundles
    standing = bundles.revoke(bundles.read([bundle])[bundle], 3, keep=5000.0)
    assert standing.revoked == {3}
    until = item_of(app, bundle).expires
    assert until == pytest.approx(app.clock() + 5000.0, abs=1.0)
    bundles.revoke(standing, 4, keep=60.0)
    assert item_of(app, bundle).expires == until


def test_what_is_forgotten_is_so_with_its_mark_and_changes_nothing_else(
    app: Bench, bundle: str
) -> None:
    bundles = app.results.bundles
    bundles.add(bundle, ends(bundle, 0, 1))
    for number in (2, 3):
        bundles.revoke(bundles.read([bundle])[bundle], number, keep=9e6)
    expires = item_of(app, bundle).expires
    for number in (0, 2):
        bundles.forget(bundle, number)
    standing = bundles.read([bundle])[bundle]
    assert (standing.records, standing.revoked) == (ends(bundle, 1), {3})
    assert (standing.parts, standing.kept) == (3, ["p2"])
    assert item_of(app, bundle).expires == expires


def test_an_end_that_comes_as_another_is_forgotten_is_not_lost(app: Bench, bundle: str) -> None:
    bundles, update, late = app.results.bundles, app.store.update, [2]
    bundles.add(bundle, ends(bundle, 0, 1))

    def overtaken(key: Key, change: Change) -> Item:
        if late:
            bundles.add(bundle, ends(bundle, late.pop()))
        return update(key, change)

    app.store.update = overtaken  # type: ignore[method-assign]
    bundles.forget(bundle, 0)
    assert bundles.read([bundle])[bundle].records == ends(bundle, 1, 2)


def test_the_end_of_a_later_call_is_read_at_once(app: Bench, bundle: str) -> None:
    app.results.bundles.add(bundle, ends(bundle, 0, 1))
    id = bundled_id(bundle, 0)
    assert app.results.records([id]) == {id: ended(bundle, 0)}
    later = ended(bundle, 0, "later", call="a")
    assert app.results.bundles.end(Place(bundle, 0), later) is None
    assert app.results.records([id]) == {id: later}
    reads = app.store.calls["get"]
    app.results.bundles.add(bundle, ends(bundle, 2))
    assert app.results.records([id]) == {id: later}
    assert app.store.calls["get"] == reads, "a new end changes none that was read"
