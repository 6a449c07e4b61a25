"""Contract tests of `update` of backend drivers: changes, conditions, atomicity."""

from __future__ import annotations

import time
import uuid

import pytest

from cloudq.driver import (
    BackendDriver,
    Change,
    Check,
    Code,
    ConditionFailed,
    Item,
    Key,
    ManyUpdates,
    Op,
    Value,
)
from cloudq.testing.waiting import at_once

# field of {"n": 5, "s": "m", "tags": {"a", "b"}, "nil": None} -> does the check hold?
CHECKS: list[tuple[str, Op, Value, bool]] = [
    ("n", Op.ABSENT, None, False),
    ("gone", Op.ABSENT, None, True),
    ("n", Op.EXISTS, None, True),
    ("nil", Op.EXISTS, None, True),
    ("gone", Op.EXISTS, None, False),
    ("n", Op.EQ, 5, True),
    ("n", Op.EQ, 5.0, True),
    ("n", Op.EQ, 6, False),
    ("n", Op.EQ, "5", False),
    ("yes", Op.EQ, True, True),
    ("yes", Op.EQ, 1, False),
    ("s", Op.EQ, "m", True),
    ("nil", Op.EQ, None, True),
    ("tags", Op.EQ, frozenset({"b", "a"}), True),
    ("gone", Op.EQ, None, False),
    ("gone", Op.EQ, 5, False),
    ("n", Op.NE, 6, True),
    ("n", Op.NE, 5, False),
    ("n", Op.NE, "5", True),
    ("gone", Op.NE, 5, False),
    ("n", Op.LT, 6, True),
    ("n", Op.LT, 5, False),
    ("n", Op.LT, 4, False),
    ("n", Op.LT, "6", False),
    ("s", Op.LT, "n", True),
    ("gone", Op.LT, 6, False),
    ("n", Op.LE, 5, True),
    ("n", Op.LE, 4.5, False),
    ("gone", Op.LE, 6, False),
    ("n", Op.GT, 4, True),
    ("n", Op.GT, 5, False),
    ("gone", Op.GT, 4, False),
    ("n", Op.GE, 5, True),
    ("n", Op.GE, 6, False),
    ("s", Op.GE, "m", True),
    ("gone", Op.GE, 4, False),
    ("tags", Op.CONTAINS, "a", True),
    ("tags", Op.CONTAINS, "c", False),
    ("gone", Op.CONTAINS, "a", False),
]


class UpdateContract:
    """Subclass it as `Test...`, and give the fixtures `driver` and `another` (same store)."""

    @pytest.fixture
    def driver(self) -> BackendDriver:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> BackendDriver:
        """Override it: a second driver on the store of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def key(self) -> Key:
        """Return a key that no other test uses."""
        return Key(f"contract-{uuid.uuid4().hex}", "item")

    def read(self, driver: BackendDriver, key: Key) -> dict[str, Value]:
        """Return the fields of an item that must be there."""
        return dict(driver.get([key], consistent=True)[key].fields)

    def test_update_creates_what_is_not_there(
        self, driver: BackendDriver, another: BackendDriver, key: Key
    ) -> None:
        change = Change(
            set={"state": "STARTED"},
            increment={"runs": 2},
            add={"slots": frozenset({"1", "2"})},
            expires=time.time() + 600,
        )
        expected = {"state": "STARTED", "runs": 2, "slots": frozenset({"1", "2"})}
        item = driver.update(key, change)
        assert (item.key, dict(item.fields)) == (key, expected)
        assert item.expires is not None
        assert abs(item.expires - time.time() - 600) < 10
        assert self.read(another, key) == expected

    def test_update_changes_only_what_it_names(self, driver: BackendDriver, key: Key) -> None:
        fields: dict[str, Value] = {
            "kept": b"kept",
            "old": 1,
            "count": 10,
            "slots": frozenset({"1", "2"}),
            "left": frozenset({"x", "y"}),
        }
        assert not driver.put([Item(key=key, fields=fields)])
        change = Change(
            set={"new": "new"},
            increment={"count": -3},
            add={"slots": frozenset({"2", "3"})},
            discard={"left": frozenset({"y", "z"})},
            remove=frozenset({"old", "never"}),
        )
        expected = {
            "kept": b"kept",
            "new": "new",
            "count": 7,
            "slots": frozenset({"1", "2", "3"}),
            "left": frozenset({"x"}),
        }
        assert dict(driver.update(key, change).fields) == expected
        assert self.read(driver, key) == expected

    def test_an_emptied_set_is_absent(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(add={"slots": frozenset({"1"})}, set={"a": 1}))
        item = driver.update(key, Change(discard={"slots": frozenset({"1"})}))
        assert dict(item.fields) == {"a": 1}
        gone = Check(field="slots", op=Op.ABSENT)
        assert driver.update(key, Change(set={"a": 2}, when=(gone,))).fields["a"] == 2

    def test_setting_an_empty_set_removes_the_field(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(add={"slots": frozenset({"1"})}, set={"a": 1}))
        driver.update(key, Change(set={"slots": frozenset()}))
        assert self.read(driver, key) == {"a": 1}

    def test_increment_adds_fractions(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(increment={"tokens": 0.5}))
        assert driver.update(key, Change(increment={"tokens": 1.25})).fields["tokens"] == 1.75

    def test_incrementing_a_text_is_invalid(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(set={"a": "text"}))
        with pytest.raises(Exception) as caught:
            driver.update(key, Change(increment={"a": 1}))
        assert driver.error_code(caught.value) is Code.INVALID
        assert self.read(driver, key) == {"a": "text"}

    def test_update_sets_keeps_and_clears_the_expiry(self, driver: BackendDriver, key: Key) -> None:
        end = time.time() + 600
        driver.update(key, Change(set={"a": 1}, expires=end))
        kept = driver.update(key, Change(set={"a": 2}, keep_expires=True))
        assert kept.expires is not None
        assert abs(kept.expires - end) < 2
        assert driver.update(key, Change(set={"a": 3})).expires is None
        assert driver.get([key], consistent=True)[key].expires is None

    def test_a_new_item_has_no_expiry_to_keep(self, driver: BackendDriver, key: Key) -> None:
        assert driver.update(key, Change(set={"a": 1}, keep_expires=True)).expires is None

    def test_an_expired_item_counts_as_none(self, driver: BackendDriver, key: Key) -> None:
        dead = Item(key=key, fields={"old": 1, "count": 5}, expires=time.time() - 2)
        assert not driver.put([dead])
        with pytest.raises(ConditionFailed) as caught:
            driver.update(key, Change(when=(Check(field="old", op=Op.EXISTS),)))
        assert caught.value.current is None
        fresh = Check(field="old", op=Op.ABSENT)
        item = driver.update(key, Change(increment={"count": 1}, keep_expires=True, when=(fresh,)))
        assert (dict(item.fields), item.expires) == ({"count": 1}, None)
        assert self.read(driver, key) == {"count": 1}

    def test_an_update_into_the_past_hides_the_item(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(set={"a": 1}))
        driver.update(key, Change(set={"a": 2}, expires=time.time() - 2))
        assert not driver.get([key], consistent=True)

    @pytest.mark.parametrize("or_absent", [False, True])
    @pytest.mark.parametrize(("field", "op", "value", "holds"), CHECKS)
    def test_a_change_is_made_only_when_its_check_holds(
        self,
        driver: BackendDriver,
        key: Key,
        field: str,
        op: Op,
        value: Value,
        holds: bool,
        or_absent: bool,
    ) -> None:
        fields: dict[str, Value] = {
            "n": 5,
            "s": "m",
            "yes": True,
            "tags": frozenset({"a", "b"}),
            "nil": None,
        }
        assert not driver.put([Item(key=key, fields=fields)])
        check = Check(field=field, op=op, value=value, or_absent=or_absent)
        change = Change(set={"changed": 1}, when=(check,))
        if holds or (or_absent and field == "gone"):
            assert dict(driver.update(key, change).fields) == {**fields, "changed": 1}
            return
        with pytest.raises(ConditionFailed) as caught:
            driver.update(key, change)
        assert caught.value.current is not None
        assert (caught.value.current.key, dict(caught.value.current.fields)) == (key, fields)
        assert self.read(driver, key) == fields

    @pytest.mark.parametrize("op", Op)
    def test_a_check_on_no_item_sees_no_field(
        self, driver: BackendDriver, key: Key, op: Op
    ) -> None:
        check = Check(field="a", op=op, value="x")
        lenient = Check(field="a", op=op, value="x", or_absent=True)
        if op is not Op.ABSENT:
            with pytest.raises(ConditionFailed) as caught:
                driver.update(key, Change(set={"b": 1}, when=(check,)))
            assert caught.value.current is None
            assert not driver.get([key], consistent=True)
        assert dict(driver.update(key, Change(set={"b": 1}, when=(lenient,))).fields) == {"b": 1}

    def test_every_check_must_hold(self, driver: BackendDriver, key: Key) -> None:
        driver.update(key, Change(set={"a": 1, "b": 1}))
        good, bad = Check(field="a", op=Op.EQ, value=1), Check(field="b", op=Op.EQ, value=2)
        for when in ((good, bad), (bad, good)):
            with pytest.raises(ConditionFailed):
                driver.update(key, Change(set={"a": 9}, when=when))
        driver.update(key, Change(set={"c": 1}, when=(good, good)))
        assert self.read(driver, key) == {"a": 1, "b": 1, "c": 1}

    def test_racing_increments_sum_up(
        self, driver: BackendDriver, another: BackendDriver, key: Key
    ) -> None:
        def work(number: int) -> None:
            for _ in range(10):
                (driver, another)[number % 2].update(key, Change(increment={"n": 1}))

        at_once(8, work)
        assert self.read(driver, key) == {"n": 80}

    def test_one_of_many_wins_a_claim(
        self, driver: BackendDriver, another: BackendDriver, key: Key
    ) -> None:
        free = Check(field="owner", op=Op.ABSENT)

        def work(number: int) -> bool:
            claim = Change(set={"owner": f"owner {number}"}, when=(free,))
            try:
                (driver, another)[number % 2].update(key, claim)
            except ConditionFailed as failed:
                return failed.current is None
            return True

        won = at_once(8, work)
        assert won.count(True) == 1
        assert self.read(driver, key) == {"owner": f"owner {won.index(True)}"}

    def test_discarding_a_member_twice_is_one_removal(
        self, driver: BackendDriver, another: BackendDriver, key: Key
    ) -> None:
        driver.update(key, Change(add={"slots": frozenset(f"{n}" for n in range(4))}))

        def work(number: int) -> bool:
            slot = f"{number % 4}"
            taken = Change(
                discard={"slots": frozenset({slot})},
                when=(Check(field="slots", op=Op.CONTAINS, value=slot),),
            )
            try:
                item = (driver, another)[number // 4].update(key, taken)
            except ConditionFailed:
                return False
            return "slots" not in item.fields

        assert at_once(8, work).count(True) == 1
        assert self.read(driver, key) == {}
        assert dict(driver.update(key, Change(discard={"slots": frozenset("1")})).fields) == {}

    def test_many_updates_are_each_as_one(
        self, driver: BackendDriver, another: BackendDriver, key: Key
    ) -> None:
        if not isinstance(driver, ManyUpdates):
            pytest.skip("the store changes one item at a time")
        keys = [Key(key.partition, sort) for sort in ("first", "ended", "last")]
        driver.update(keys[1], Change(set={"state": "ended"}))
        driver.update(keys[2], Change(set={"n": 1}))
        change = Change(
            set={"mark": True},
            increment={"n": 1},
            when=(Check(field="state", op=Op.NE, value="ended", or_absent=True),),
        )
        items = driver.update_all([(each, change) for each in keys])
        expected = [{"mark": True, "n": 1}, None, {"mark": True, "n": 2}]
        assert [item and dict(item.fields) for item in items] == expected
        assert [item and item.key for item in items] == [keys[0], None, keys[2]]
        found = [{"mark": True, "n": 1}, {"state": "ended"}, {"mark": True, "n": 2}]
        assert [self.read(another, each) for each in keys] == found
        # An item that is changed twice is changed by the second as the first has left it.
        items = driver.update_all([(keys[0], change)] * 2)
        assert [item and item.fields["n"] for item in items] == [2, 3]
        assert driver.update_all([]) == []
