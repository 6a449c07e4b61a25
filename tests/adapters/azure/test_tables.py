"""Azure Table storage passes the contracts, over Microsoft's own emulator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from cloudq.driver import Address, Change, Check, Code, ConditionFailed, Item, Key, Op
from cloudq.testing import BackendContract, UpdateContract
from cloudq.testing.waiting import at_once
from cloudq_azure.tables import Tables, open_backend
from cloudq_azure.tables_items import entity_key
from cloudq_azure.tables_keys import partition_key, row_key, sort_key
from localstack.servers import Endpoint
from tests.servers import unique

ACCOUNT = "devstoreaccount1"


def table_name() -> str:
    """A name of letters and digits that no other test has."""
    return unique("cloudq").replace("-", "")


def _address(endpoint: str, table: str = "cloudq", account: str = ACCOUNT) -> Address:
    options = {"endpoint": endpoint}
    return Address(scheme="aztables", host=account, path=table, options=options, url="aztables:")


@pytest.fixture
def address(tables: Endpoint) -> Address:
    """The URL of a table of its own; the table is not there yet."""
    return _address(f"{tables.url}/{ACCOUNT}", table_name())


@pytest.fixture
def driver(address: Address) -> Iterator[Tables]:
    """A driver on a new table."""
    driver = open_backend(address)
    driver.create_store()
    yield driver
    driver.client.delete_table()
    driver.close()


class BackendFixtures:
    has_missing_store = True

    @pytest.fixture
    def driver(self, driver: Tables) -> Tables:
        return driver

    @pytest.fixture
    def another(self, address: Address, driver: Tables) -> Iterator[Tables]:
        another = open_backend(address)
        yield another
        another.close()

    @pytest.fixture
    def missing_store(self, tables: Endpoint) -> Iterator[Tables]:
        missing = open_backend(_address(f"{tables.url}/{ACCOUNT}", table_name()))
        yield missing
        missing.close()


class TestBackend(BackendFixtures, BackendContract):
    pass


class TestUpdate(BackendFixtures, UpdateContract):
    pass


@pytest.fixture
def key() -> Key:
    """A key in the table of `driver`."""
    return Key(unique(), "item")


NUMBERS = (
    *(2, 2.0, 0.0, -0.0, 0.1 + 0.2, 1e22, 12345678901234567.0),
    *(1e300, -1e-300, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")),
    *(2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**38, -(2**200)),
)
LONG = (
    *("x" * 32_768, "x" * 32_769, "世" * 40_000, "🎉" * 16_384, "🎉" * 16_385, "x🎉" * 11_000),
    *("🎉" * 16_000 + "x" * 800, b"x" * 65_536, b"x" * 65_537, bytes(range(256)) * 1_000),
    frozenset(f"slot {number} ü🎉" for number in range(8_000)),
)


class TestValues:
    @pytest.mark.parametrize("value", NUMBERS)
    def test_numbers_come_back_exactly_and_with_their_type(
        self, driver: Tables, key: Key, value: float
    ) -> None:
        for write in (
            lambda: driver.put([Item(key=key, fields={"n": value})]),
            lambda: driver.update(key, Change(set={"n": value})),
        ):
            write()
            found = driver.get([key], consistent=True)[key].fields["n"]
            assert (type(found), repr(found)) == (type(value), repr(value))

    def test_a_counter_grows_beyond_64_bits(self, driver: Tables, key: Key) -> None:
        driver.update(key, Change(set={"n": 2**63 - 1}))
        assert driver.update(key, Change(increment={"n": 1})).fields["n"] == 2**63
        larger = (Check(field="n", op=Op.GT, value=2**63 - 1),)
        driver.update(key, Change(increment={"n": -1}, when=larger))
        assert driver.get([key], consistent=True)[key].fields["n"] == 2**63 - 1

    @pytest.mark.parametrize("value", LONG, ids=range(len(LONG)))
    def test_what_is_over_a_property_is_several(
        self, driver: Tables, key: Key, value: str | bytes | frozenset[str]
    ) -> None:
        assert not driver.put([Item(key=key, fields={"x": value, "p1_x": "other"})])
        fields = driver.get([key], consistent=True)[key].fields
        assert fields == {"x": value, "p1_x": "other"}
        driver.update(key, Change(set={"x": "short"}))
        assert driver.get([key], consistent=True)[key].fields == {"x": "short", "p1_x": "other"}

    def test_more_than_ten_parts_stay_in_order(self, driver: Tables, key: Key) -> None:
        value = b"".join(b"%06d" % number for number in range(125_000))
        assert not driver.put([Item(key=key, fields={"x": value})])
        assert driver.get([key], consistent=True)[key].fields["x"] == value

    def test_fields_may_be_called_as_tables_calls_its_own(self, driver: Tables, key: Key) -> None:
        names = ("PartitionKey", "Timestamp", "expires", "f_x", "p1_f_x", "x", "odata.etag", "")
        names += (".", "a.b", "a-b", "1", "_", "__", "_x002e_", "_x00e9.", "ü #1", "🎉", "a@b")
        assert not driver.put([Item(key=key, fields=dict.fromkeys(names, 1.0))])
        check = tuple(Check(field=name, op=Op.EQ, value=1.0) for name in names)
        driver.update(key, Change(increment=dict.fromkeys(names, 1), when=check))
        item = driver.get([key], consistent=True)[key]
        assert (dict(item.fields), item.expires) == (dict.fromkeys(names, 2.0), None)

    def test_properties_are_of_tables_own_types(self, driver: Tables, key: Key) -> None:
        end = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
        fields = {"text": "a", "data": b"a", "yes": True, "half": 0.5, "tags": frozenset("ba")}
        assert not driver.put([Item(key=key, fields=fields, expires=end.timestamp())])
        names = entity_key(key)
        entity = driver.client.get_entity(names["PartitionKey"], names["RowKey"])
        assert dict(entity) == {
            **names,
            "f_text": "a",
            "f_data": b"a",
            "f_yes": True,
            "f_half": 0.5,
            "s_tags": '["a","b"]',
            "expires": end,
        }

    def test_an_expiry_is_exact_to_the_microsecond_and_has_no_end(
        self, driver: Tables, key: Key
    ) -> None:
        end = time.time() + 60.123456
        item = driver.update(key, Change(expires=end))
        assert item.expires == pytest.approx(end, abs=2e-6)
        assert driver.get([key], consistent=True)[key].expires == item.expires
        for never in (1e12, float("inf")):
            assert not driver.put([Item(key=key, fields={}, expires=never)])
            assert driver.get([key], consistent=True)[key].expires == 253_402_300_799.0


SORTS = ["", "-", ".", "..", "./", "/", "//", "0", "!", '"', "#", "a/b", "a.b", "a", "a?b", "a>b"]
SORTS += [
    "a\\b",
    "a[b",
    "a]",
    "%2f",
    "a'b",
    "a''",
    "~",
    "~7e",
    "}",
    "é",
    "\x01",
    "\x7f",
    " ",
    "a b",
]
SORTS += ["世", "\uff5e", "🎉", "A", "Z", "_", "@x", "+", "&"]


class TestKeys:
    def test_any_text_is_a_key_and_they_keep_their_order(self, driver: Tables) -> None:
        partition = unique() + "/a?b%7C#'.."
        keys = [Key(partition, sort) for sort in SORTS]
        assert not driver.put([Item(key=key, fields={"sort": key.sort}) for key in keys])
        got = driver.get(keys, consistent=True)
        assert {key: got[key].fields["sort"] for key in got} == {key: key.sort for key in keys}
        page = driver.query(partition, after=None, limit=100)
        in_order = sorted(keys, key=lambda key: key.sort.encode())
        assert [item.key for item in page.items] == in_order
        for number, key in enumerate(in_order):
            page = driver.query(partition, after=key.sort, limit=100)
            assert [item.key for item in page.items] == in_order[number + 1 :]
        assert not driver.delete(keys)
        assert not driver.get(keys, consistent=True)

    def test_every_byte_keeps_its_place(self) -> None:
        texts = [chr(number) for number in range(0x500)]
        texts += [a + b for a in "!./>?[\\]~a\0" for b in texts]
        rows = [row_key(text) for text in texts]
        assert [sort_key(row) for row in rows] == texts
        assert sorted(texts, key=str.encode) == [sort_key(row) for row in sorted(rows)]
        assert not {char for row in rows for char in row} & {*"/\\#?%'", *map(chr, range(32))}
        assert max(map(max, rows)) <= "~"

    def test_tasks_of_one_moment_are_far_apart(self) -> None:
        starts = {partition_key(f"task#0199aa00-{number}")[:4] for number in range(2000)}
        assert len(starts) > 1500

    def test_a_key_over_the_limit_leaves_the_others_written(self, driver: Tables, key: Key) -> None:
        fits, long = Key(key.partition, "#" * 170), Key(key.partition, "#" * 171)
        (failure,) = driver.put([Item(key=long, fields={}), Item(key=fits, fields={})])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert "Tables takes 512" in failure.reason
        assert set(driver.get([fits], consistent=True)) == {fits}
        with pytest.raises(Exception) as caught:
            driver.update(long, Change())
        assert driver.error_code(caught.value) is Code.TOO_LARGE


class TestExpiry:
    def test_racing_writers_revive_an_expired_item_once(self, driver: Tables, key: Key) -> None:
        dead = Item(key=key, fields={"old": 1, "n": 100}, expires=time.time() - 5)
        assert not driver.put([dead])
        at_once(8, lambda _: driver.update(key, Change(increment={"n": 1})))
        assert dict(driver.get([key], consistent=True)[key].fields) == {"n": 8}

    def test_one_of_many_claims_an_expired_item(self, driver: Tables, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"owner": -1}, expires=time.time() - 5)])
        free = Check(field="owner", op=Op.ABSENT)

        def claim(number: int) -> bool:
            try:
                driver.update(key, Change(set={"owner": number}, when=(free,)))
            except ConditionFailed as failed:
                return failed.current is None
            return True

        assert at_once(8, claim).count(True) == 1

    def test_a_page_of_expired_items_does_not_end_a_query(self, driver: Tables) -> None:
        name, past = unique(), time.time() - 5
        items = [
            Item(key=Key(name, f"{number:02}"), fields={}, expires=past if number < 15 else None)
            for number in range(20)
        ]
        assert not driver.put(items)
        page = driver.query(name, after=None, limit=3)
        assert [item.key.sort for item in page.items] == ["15", "16", "17"]
        assert page.next == "17"

    def test_a_sweep_deletes_what_has_expired_and_nothing_else(self, driver: Tables) -> None:
        now, name = time.time(), unique()
        ends = {"dead": now - 5, "also": now - 3600, "soon": now + 60, "never": None}
        items = [Item(key=Key(name, sort), fields={}, expires=end) for sort, end in ends.items()]
        assert not driver.put([*items, Item(key=Key(name + "x"), fields={}, expires=now - 1)])
        assert driver.sweep() == 3
        left = {entity["RowKey"] for entity in driver.client.list_entities()}
        assert left == {"soon", "never"}
        assert driver.sweep() == 0

    def test_a_sweep_leaves_what_was_written_meanwhile(self, driver: Tables, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"a": 1}, expires=time.time() - 5)])
        names = entity_key(key)
        seen = driver.client.get_entity(names["PartitionKey"], names["RowKey"])
        driver.update(key, Change(set={"a": 2}))
        assert not driver._delete_unchanged(seen)
        assert driver.get([key], consistent=True)[key].fields == {"a": 2}


class TestRequests:
    @pytest.fixture
    def sent(self, driver: Tables, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The requests that the driver sends from now on, as they go."""
        sent: list[str] = []
        transport = cast("Any", driver.client)._client._client._pipeline._transport
        original = transport.send

        def send(request: Any, **options: Any) -> Any:
            sent.append(f"{request.method} {'$batch' if '$batch' in request.url else 'entity'}")
            return original(request, **options)

        monkeypatch.setattr(transport, "send", send)
        return sent

    def test_a_partition_is_one_request_and_an_update_two(
        self, driver: Tables, sent: list[str], key: Key
    ) -> None:
        free = (Check(field="a", op=Op.ABSENT),)
        items = [Item(key=Key(key.partition, f"{n}"), fields={"n": n}) for n in range(100)]
        assert not driver.put(items)
        assert not driver.put([Item(key=Key(f"{key}{n}"), fields={}) for n in range(3)])
        driver.query(key.partition, after=None, limit=1000)
        assert not driver.delete([item.key for item in items])
        assert sent == ["POST $batch", *["PUT entity"] * 3, "GET entity", "POST $batch"]
        sent.clear()
        driver.update(key, Change(set={"a": 1}, when=free))
        with pytest.raises(ConditionFailed):
            driver.update(key, Change(set={"a": 1}, when=free))
        driver.update(key, Change(set={"a": 2}))
        reads = ["GET entity"]
        assert sent == [*reads, "POST entity", *reads, *reads, "PUT entity"]
        assert not driver.put([])
        assert not driver.get([], consistent=True)

    def test_a_batch_of_one_partition_overwrites_whole_items(
        self, driver: Tables, key: Key
    ) -> None:
        keys = [Key(key.partition, sort) for sort in "ab"]
        assert not driver.put([Item(key=one, fields={"a": 1}, expires=4e9) for one in keys])
        assert not driver.put([Item(key=one, fields={"b": 2}) for one in keys])
        got = driver.get(keys, consistent=True)
        assert [(got[one].fields, got[one].expires) for one in keys] == [({"b": 2}, None)] * 2

    def test_a_batch_over_the_size_of_a_request_is_several(
        self, driver: Tables, sent: list[str], key: Key
    ) -> None:
        items = [
            Item(key=Key(key.partition, f"{n:02}"), fields={"x": b"x" * 700_000}) for n in range(7)
        ]
        assert not driver.put(items)
        assert sorted(sent) == ["POST $batch", "POST $batch", "PUT entity"]
        assert len(driver.get([item.key for item in items], consistent=True)) == 7

    def test_a_missing_item_does_not_keep_the_others_from_being_deleted(
        self, driver: Tables, key: Key
    ) -> None:
        keys = [Key(key.partition, f"{number}") for number in range(5)]
        assert not driver.put([Item(key=one, fields={}) for one in keys if one.sort != "2"])
        assert not driver.delete([*keys, keys[0]])
        assert not driver.get(keys, consistent=True)

    def test_the_last_of_two_items_with_one_key_counts(self, driver: Tables, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"n": n}) for n in range(3)])
        assert driver.get([key, key], consistent=True)[key].fields == {"n": 2}
        assert not driver.delete([key, key])
        assert not driver.get([key], consistent=True)

    @pytest.mark.parametrize(
        "fields",
        [
            {"x": "x" * (1 << 20)},
            {"x": b"x" * (1 << 20)},
            {f"x{n}": n for n in range(253)},
            # Azurite counts bytes as JSON has them, a third larger than the service does, so that
            # it is the one to refuse this.
            {"x": b"x" * 1_000_000},
        ],
        ids=["text", "bytes", "properties", "service"],
    )
    def test_one_item_over_a_limit_leaves_the_others_written(
        self, driver: Tables, key: Key, fields: dict[str, str | bytes | int]
    ) -> None:
        large = Item(key=Key(key.partition, "large"), fields=fields)
        (failure,) = driver.put([large, Item(key=key, fields={})])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert set(driver.get([key, large.key], consistent=True)) == {key}

    def test_a_long_text_takes_a_byte_a_character(self, driver: Tables, key: Key) -> None:
        value = "x" * 750_000
        driver.update(key, Change(set={"x": value, "many": 1, **{f"x{n}": n for n in range(200)}}))
        assert driver.get([key], consistent=True)[key].fields["x"] == value
