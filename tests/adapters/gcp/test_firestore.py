"""Firestore passes the contracts, over Google's own emulator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from cloudq.driver import Address, Change, Check, Code, ConditionFailed, Item, Key, Op
from cloudq.testing import BackendContract, UpdateContract
from cloudq.testing.waiting import at_once
from cloudq_gcp.client import GRPC
from cloudq_gcp.firestore import Firestore, open_backend
from cloudq_gcp.firestore_client import connect
from cloudq_gcp.firestore_items import document_id, partition_ids, sort_key
from localstack.servers import Endpoint
from tests.servers import skip_gap, unique

GAPS = {"a_missing_store_is_not_found": "the emulator has every database that is asked for"}


@pytest.fixture
def address(firestore: Endpoint) -> Address:
    """The URL of a collection of its own."""
    return Address(
        scheme="firestore",
        host="cloudq-tests",
        path=unique("cloudq"),
        options={"emulator": f"127.0.0.1:{firestore.port}"},
    )


@pytest.fixture
def driver(address: Address) -> Iterator[Firestore]:
    """A driver on a new collection."""
    driver = open_backend(address)
    yield driver
    driver.close()


class BackendFixtures:
    has_missing_store = True

    @pytest.fixture(autouse=True)
    def gaps(self, request: pytest.FixtureRequest) -> None:
        skip_gap(request, GAPS)

    @pytest.fixture
    def driver(self, driver: Firestore) -> Firestore:
        return driver

    @pytest.fixture
    def another(self, address: Address) -> Iterator[Firestore]:
        another = open_backend(address)
        yield another
        another.close()


class TestBackend(BackendFixtures, BackendContract):
    pass


class TestUpdate(BackendFixtures, UpdateContract):
    pass


class ByHttp(BackendFixtures):
    """In a process that was forked from one that used gRPC."""

    @pytest.fixture(autouse=True)
    def grpc_is_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GRPC, "is_lost", True)


class TestBackendByHttp(ByHttp, BackendContract):
    pass


class TestUpdateByHttp(ByHttp, UpdateContract):
    pass


@pytest.fixture
def key() -> Key:
    """A key in the collection of `driver`."""
    return Key(unique(), "item")


NUMBERS = (
    *(2, 2.0, 0.0, -0.0, 0.1 + 0.2, 1e22, 12345678901234567.0),
    *(1e300, -1e-300, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")),
    *(2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**38, -(2**200)),
)


class TestValues:
    @pytest.mark.parametrize("value", NUMBERS)
    def test_numbers_come_back_exactly_and_with_their_type(
        self, driver: Firestore, key: Key, value: float
    ) -> None:
        for write in (
            lambda: driver.put([Item(key=key, fields={"n": value})]),
            lambda: driver.update(key, Change(set={"n": value})),
        ):
            write()
            found = driver.get([key], consistent=True)[key].fields["n"]
            assert (type(found), repr(found)) == (type(value), repr(value))

    def test_a_counter_grows_beyond_64_bits(self, driver: Firestore, key: Key) -> None:
        driver.update(key, Change(set={"n": 2**63 - 1}))
        assert driver.update(key, Change(increment={"n": 1})).fields["n"] == 2**63
        larger = (Check(field="n", op=Op.GT, value=2**63 - 1),)
        driver.update(key, Change(increment={"n": -1}, when=larger))
        assert driver.get([key], consistent=True)[key].fields["n"] == 2**63 - 1

    def test_fields_may_be_called_as_firestore_calls_its_own(
        self, driver: Firestore, key: Key
    ) -> None:
        names = ("expires", "fields", "__name__", "__x__", "field:x", "", ".", "a.b", "`", "ü /1")
        assert not driver.put([Item(key=key, fields=dict.fromkeys(names, 1.0))])
        check = tuple(Check(field=name, op=Op.EQ, value=1.0) for name in names)
        driver.update(key, Change(increment=dict.fromkeys(names, 1), when=check))
        item = driver.get([key], consistent=True)[key]
        assert (dict(item.fields), item.expires) == (dict.fromkeys(names, 2.0), None)

    def test_an_expiry_is_exact_to_the_microsecond_and_has_no_end(
        self, driver: Firestore, key: Key
    ) -> None:
        end = time.time() + 60.123456
        item = driver.update(key, Change(expires=end))
        assert item.expires == pytest.approx(end, abs=2e-6)
        assert driver.get([key], consistent=True)[key].expires == item.expires
        for never in (1e12, float("inf")):
            assert not driver.put([Item(key=key, fields={}, expires=never)])
            assert driver.get([key], consistent=True)[key].expires == 253_402_300_799.0


SORTS = [
    "",
    "-",
    ".",
    "..",
    "./",
    "/",
    "//",
    "0",
    "__x__",
    "a/b",
    "a.b",
    "a",
    "a|b",
    "a}",
    "~",
    "é",
]
SORTS += ["\x01", " ", "世", "\uff5e", "🎉"]


class TestKeys:
    def test_any_text_is_a_key_and_they_keep_their_order(self, driver: Firestore) -> None:
        partition = unique() + "/a|b%7C.."
        keys = [Key(partition, sort) for sort in SORTS]
        assert not driver.put([Item(key=key, fields={"sort": key.sort}) for key in keys])
        got = driver.get(keys, consistent=True)
        assert {key: got[key].fields["sort"] for key in got} == {key: key.sort for key in keys}
        page = driver.query(partition, after=None, limit=100)
        assert [item.key for item in page.items] == sorted(keys, key=lambda key: key.sort.encode())

    def test_partitions_are_apart(self, driver: Firestore) -> None:
        name = unique()
        partitions = [
            name,
            name + "|",
            name + "|a",
            name + "/",
            name + "%7C",
            name + "x",
            "__",
            ".",
        ]
        assert not driver.put([Item(key=Key(one, "|a"), fields={"p": one}) for one in partitions])
        for one in partitions:
            page = driver.query(one, after=None, limit=10)
            assert [(item.key, item.fields["p"]) for item in page.items] == [(Key(one, "|a"), one)]

    def test_ids_hold_the_sort_key(self) -> None:
        for sort in SORTS:
            assert sort_key(f"projects/p|q/{document_id(Key('a/b', sort))}") == sort

    def test_partitions_are_apart_by_more_than_their_hash(self) -> None:
        names = ("a", "a|", "a|a", "a%7C", "a%257C", "a/", "a%2F", "a}")
        ranges = sorted(tuple(id[3:] for id in partition_ids(name)) for name in names)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))

    def test_tasks_of_one_moment_are_far_apart(self) -> None:
        starts = {partition_ids(f"task#0199aa00-{number}")[0][:2] for number in range(2000)}
        assert len(starts) == 256

    def test_a_key_over_the_limit_leaves_the_others_written(
        self, driver: Firestore, key: Key
    ) -> None:
        long = Key(key.partition, "ü" * 740)
        (failure,) = driver.put([Item(key=long, fields={}), Item(key=key, fields={})])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert "1500 bytes" in failure.reason
        assert key in driver.get([key], consistent=True)
        with pytest.raises(Exception) as caught:
            driver.update(long, Change())
        assert driver.error_code(caught.value) is Code.TOO_LARGE


class TestExpiry:
    def test_racing_writers_revive_an_expired_item_once(self, driver: Firestore, key: Key) -> None:
        dead = Item(key=key, fields={"old": 1, "n": 100}, expires=time.time() - 5)
        assert not driver.put([dead])
        at_once(8, lambda _: driver.update(key, Change(increment={"n": 1})))
        assert dict(driver.get([key], consistent=True)[key].fields) == {"n": 8}

    def test_one_of_many_claims_an_expired_item(self, driver: Firestore, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"owner": -1}, expires=time.time() - 5)])
        free = Check(field="owner", op=Op.ABSENT)

        def claim(number: int) -> bool:
            try:
                driver.update(key, Change(set={"owner": number}, when=(free,)))
            except ConditionFailed as failed:
                return failed.current is None
            return True

        assert at_once(8, claim).count(True) == 1

    def test_a_page_of_expired_items_does_not_end_a_query(self, driver: Firestore) -> None:
        name, past = unique(), time.time() - 5
        items = [
            Item(key=Key(name, f"{number:02}"), fields={}, expires=past if number < 15 else None)
            for number in range(20)
        ]
        assert not driver.put(items)
        page = driver.query(name, after=None, limit=3)
        assert [item.key.sort for item in page.items] == ["15", "16", "17"]
        assert page.next == "17"


class Recorder(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Notes the methods that are called on a channel."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.sent.append(details.method.rpartition("/")[2])
        return continuation(details, request)

    intercept_unary_stream = intercept_unary_unary


class TestRequests:
    @pytest.fixture
    def sent(self, address: Address) -> Iterator[tuple[Firestore, list[str]]]:
        recorder = Recorder()
        place = connect(address)
        channel = grpc.intercept_channel(place.channel, recorder)
        driver = Firestore(replace(place, channel=channel))
        yield driver, recorder.sent
        driver.close()

    def test_a_batch_is_one_request_and_an_update_two(
        self, sent: tuple[Firestore, list[str]], key: Key
    ) -> None:
        driver, requests = sent
        free = (Check(field="a", op=Op.ABSENT),)
        items = [Item(key=Key(key.partition, f"{n}"), fields={"n": n}) for n in range(500)]
        driver.put(items)
        assert len(driver.get([item.key for item in items], consistent=False)) == 500
        driver.query(key.partition, after=None, limit=1000)
        driver.delete([item.key for item in items])
        driver.put([])
        driver.get([], consistent=True)
        assert requests == ["BatchWrite", "BatchGetDocuments", "RunQuery", "BatchWrite"]
        requests.clear()
        driver.update(key, Change(set={"a": 1}, when=free))
        with pytest.raises(ConditionFailed):
            driver.update(key, Change(set={"a": 1}, when=free))
        assert requests == ["BatchGetDocuments", "Commit", "BatchGetDocuments"]

    def test_a_batch_over_the_size_of_a_request_is_several(
        self, sent: tuple[Firestore, list[str]], key: Key
    ) -> None:
        driver, requests = sent
        items = [
            Item(key=Key(key.partition, f"{n:02}"), fields={"x": b"x" * 1_000_000})
            for n in range(17)
        ]
        assert not driver.put(items)
        assert requests == ["BatchWrite"] * 6
        assert len(driver.get([item.key for item in items], consistent=True)) == 17

    def test_the_last_of_two_items_with_one_key_counts(self, driver: Firestore, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"n": n}) for n in range(3)])
        assert driver.get([key, key], consistent=True)[key].fields == {"n": 2}
        assert not driver.delete([key, key])
        assert not driver.get([key], consistent=True)

    def test_one_item_over_the_limit_leaves_the_others_written(
        self, driver: Firestore, key: Key
    ) -> None:
        large = Item(key=Key(key.partition, "large"), fields={"x": "x" * (1 << 20)})
        (failure,) = driver.put([large, Item(key=key, fields={})])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert key in driver.get([key], consistent=True)

    @pytest.mark.parametrize("value", ["x" * 1_048_000, b"x" * 1_048_000])
    def test_an_item_just_under_the_limit_is_taken(
        self, driver: Firestore, key: Key, value: str | bytes
    ) -> None:
        assert not driver.put([Item(key=key, fields={"x": value})])
        assert driver.get([key], consistent=True)[key].fields == {"x": value}
