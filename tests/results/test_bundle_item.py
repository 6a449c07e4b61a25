"""The item of a bundle: who may write to it, how large it gets, and what strangers put there."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudq import CloudQ, State
from cloudq.driver import Change, Item, StoreAdmin, Value
from cloudq.driver.loader import open_backend
from cloudq.driver.store import StoreLimits
from cloudq.messages.ids import Place, bundled_id, new_bundle
from cloudq.results.backend import Backend
from cloudq.results.bundle_item import (
    BundleRecords,
    Delivered,
    bundle_key,
    part_of,
    plain_part,
    read_item,
)
from cloudq.results.record import Record, from_fields, to_fields
from tests.servers import unique

FIRST = Delivered("message-1", 1)


def url_of(request: pytest.FixtureRequest, folder: Path) -> str:
    kind, table = request.param, unique("bundles")
    if kind == "sqlite":
        return f"sqlite:///{folder}/bundles.db"
    server = request.getfixturevalue({"dynamodb": "aws", "aztables": "tables"}.get(kind, kind))
    if kind == "dynamodb":
        return f"dynamodb://{table}?endpoint_url={server.url}"
    if kind == "firestore":
        return f"firestore://cloudq-local/{table}?emulator=127.0.0.1:{server.port}"
    url = server.environment["CLOUDQ_BACKEND"]
    return url.replace("/cloudq?", f"/{table.replace('-', '')}?")


@pytest.fixture(params=["sqlite", "dynamodb", "firestore", "aztables"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    url = url_of(request, tmp_path)
    made = Backend(open_backend(url), url=url)
    if isinstance(made.driver, StoreAdmin):
        made.driver.create_store()
    yield made
    made.close()


@pytest.fixture
def plain() -> Iterator[Backend]:
    with CloudQ("bundles", broker="memory://bundle-items") as app:
        assert app.backend is not None
        yield app.backend


def end(bundle: str, number: int, value: str = "1") -> Record:
    return Record(
        id=bundled_id(bundle, number), state=State.SUCCESS, task="t", value=value, finished_at=1.5
    )


def found(backend: Backend, bundle: str, numbers: int) -> dict[int, str | None]:
    backend.bundles.seen.forget()
    records = backend.records([bundled_id(bundle, number) for number in range(numbers)])
    return {int(id[-4:], 16): record.value for id, record in records.items()}


def test_messages_of_one_bundle_do_not_keep_each_other_out(plain: Backend) -> None:
    """Calls that were given back come in a new message: its first delivery is no earlier one."""
    bundle = new_bundle()
    assert plain.bundles.claim(bundle, Delivered("message-1", 2)) is not None
    assert plain.bundles.add(bundle, {0: end(bundle, 0)}, Delivered("message-2", 1)) is not None
    assert plain.bundles.add(bundle, {1: end(bundle, 1)}, Delivered("message-1", 1)) is None
    assert plain.bundles.claim(bundle, Delivered("message-1", 1)) is None
    assert found(plain, bundle, 3) == {0: "1"}


def test_ends_that_come_one_by_one_leave_few_parts(plain: Backend) -> None:
    bundle = new_bundle()
    for number in range(300):
        assert plain.bundles.end(*_placed(bundle, number)) is None
    item = plain.get([bundle_key(bundle)])[bundle_key(bundle)]
    assert len(item.fields) < 50
    assert found(plain, bundle, 300) == {number: str(number) for number in range(300)}
    again = end(bundle, 7, "another")
    standing = plain.bundles.end(_placed(bundle, 7)[0], again)
    assert standing is not None
    assert standing.value == "7"


def _placed(bundle: str, number: int) -> tuple[Place, Record]:
    return Place(bundle, number), end(bundle, number, str(number))


def test_every_store_takes_what_a_bundle_may_have(backend: Backend) -> None:
    """Ends that come together, one by one, and too large; marks; fences; and what is forgotten."""
    bundle = new_bundle()
    texts = {n: os.urandom(700).hex() for n in range(300)}
    values = texts | {n: str(n) for n in range(300, 1000)}
    together = {n: end(bundle, n, values[n]) for n in range(900)}
    assert backend.bundles.add(bundle, together, FIRST) is not None
    for number in range(900, 940):
        assert (
            backend.bundles.end(Place(bundle, number), end(bundle, number, values[number])) is None
        )
    for number in range(940, 1000):
        backend.revoke(bundled_id(bundle, number))
    assert found(backend, bundle, 940) == {n: values[n] for n in range(940)}
    records = backend.records([bundled_id(bundle, number) for number in range(940, 1000)])
    assert all(record.revoked for record in records.values())
    assert len(records) == 60
    assert backend.bundles.claim(bundle, Delivered("message-1", 2)) is not None
    assert backend.bundles.add(bundle, {950: end(bundle, 950)}, FIRST) is None
    backend.forget(bundled_id(bundle, 905))
    assert backend.record(bundled_id(bundle, 905)) is None
    large = end(bundle, 960, "x" * 300_000)
    assert backend.bundles.add(bundle, {960: large}, Delivered("message-1", 2)) is not None
    backend.bundles.seen.forget()
    record = backend.record(bundled_id(bundle, 960))
    assert record is not None
    assert record.value == large.value


@pytest.mark.parametrize("fenced", [False, True])
def test_what_there_is_no_room_for_lies_apart(plain: Backend, fenced: bool) -> None:
    plain.driver.limits = StoreLimits(put=25, get=100, item=40_000)  # type: ignore[misc]
    bundle = new_bundle()
    values = {number: os.urandom(1500).hex() for number in range(40)}
    for start in range(0, 40, 4):
        ends = {n: end(bundle, n, values[n]) for n in range(start, start + 4)}
        assert plain.bundles.add(bundle, ends, FIRST, fenced=fenced) is not None
    item = plain.get([bundle_key(bundle)])[bundle_key(bundle)]
    assert sum(len(value) for value in item.fields.values() if isinstance(value, bytes)) < 30_000
    assert found(plain, bundle, 40) == values


def test_an_end_that_lies_apart_does_not_change(plain: Backend) -> None:
    plain.driver.limits = StoreLimits(put=25, get=100, item=4_000)  # type: ignore[misc]
    bundle = new_bundle()
    first, second = "a" * 5000, "b" * 5000
    plain.bundles.add(bundle, {0: end(bundle, 0, first)}, FIRST)
    plain.bundles.add(bundle, {0: end(bundle, 0, second)}, FIRST, fenced=True)
    assert found(plain, bundle, 1) == {0: first}


def test_many_of_a_bundle_are_revoked(plain: Backend) -> None:
    bundle = new_bundle()
    plain.bundles.add(bundle, {0: end(bundle, 0)}, FIRST)
    for number in range(300):
        plain.revoke(bundled_id(bundle, number))
    item = plain.get([bundle_key(bundle)])[bundle_key(bundle)]
    assert len(item.fields) < 10
    records = plain.records([bundled_id(bundle, number) for number in range(300)])
    assert records[bundled_id(bundle, 0)].state is State.SUCCESS
    assert all(records[bundled_id(bundle, number)].revoked for number in range(1, 300))


def test_an_end_is_forgotten_wherever_it_lies(plain: Backend) -> None:
    plain.driver.limits = StoreLimits(put=25, get=100, item=4_000)  # type: ignore[misc]
    bundle = new_bundle()
    plain.bundles.add(bundle, {0: end(bundle, 0), 1: end(bundle, 1, "x" * 5000)}, FIRST)
    for number in range(2):
        plain.reopen(Record(id=bundled_id(bundle, number), state=State.PENDING, task="t"))
        plain.bundles.add(bundle, {number: end(bundle, number, "new")}, Delivered("other", 1))
    assert found(plain, bundle, 2) == {0: "new", 1: "new"}


def test_what_all_records_of_a_part_share_stands_in_it_once() -> None:
    bundle = new_bundle()
    rows = {n: replace(end(bundle, n), task="shop.work") for n in range(9)}
    text = zlib.decompress(part_of({**rows, 9: None}))
    assert (text.count(b"SUCCESS"), text.count(b"shop.work")) == (1, 1)
    rows[9] = replace(rows[8], task="other")
    text = zlib.decompress(part_of(rows))
    assert (text.count(b"SUCCESS"), text.count(b"shop.work")) == (1, 9)


def test_parts_are_compressed() -> None:
    bundle = new_bundle()
    rows = {n: end(bundle, n, "the same text for all") for n in range(99)}
    ends = [(n, "the same text for all", 1.0, 1.5) for n in range(99)]
    for part in (part_of(rows), plain_part(rows[0], ends)):
        assert 5 * len(part) < len(zlib.decompress(part))


def test_a_later_delivery_is_noted_under_a_name_that_never_changes() -> None:
    """Workers of other releases look for it there."""
    first, second = Delivered("message-1", 1), Delivered("message-1", 2)
    assert first.field == second.field == "fbe53ab02d1a9ee99"
    assert (first.claim(), second.claim()) == ({}, {"fbe53ab02d1a9ee99": 2})


def test_an_item_is_read_field_by_field() -> None:
    bundle = new_bundle()
    fields: dict[str, Value] = {"parts": 3, "until": 7, "f1": 2, "f2": "x", "f3": True, "x": 4}
    found = read_item(bundle, Item(key=bundle_key(bundle), fields=fields))
    assert (found.parts, found.stamp, found.until, found.fences) == (3, 3, 7, {"f1": 2})
    assert (found.kept, found.size, found.is_known) == ([], 0, False)
    found = read_item(bundle, Item(key=bundle_key(bundle), fields={"until": "x"}))
    assert found == read_item(bundle, None) == BundleRecords(bundle=bundle)
    assert (found.parts, found.stamp, found.until) == (0, None, 0.0)


def test_the_end_of_a_later_call_that_lies_apart_hides_the_earlier_one() -> None:
    bundle = new_bundle()
    first, then = part_of({1: end(bundle, 1), 2: end(bundle, 2)}), part_of({1: None})
    item = Item(key=bundle_key(bundle), fields={"parts": 2, "p0": first, "p1": then})
    found = read_item(bundle, item)
    assert (set(found.records), found.apart) == ({2}, {1})
    assert (found.kept, found.size) == (["p0", "p1"], len(first) + len(then))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(all=ODD, calls=ODD, cut=st.integers(0, 40), parts=ODD, revoked=ODD)
def test_what_another_program_wrote_is_passed_over(
    all: object, calls: object, cut: int, parts: Any, revoked: Any
) -> None:
    bundle = new_bundle()
    texts: list[object] = [{"all": all, "calls": calls}, {"all": {}, "calls": [[0, calls]]}, calls]
    for text in texts:
        part = zlib.compress(json.dumps(text).encode())
        fields = {"parts": parts, "p0": part, "p1": part[:cut], "p2": "x", "revoked": revoked}
        found = read_item(bundle, Item(key=bundle_key(bundle), fields=fields))
        for record in found.records.values():
            assert record.state in State


@pytest.mark.parametrize("parts", ["many", 1.5, True, "3"])
def test_ends_are_stored_over_what_another_program_wrote(plain: Backend, parts: Any) -> None:
    bundle = new_bundle()
    odd = Change(set={"parts": parts, "p0": "text", "p5": b"cut"}, expires=None)
    plain.update(bundle_key(bundle), odd)
    plain.bundles.add(bundle, {0: end(bundle, 0)}, FIRST)
    plain.bundles.add(bundle, {1: end(bundle, 1)}, FIRST)
    assert found(plain, bundle, 2) == {0: "1", 1: "1"}


_TEXTS = st.none() | st.sampled_from(["", "a", "b"])
_TIMES = st.none() | st.sampled_from([0.0, 1.5, 1764468000.123])
_ROWS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(State),
        "task": st.sampled_from(["", "t", "u"]),
        "retries": st.integers(0, 2),
        "fence": st.integers(0, 2),
        "started_at": _TIMES,
        "finished_at": _TIMES,
        "revoked": st.booleans(),
        **dict.fromkeys(("value", "queue", "worker", "parent", "error", "children"), _TEXTS),
    }
)


@given(rows=st.lists(_ROWS, min_size=1, max_size=5))
def test_a_part_has_each_record_whole(rows: list[dict[str, Any]]) -> None:
    bundle = new_bundle()
    records = {n: Record(id=bundled_id(bundle, n), **row) for n, row in enumerate(rows)}
    for record in records.values():
        assert from_fields(record.id, to_fields(record)) == record
        assert all(value != _DEFAULTS.get(name, ...) for name, value in to_fields(record).items())
    item = Item(key=bundle_key(bundle), fields={"p0": part_of({**records, 7: None})}, expires=None)
    found = read_item(bundle, item)
    assert (found.records, found.apart) == (records, {7})


_DEFAULTS = {field.name: field.default for field in fields(Record)}
