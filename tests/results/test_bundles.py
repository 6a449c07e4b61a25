"""The ends of a bundle's calls in one item: few requests, and the first end stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import urandom
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import State
from cloudq.driver import Change, Code, ConditionFailed, Item, Key, StoreLimits, Value
from cloudq.errors import BackendError
from cloudq.messages.ids import Place, bundled_id, new_bundle
from cloudq.messages.message import new_id
from cloudq.results import shared_items
from cloudq.results.bundle_item import (
    Delivered,
    bundle_key,
    is_same,
    marked,
    part_of,
    read_item,
)
from cloudq.results.record import Record
from cloudq.results.shared_items import Seen
from tests.support.bench import Bench


@pytest.fixture
def bundle() -> str:
    return new_bundle()


def nth(delivery: int) -> Delivered:
    """A delivery of the one message with calls of the bundle."""
    return Delivered("message", delivery)


def ended(bundle: str, number: int, value: object = None, **fields: Any) -> Record:
    fields = {"state": State.SUCCESS, "task": "t", "fence": 1, "finished_at": 5.0, **fields}
    return Record(id=bundled_id(bundle, number), value=str(value or number), **fields)


def ends(bundle: str, *numbers: int) -> dict[int, Record]:
    return {number: ended(bundle, number) for number in numbers}


def found(app: Bench, bundle: str, *numbers: int) -> dict[int, Record]:
    app.results.bundles.seen.forget()
    records = app.results.records([bundled_id(bundle, number) for number in numbers])
    return {int(id[-4:], 16): record for id, record in records.items()}


def test_many_ends_are_one_write_and_one_read(app: Bench, bundle: str) -> None:
    records = ends(bundle, *range(100))
    app.results.bundles.add(bundle, records, nth(1))
    assert app.store.calls == {"update": 1}
    assert found(app, bundle, *range(100)) == records
    assert app.store.calls == {"update": 1, "get": 1}


def test_ends_that_were_read_a_moment_ago_are_not_read_again(app: Bench, bundle: str) -> None:
    app.results.bundles.add(bundle, ends(bundle, 0, 1), nth(1))
    for number in (0, 1, 0):
        assert app.results.records([bundled_id(bundle, number)])
    assert app.store.calls["get"] == 1
    app.results.forget(bundled_id(bundle, 0))
    assert not app.results.records([bundled_id(bundle, 0)])


def test_the_first_end_stays(app: Bench, bundle: str) -> None:
    first = ends(bundle, 0, 1)
    app.results.bundles.add(bundle, first, nth(1))
    second = {1: ended(bundle, 1, "other"), 2: ended(bundle, 2)}
    standing = app.results.bundles.add(bundle, second, nth(1))
    assert standing is not None
    assert standing.record(1) == first[1]
    assert found(app, bundle, 0, 1, 2) == {**first, 2: second[2]}


def test_an_earlier_delivery_cannot_write_once_a_later_one_has_claimed(
    app: Bench, bundle: str
) -> None:
    app.results.bundles.add(bundle, ends(bundle, 0), nth(1))
    claimed = app.results.bundles.claim(bundle, nth(2))
    assert claimed is not None
    assert claimed.record(0) == ended(bundle, 0)
    assert app.results.bundles.add(bundle, ends(bundle, 1), nth(1)) is None
    assert app.results.bundles.claim(bundle, nth(1)) is None
    assert app.results.bundles.add(bundle, ends(bundle, 1), nth(2)) is not None
    assert set(found(app, bundle, 0, 1)) == {0, 1}


def test_a_call_that_came_by_itself_ends_there_too(app: Bench, bundle: str) -> None:
    app.results.bundles.claim(bundle, nth(3))
    record = ended(bundle, 4, retries=1)
    assert app.results.advance(record) is None
    assert app.results.advance(ended(bundle, 4, "late", retries=1)) == record
    assert app.results.store([ended(bundle, 5)]) == {}
    assert set(found(app, bundle, 4, 5)) == {4, 5}


def test_an_end_under_an_older_fence_is_refused(app: Bench, bundle: str) -> None:
    id = bundled_id(bundle, 0)
    assert app.results.advance(Record(id=id, state=State.STARTED, fence=2)) is None
    standing = app.results.advance(ended(bundle, 0, fence=1))
    assert standing is not None
    assert not standing.terminal
    assert not found(app, bundle, 0)


def test_what_a_call_records_while_it_runs_lies_apart(app: Bench, bundle: str) -> None:
    id = bundled_id(bundle, 0)
    app.results.advance(Record(id=id, state=State.STARTED, custom="PROGRESS"))
    assert app.results.records([id]) == {}
    record = app.results.record(id)
    assert record is not None
    assert record.shown == "PROGRESS"
    app.results.bundles.add(bundle, ends(bundle, 0), nth(1))
    record = app.results.record(id)
    assert record is not None
    assert record.state is State.SUCCESS


def test_a_revoked_call_is_known_to_be(app: Bench, bundle: str) -> None:
    revoked = app.results.revoke(bundled_id(bundle, 3))
    assert revoked is not None
    assert found(app, bundle, 2, 3)[3].revoked
    app.results.bundles.add(bundle, ends(bundle, 3, 4), nth(1))
    assert app.results.revoke(bundled_id(bundle, 4)) is None
    assert found(app, bundle, 3, 4)[3].state is State.SUCCESS


def test_a_forgotten_call_is_gone_and_its_neighbours_stay(app: Bench, bundle: str) -> None:
    for number in range(4):
        app.results.bundles.add(bundle, ends(bundle, number), nth(1))
    app.results.forget(bundled_id(bundle, 2))
    app.results.forget(bundled_id(bundle, 9))
    assert set(found(app, bundle, 0, 1, 2, 3)) == {0, 1, 3}
    app.results.bundles.add(bundle, ends(bundle, 2), nth(1))
    assert set(found(app, bundle, 0, 1, 2, 3)) == {0, 1, 2, 3}


def test_large_values_lie_apart_and_small_ones_together(app: Bench, bundle: str) -> None:
    large = "x" * (app.store.limits.item // 3)
    records = {**ends(bundle, 0, 1), 2: ended(bundle, 2, large)}
    app.results.bundles.add(bundle, records, nth(1))
    assert found(app, bundle, 0, 1, 2) == records
    item = app.store.get([bundle_key(bundle)], consistent=True)[bundle_key(bundle)]
    assert sum(len(part) for part in item.fields.values() if isinstance(part, bytes)) < 1000


def test_two_who_write_at_once_lose_nothing(app: Bench, bundle: str) -> None:
    """Each finds that the other was faster, some times over."""
    stores = [app.results.bundles, app.results.bundles]
    for number in range(20):
        assert stores[number % 2].add(bundle, ends(bundle, number), nth(1)) is not None
    assert len(found(app, bundle, *range(20))) == 20


def test_an_answer_that_was_lost_is_no_other_s_end(app: Bench, bundle: str) -> None:
    records = ends(bundle, 0, 1)
    app.results.bundles.add(bundle, records, nth(1))
    standing = app.results.bundles.add(bundle, records, nth(1))
    assert standing is not None
    assert all(is_same(standing.records[number], record) for number, record in records.items())


def test_the_ends_of_whole_bundles_are_read_with_those_that_lie_apart(
    app: Bench, bundle: str
) -> None:
    large = ended(bundle, 1, "x" * (app.store.limits.item // 3))
    records = {**ends(bundle, 0), 1: large}
    app.results.bundles.add(bundle, records, nth(1))
    ids = {record.id: record for record in records.values()}
    assert app.results.bundles.of_bundles([bundle], [*ids], consistent=True) == ids
    reads = app.store.calls["get"]
    assert app.results.records([records[0].id]) == {records[0].id: records[0]}
    assert app.store.calls["get"] == reads  # it was read a moment ago


def test_of_two_ends_in_an_item_that_of_the_earlier_part_counts(bundle: str) -> None:
    parts = {f"p{n}": part_of({1: ended(bundle, 1, n)}) for n in (10, 9, 11)}
    item = Item(key=bundle_key(bundle), fields={"parts": 12, **parts})
    assert read_item(bundle, item).records == {1: ended(bundle, 1, 9)}


def test_times_of_ends_are_those_of_the_nearest_millisecond(app: Bench, bundle: str) -> None:
    exact = ended(bundle, 0, started_at=4.0004, finished_at=5.12356)
    app.results.bundles.add(bundle, {0: exact}, nth(1))
    assert found(app, bundle, 0) == {0: replace(exact, started_at=4.0, finished_at=5.124)}


def test_the_parts_of_an_item_are_numbered_from_0_whatever_else_it_has(
    app: Bench, bundle: str
) -> None:
    app.results.bundles.claim(bundle, nth(2))
    app.results.revoke(bundled_id(bundle, 7))
    for number in range(2):
        app.results.bundles.add(bundle, ends(bundle, number), nth(2))
    item = app.store.get([bundle_key(bundle)], consistent=True)[bundle_key(bundle)]
    assert item.fields["parts"] == 2
    assert {name for name in item.fields if name[0] == "p"} == {"p0", "p1", "parts"}


def test_marks_of_another_program_are_passed_over() -> None:
    assert marked(frozenset({"1", "65535", "x", "-2", "123456", "1234567", ""})) == {1, 65535}
    assert marked("1") == set()


@pytest.mark.parametrize("what", ["add", "claim", "revoke", "forget"])
def test_an_item_that_changes_too_often_is_given_up(app: Bench, bundle: str, what: str) -> None:
    bundles = app.results.bundles
    bundles.add(bundle, ends(bundle, 0), nth(1))

    def changed(key: Key, change: Change) -> Item:
        raise ConditionFailed(None)

    app.store.update = changed  # type: ignore[method-assign]
    changes: dict[str, Callable[[], object]] = {
        "add": lambda: bundles.add(bundle, ends(bundle, 1), nth(1)),
        "claim": lambda: bundles.claim(bundle, nth(2)),
        "revoke": lambda: bundles.revoke(bundles.read([bundle])[bundle], 1, keep=60.0),
        "forget": lambda: bundles.forget(bundle, 0),
    }
    with pytest.raises(BackendError, match=f"bundle {bundle} changes too often") as caught:
        changes[what]()
    assert caught.value.code is Code.THROTTLED


@pytest.mark.parametrize("tells", [True, False])
def test_who_finds_an_item_changed_learns_what_is_there_whether_the_store_tells_it_or_not(
    app: Bench, bundle: str, tells: bool
) -> None:
    update = app.store.update

    def changed(key: Key, change: Change) -> Item:
        try:
            return update(key, change)
        except ConditionFailed as error:
            raise ConditionFailed(error.current if tells else None) from None

    app.store.update = changed  # type: ignore[method-assign]
    app.results.bundles.add(bundle, ends(bundle, 0), nth(1))
    standing = app.results.bundles.add(bundle, {0: ended(bundle, 0, "other"), **ends(bundle, 1)})
    assert standing is not None
    assert standing.records == ends(bundle, 0, 1)
    assert app.store.calls["get"] == (0 if tells else 1)


def test_the_first_plain_ends_may_fill_a_quarter_of_an_item(app: Bench, bundle: str) -> None:
    bundles, shared = app.results.bundles, ended(bundle, 0)
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    # A record is taken for 200 bytes and its value.
    for length, written in ((801, None), (800, set[int]())):
        assert bundles.add_plain(bundle, shared, [(0, "x" * length, 1.0, 2.0)], nth(1)) == written


@pytest.mark.parametrize(("length", "apart"), [(800, False), (801, True)])
def test_one_end_may_fill_a_quarter_of_an_item(
    app: Bench, bundle: str, length: int, apart: bool
) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    record = ended(bundle, 0, "x" * length)
    app.results.bundles.add(bundle, {0: record}, nth(1))
    assert app.results.bundles.read([bundle])[bundle].is_apart(0) is apart
    assert found(app, bundle, 0) == {0: record}


@pytest.mark.parametrize(("sizes", "apart"), [((400, 600, 700), {2}), ((601, 400), {0})])
def test_small_ends_keep_company_for_as_long_as_there_is_room(
    app: Bench, bundle: str, sizes: tuple[int, ...], apart: set[int]
) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    records = {n: ended(bundle, n, "x" * (size - 200)) for n, size in enumerate(sizes)}
    app.results.bundles.add(bundle, records, nth(1))
    assert app.results.bundles.read([bundle])[bundle].apart == apart
    assert found(app, bundle, *records) == records


def test_parts_that_have_become_many_are_written_anew_as_one(app: Bench, bundle: str) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=40_000)
    bundles, large = app.results.bundles, ended(bundle, 0, "x" * 9_900)
    bundles.add(bundle, {0: large}, nth(1))
    for number in range(1, 32):
        bundles.add(bundle, ends(bundle, number), nth(1))
    standing = bundles.read([bundle])[bundle]
    assert (standing.parts, len(standing.kept), standing.apart) == (32, 32, {0})
    bundles.add(bundle, ends(bundle, 32), nth(1))
    standing = bundles.read([bundle])[bundle]
    assert (standing.parts, standing.kept, standing.apart) == (33, ["p32"], {0})
    assert found(app, bundle, *range(33)) == {**ends(bundle, *range(1, 33)), 0: large}


def test_an_item_that_is_a_quarter_full_takes_one_more(app: Bench, bundle: str) -> None:
    bundles = app.results.bundles
    bundles.add(bundle, {0: ended(bundle, 0, urandom(1000).hex())}, nth(1))
    app.store.limits = StoreLimits(put=25, get=100, item=4 * bundles.read([bundle])[bundle].size)
    for number in (1, 2):
        bundles.add(bundle, ends(bundle, number), nth(1))
    assert bundles.read([bundle])[bundle].apart == {2}
    assert set(found(app, bundle, 0, 1, 2)) == {0, 1, 2}


def test_an_end_that_cannot_be_stored_apart_is_told_with_the_store_s_word(
    app: Bench, bundle: str
) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    app.store.refuse = lambda item: Code.THROTTLED
    large = ended(bundle, 0, "x" * 900)
    with pytest.raises(BackendError, match="refused on purpose") as caught:
        app.results.bundles.add(bundle, {0: large, **ends(bundle, 1)}, nth(1))
    assert caught.value.code is Code.THROTTLED
    assert not app.results.bundles.read([bundle])[bundle].is_known


def test_what_a_record_has_beside_its_value_takes_room_too(app: Bench, bundle: str) -> None:
    app.store.limits = StoreLimits(put=25, get=100, item=4_000)
    texts = {"children": "x" * 900, "error": "x" * 900, "traceback": "x" * 900}
    for number, (name, text) in enumerate(texts.items()):
        record = ended(bundle, number, **{name: text})
        app.results.bundles.add(bundle, {number: record}, nth(1))
        assert app.results.bundles.read([bundle])[bundle].is_apart(number)
        assert found(app, bundle, number) == {number: record}


def test_ends_and_the_record_of_a_call_that_lies_apart_are_read_together(
    app: Bench, bundle: str
) -> None:
    started = Record(id=bundled_id(bundle, 0), state=State.STARTED)
    app.results.advance(started)
    app.results.bundles.add(bundle, ends(bundle, 1), nth(1))
    reads = app.store.calls["get"]
    standing, own = app.results.bundles.with_own(started.id, Place(bundle, 0))
    assert (standing.records, own) == (ends(bundle, 1), started)
    standing, own = app.results.bundles.with_own(bundled_id(bundle, 1), Place(bundle, 1))
    assert (standing.records, own) == (ends(bundle, 1), None)
    assert app.store.calls["get"] == reads + 2


def test_so_many_items_are_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(shared_items, "time", SimpleNamespace(monotonic=lambda: now))
    bundles = [new_bundle() for _ in range(3)]
    ids = {bundled_id(bundle, 0): Place(bundle, 0) for bundle in bundles}
    seen = Seen(2)
    for bundle in bundles:
        seen.keep(bundle, ends(bundle, 0))
        seen.keep(new_bundle(), {})
    assert [*seen.ended(ids)] == [*ids][1:]
    assert seen.ended({"x": Place(bundles[2], 1)}) == {}
    running = Record(id="x", state=State.STARTED)
    seen.keep(bundles[2], {**ends(bundles[2], 0), 1: running})
    assert seen.ended({"x": Place(bundles[2], 1)}) == {}
    now += 4.9
    assert [*seen.ended(ids)] == [*ids][1:]
    seen.forget(bundles[1])
    assert [*seen.ended(ids)] == [*ids][2:]
    now += 0.1
    assert seen.ended(ids) == {}
    seen.keep(bundles[0], ends(bundles[0], 0))
    assert [*seen.ended(ids)] == [*ids][:1]
    seen.forget()
    assert seen.ended(ids) == {}


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.text(max_size=5),
    st.binary(max_size=40),
    st.just(part_of({0: None, 1: ended("a" * 32, 1)})),
    st.just(part_of({1: ended("a" * 32, 1)})[:-7]),
)


@given(st.dictionaries(st.sampled_from(["parts", "fence", "p0", "p1", "x1", "xx", "p-1"]), VALUES))
def test_an_item_of_another_program_is_read_for_what_it_has(fields: dict[str, Value]) -> None:
    bundle = new_bundle()
    found = read_item(bundle, Item(key=bundle_key(bundle), fields=fields))
    assert set(found.records) <= {1}


def test_ids_without_a_bundle_cost_what_they_did(app: Bench) -> None:
    ids = [new_id() for _ in range(3)]
    app.results.store([Record(id=id, state=State.SUCCESS) for id in ids])
    assert app.store.calls == {"put": 1}
    assert set(app.results.records(ids)) == set(ids)
    assert app.store.calls == {"put": 1, "get": 1}
