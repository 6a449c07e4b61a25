"""Contract tests of backend drivers: items, expiry, paging, and waking readers."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloudq.driver import (
    BackendDriver,
    Change,
    Check,
    Code,
    ConditionFailed,
    Item,
    Key,
    Op,
    StoreAdmin,
    Value,
    Watch,
)
from cloudq.testing.waiting import PATIENCE, at_once, eventually

VALUES: dict[str, Value] = {
    "text": "Grüße, 世界 🎉",
    "empty_text": "",
    "like_json": '{"b": "AA=="}',
    "bytes": bytes(range(256)),
    "empty_bytes": b"",
    "zero": 0,
    "negative": -(2**40),
    "beyond_64_bits": 2**80,
    "fraction": 0.1,
    "time": 1_732_157_915.123456,
    "tiny": 1e-12,
    "yes": True,
    "no": False,
    "nothing": None,
    "one_member": frozenset({"a"}),
    "members": frozenset({"a", "b", "ü"}),
}


class BackendContract:
    """Subclass it as `Test...`, and give the fixtures `driver` and `another`.

    `another` is a second driver on the store of `driver`. A `missing_store` fixture (a driver on
    a store that does not exist) is asked for when `has_missing_store` is set.
    """

    expiry: float = 1.0
    """How long an item lives in the test that waits for its end, in seconds."""
    has_missing_store: bool = False
    """The store may be missing, and `check_store` then says so."""

    @pytest.fixture
    def driver(self) -> BackendDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> BackendDriver:
        """Override it: a second driver on the store of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def missing_store(self) -> BackendDriver:
        """Override it: a driver on a store that does not exist."""
        raise NotImplementedError

    @pytest.fixture
    def partition(self) -> str:
        """Return a partition that no other test uses."""
        return f"contract-{uuid.uuid4().hex}"

    def fill(self, driver: BackendDriver, partition: str, count: int) -> list[Item]:
        """Put `count` items in batches and return them in the order of their sort keys."""
        items = [
            Item(key=Key(partition, f"{number:04d}"), fields={"number": number})
            for number in range(count)
        ]
        for start in range(0, count, driver.limits.put):
            assert not driver.put(items[start : start + driver.limits.put])
        return items

    def test_put_is_got(
        self, driver: BackendDriver, another: BackendDriver, partition: str
    ) -> None:
        item = Item(key=Key(partition), fields={"state": "SUCCESS"}, expires=time.time() + 600)
        assert not driver.put([item])
        got = another.get([item.key], consistent=True)[item.key]
        assert (got.key, dict(got.fields)) == (item.key, {"state": "SUCCESS"})
        assert got.expires is not None
        assert abs(got.expires - time.time() - 600) < 10

    def test_an_item_without_expiry_has_none(self, driver: BackendDriver, partition: str) -> None:
        key = Key(partition)
        assert not driver.put([Item(key=key, fields={})])
        assert driver.get([key], consistent=True)[key].expires is None

    def test_put_overwrites_the_whole_item(self, driver: BackendDriver, partition: str) -> None:
        key = Key(partition)
        assert not driver.put([Item(key=key, fields={"a": 1, "b": 2}, expires=time.time() + 60)])
        assert not driver.put([Item(key=key, fields={"b": 3, "c": 4})])
        item = driver.get([key], consistent=True)[key]
        assert dict(item.fields) == {"b": 3, "c": 4}
        assert item.expires is None

    @pytest.mark.parametrize("name", VALUES)
    def test_every_value_comes_back_as_it_was(
        self, driver: BackendDriver, partition: str, name: str
    ) -> None:
        key, value = Key(partition), VALUES[name]
        assert not driver.put([Item(key=key, fields={"value": value, "other": "x"})])
        (got,) = driver.get([key], consistent=True).values()
        assert dict(got.fields) == {"value": value, "other": "x"}
        assert type(got.fields["value"]) is type(value)
        changed = driver.update(key, Change(set={"value": value, "again": value}))
        assert dict(changed.fields) == {"value": value, "again": value, "other": "x"}

    def test_an_empty_set_is_an_absent_field(self, driver: BackendDriver, partition: str) -> None:
        key = Key(partition)
        assert not driver.put([Item(key=key, fields={"slots": frozenset(), "a": 1})])
        assert dict(driver.get([key], consistent=True)[key].fields) == {"a": 1}

    def test_an_item_without_fields_exists(self, driver: BackendDriver, partition: str) -> None:
        key = Key(partition)
        assert not driver.put([Item(key=key, fields={})])
        assert dict(driver.get([key], consistent=True)[key].fields) == {}

    def test_missing_items_are_not_in_the_answer(
        self, driver: BackendDriver, partition: str
    ) -> None:
        (there,) = self.fill(driver, partition, 1)
        missing = Key(partition, "missing")
        assert set(driver.get([there.key, missing], consistent=True)) == {there.key}
        assert not driver.get([], consistent=False)

    def test_full_batches_are_put_got_and_deleted(
        self, driver: BackendDriver, partition: str
    ) -> None:
        items = self.fill(driver, partition, max(driver.limits.put, driver.limits.get))
        keys = [item.key for item in items][: driver.limits.get]
        got = driver.get(keys, consistent=True)
        assert {key: dict(got[key].fields) for key in keys} == {
            item.key: dict(item.fields) for item in items[: len(keys)]
        }
        gone = keys[: driver.limits.put]
        assert not driver.delete(gone)
        assert set(driver.get(keys, consistent=True)) == set(keys) - set(gone)

    def test_deleting_what_is_not_there_is_no_failure(
        self, driver: BackendDriver, partition: str
    ) -> None:
        assert not driver.delete([Key(partition)])

    def test_items_of_any_partition_are_kept_apart(
        self, driver: BackendDriver, another: BackendDriver, partition: str
    ) -> None:
        """Stores have lengths and characters for keys, and partitions are made of programs' own."""
        odd = ["x" * 5_000, "x" * 5_001, "世" * 700, "世" * 701, "/\\#?%|", ".", "..", "\t\n\x7f"]
        odd += ["__a__", "é", "𝄞" * 600, "plain", "%/" * 400]
        keys = [Key(f"{text}{partition}{text}", "-") for text in odd]
        for key in keys:
            assert not driver.put([Item(key=key, fields={"of": key.partition[:40]})])
            changed = driver.update(key, Change(increment={"n": 1}))
            assert (changed.key, changed.fields["n"]) == (key, 1)
            with pytest.raises(ConditionFailed) as refused:
                driver.update(key, Change(when=(Check(field="n", op=Op.EQ, value=2),)))
            assert refused.value.current is not None
            assert refused.value.current.key == key
        got = another.get(keys, consistent=True)
        assert {key: item.key for key, item in got.items()} == {key: key for key in keys}
        for key in keys:
            page = driver.query(key.partition, after=None, limit=10)
            assert [(item.key, item.fields["n"]) for item in page.items] == [(key, 1)]
        assert not driver.delete(keys)
        assert not driver.get(keys, consistent=True)

    def test_an_expired_item_is_gone_at_once(
        self, driver: BackendDriver, another: BackendDriver, partition: str
    ) -> None:
        dead, live = Key(partition, "dead"), Key(partition, "live")
        now = time.time()
        assert not driver.put(
            [
                Item(key=dead, fields={"a": 1}, expires=now - 2),
                Item(key=live, fields={"a": 1}, expires=now + 60),
            ]
        )
        assert set(another.get([dead, live], consistent=True)) == {live}
        page = another.query(partition, after=None, limit=10)
        assert [item.key for item in page.items] == [live]
        assert page.next is None

    def test_an_item_is_there_until_it_expires(self, driver: BackendDriver, partition: str) -> None:
        key, end = Key(partition), time.time() + self.expiry
        assert not driver.put([Item(key=key, fields={"a": 1}, expires=end)])
        assert driver.get([key], consistent=True)

        def has_expired() -> bool:
            return not driver.get([key], consistent=True)

        eventually(has_expired, within=self.expiry + PATIENCE)
        assert time.time() > end - 0.05

    def test_query_is_in_the_order_of_the_sort_keys(
        self, driver: BackendDriver, another: BackendDriver, partition: str
    ) -> None:
        sorts = ["b", "a", "B", "aa", "é", "-", "10", "9", "世"]
        items = [Item(key=Key(partition, sort), fields={"sort": sort}) for sort in sorts]
        assert not driver.put([*items, Item(key=Key(partition + "x", "a"), fields={})])
        page = another.query(partition, after=None, limit=100)
        assert [item.key.sort for item in page.items] == sorted(sorts, key=str.encode)
        assert [item.fields["sort"] for item in page.items] == sorted(sorts, key=str.encode)
        assert page.next is None

    def test_pages_join_without_gap_or_repeat(self, driver: BackendDriver, partition: str) -> None:
        items = self.fill(driver, partition, 7)
        found: list[Item] = []
        after: str | None = None
        for _ in range(10):
            page = driver.query(partition, after=after, limit=3)
            assert len(page.items) <= 3
            found += page.items
            after = page.next
            if after is None:
                break
        assert [item.key for item in found] == [item.key for item in items]

    def test_query_of_an_empty_partition_is_empty(
        self, driver: BackendDriver, partition: str
    ) -> None:
        page = driver.query(partition, after=None, limit=5)
        assert (list(page.items), page.next) == ([], None)

    def test_an_item_over_the_limit_is_too_large(
        self, driver: BackendDriver, partition: str
    ) -> None:
        key = Key(partition)
        fields = {"value": "x" * (driver.limits.item + 1)}
        try:
            codes = [failure.code for failure in driver.put([Item(key=key, fields=fields)])]
        except Exception as error:
            codes = [driver.error_code(error)]
        assert codes == [Code.TOO_LARGE]
        with pytest.raises(Exception) as caught:
            driver.update(key, Change(set=fields))
        assert driver.error_code(caught.value) is Code.TOO_LARGE
        assert not driver.get([key], consistent=True)

    def test_an_error_of_no_service_is_unknown(self, driver: BackendDriver) -> None:
        assert driver.error_code(RuntimeError("none of ours")) is Code.UNKNOWN

    def test_many_threads_share_one_driver(self, driver: BackendDriver, partition: str) -> None:
        def work(number: int) -> bool:
            keys = [Key(partition, f"{number}-{step}") for step in range(8)]
            assert not driver.put([Item(key=key, fields={"by": number}) for key in keys])
            got = driver.get(keys, consistent=True)
            return [got[key].fields["by"] for key in keys] == [number] * 8

        assert all(at_once(8, work))

    @pytest.mark.parametrize("write", ["put", "update"])
    def test_a_watcher_wakes_when_another_writes(
        self, driver: BackendDriver, another: BackendDriver, partition: str, write: str
    ) -> None:
        if not isinstance(driver, Watch):
            pytest.skip("the store does not wake its readers")
        watcher = driver.watch()
        try:
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(watcher.wait, PATIENCE)
                start = time.monotonic()
                if write == "put":
                    another.put([Item(key=Key(partition), fields={})])
                else:
                    another.update(Key(partition), Change(set={"a": 1}))
                assert waiting.result(timeout=2 * PATIENCE)
            assert time.monotonic() - start < PATIENCE / 2
        finally:
            watcher.close()

    def test_a_watcher_misses_nothing_written_before_it_waits(
        self, driver: BackendDriver, another: BackendDriver, partition: str
    ) -> None:
        if not isinstance(driver, Watch):
            pytest.skip("the store does not wake its readers")
        watcher = driver.watch()
        try:
            another.put([Item(key=Key(partition, "1"), fields={})])
            another.put([Item(key=Key(partition, "2"), fields={})])
            assert watcher.wait(PATIENCE)
            assert not watcher.wait(0.1)
            another.put([Item(key=Key(partition, "3"), fields={})])
            assert watcher.wait(PATIENCE)
        finally:
            watcher.close()

    def test_creating_the_store_again_leaves_it_as_it_is(
        self, driver: BackendDriver, partition: str
    ) -> None:
        if not isinstance(driver, StoreAdmin):
            pytest.skip("the store needs no making")
        (item,) = self.fill(driver, partition, 1)
        driver.create_store()
        driver.check_store()
        assert driver.get([item.key], consistent=True)

    def test_a_missing_store_is_not_found(self, request: pytest.FixtureRequest) -> None:
        if not self.has_missing_store:
            pytest.skip("the store is never missing")
        missing: BackendDriver = request.getfixturevalue("missing_store")
        assert isinstance(missing, StoreAdmin)
        with pytest.raises(Exception) as caught:
            missing.check_store()
        assert missing.error_code(caught.value) is Code.NOT_FOUND
