"""The encrypted parts of bundles: small, bound to their places, read whatever stands in them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from cloudq.driver import Item, Key
from cloudq.messages.encryption import Encryption
from cloudq.messages.ids import bundled_id
from cloudq.messages.sealed_text import because, marker
from cloudq.results import bundle_item
from cloudq.results.bundle_item import PARTS, bundle_key, part_of
from cloudq.results.record import Record, State
from cloudq.results.sealing import Sealing

OWN = base64.b64encode(bytes(range(32))).decode()
MOVED = because("bad seal: changed, or not what key 'k' has encrypted for this place")


@pytest.fixture
def sealing() -> Sealing:
    return Sealing(Encryption({"k": OWN}), "shop", ["shop"])


def record(number: int, value: str) -> Record:
    id = bundled_id("b", number)
    return Record(id=id, state=State.SUCCESS, task="t", value=value, finished_at=float(number))


def item(part: bytes, *, bundle: str = "b") -> Item:
    return Item(key=bundle_key(bundle), fields={"p0": part, PARTS: 1})


def sealed(sealing: Sealing, records: Mapping[int, Record | None]) -> bytes:
    [made] = sealing.items([item(part_of(records))])
    part = made.fields["p0"]
    assert isinstance(part, bytes)
    return part


def read(found: Item) -> dict[int, Record | None]:
    part = found.fields["p0"]
    assert isinstance(part, bytes)
    return dict(bundle_item.opened("b", part))


def text_of(part: bytes) -> Any:
    return orjson.loads(zlib.decompress(part))


def test_the_records_of_a_part_come_back_and_those_that_lie_apart_with_them(
    sealing: Sealing,
) -> None:
    records = {0: record(0, '"secret"'), 1: None, 2: record(2, '"other"')}
    part = sealed(sealing, records)
    assert b"secret" not in zlib.decompress(part)
    assert read(sealing.opened(item(part))) == records


def test_each_value_of_a_part_that_was_moved_says_why_it_cannot_be_read(sealing: Sealing) -> None:
    part = sealed(sealing, {0: record(0, '"a"'), 1: None, 2: record(2, '"b"')})
    found = read(sealing.opened(item(part, bundle="another")))
    assert found == {0: record(0, MOVED), 1: None, 2: record(2, MOVED)}


@pytest.mark.parametrize("bundle", ["b", "another"])
def test_rows_that_another_program_wrote_are_passed_over(sealing: Sealing, bundle: str) -> None:
    records = {0: record(0, '"a"'), 1: record(1, '"b"')}
    plain = text_of(sealed(sealing, records))
    odd: list[Any] = [5, "ab", None, [], [2], [3, "row"], [4, None, {}], {"5": {}, "6": {}}]
    plain["calls"] = [*odd, *plain["calls"], *odd]
    found = read(sealing.opened(item(zlib.compress(orjson.dumps(plain)), bundle=bundle)))
    right = records if bundle == "b" else {n: record(n, MOVED) for n in range(2)}
    assert found == right


def test_what_is_hidden_is_compressed_before_it_is_encrypted(sealing: Sealing) -> None:
    value = f'"{"x" * 1000}"'
    part = sealed(sealing, {n: record(n, value) for n in range(100)})
    assert len(part) < 10_000


def test_what_stays_readable_is_compressed_too(sealing: Sealing) -> None:
    part = sealed(sealing, {n: record(n, "1") for n in range(500)})
    assert len(part) < len(zlib.decompress(part)) / 2


def test_of_a_bundle_its_parts_are_what_a_key_is_used_for(sealing: Sealing) -> None:
    part = sealed(sealing, {0: record(0, '"a"')})
    assert list(sealing.used(item(part))) == [("k", None)]
    [(key, problem)] = sealing.used(item(part, bundle="another"))
    assert key == "k"
    assert because(problem or "") == MOVED
    plain = part_of({0: record(0, '"a"')})
    assert list(sealing.used(item(plain))) == []


def test_a_field_that_is_never_encrypted_counts_as_no_use_of_a_key(sealing: Sealing) -> None:
    task = Key("task#x")
    [made] = sealing.items([Item(key=task, fields={"value": "1", "task": marker("k")})])
    assert list(sealing.used(made)) == [("k", None)]
