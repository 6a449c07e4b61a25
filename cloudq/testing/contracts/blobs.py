"""Contract tests of blob stores: whole or nothing, streams, ranges, deleting, listing."""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloudq.driver import Code
from cloudq.driver.blobs import BlobAdmin, BlobGone, Blobs

LARGE = 20 * 1024 * 1024 + 7
_PART = 16 << 20  # bytes that a part may have at most
_CLOCKS = 5.0  # seconds that a service's clock may differ


def new_key(owner: str = "contract") -> str:
    """Return a key that no other blob has."""
    return f"messages/{owner}/{secrets.token_hex(16)}"


class Slow(io.BytesIO):
    """Content that notes how much was read at once."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.most = max(self.most, len(part))
        return part


class BlobsContract:
    """Subclass it as `Test...`, and give the fixtures `driver` and `another`.

    `another` is a second driver on the place of `driver`. A `missing_place` fixture (a driver on a
    place that does not exist) is asked for when `has_missing_place` is set.
    """

    has_missing_place: bool = False
    """The place may be missing, and `check_place` then says so."""

    @pytest.fixture
    def driver(self) -> Blobs:
        """Override it: the driver under test, on an empty place."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> Blobs:
        """Override it: a second driver on the place of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def missing_place(self) -> Blobs:
        """Override it: a driver on a place that does not exist."""
        raise NotImplementedError

    def store(self, driver: Blobs, data: bytes, key: str | None = None) -> str:
        """Store data, and return its key."""
        key = key or new_key()
        driver.put(key, io.BytesIO(data), len(data))
        return key

    @pytest.mark.parametrize("size", [0, 1, 70_000, LARGE])
    def test_what_is_stored_comes_back(self, driver: Blobs, another: Blobs, size: int) -> None:
        data = secrets.token_bytes(size)
        key = self.store(driver, data)
        assert b"".join(another.read(key)) == data

    def test_large_content_goes_in_parts_both_ways(self, driver: Blobs) -> None:
        data = secrets.token_bytes(LARGE)
        content = Slow(data)
        key = new_key()
        driver.put(key, content, len(data))
        assert 0 < content.most <= _PART
        sizes = [len(part) for part in driver.read(key)]
        assert sum(sizes) == LARGE
        assert max(sizes) <= _PART

    def test_content_is_read_from_its_start(self, driver: Blobs) -> None:
        content = io.BytesIO(b"twice")
        content.seek(3)
        first, second = new_key(), new_key()
        driver.put(first, content, 5)
        driver.put(second, content, 5)
        assert b"".join(driver.read(first)) == b"".join(driver.read(second)) == b"twice"

    def test_no_more_than_the_size_is_stored(self, driver: Blobs) -> None:
        key = new_key()
        driver.put(key, io.BytesIO(b"0123456789"), 4)
        assert b"".join(driver.read(key)) == b"0123"

    @pytest.mark.parametrize("size", [10, LARGE])
    def test_content_that_ends_too_early_is_not_stored(self, driver: Blobs, size: int) -> None:
        key = new_key()
        with pytest.raises(Exception) as caught:
            driver.put(key, io.BytesIO(bytes(size - 1)), size)
        assert driver.error_code(caught.value) is Code.INVALID
        with pytest.raises(BlobGone):
            driver.read(key)

    def test_what_raises_while_it_is_read_is_not_stored(self, driver: Blobs) -> None:
        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > LARGE // 2:
                    raise ArithmeticError("its disk is gone")
                return super().read(size)

        key = new_key()
        with pytest.raises(ArithmeticError):
            driver.put(key, Broken(bytes(LARGE)), LARGE)
        with pytest.raises(BlobGone):
            driver.read(key)

    @pytest.mark.parametrize("start", [0, 1, 69_999, 70_000])
    def test_a_blob_is_read_from_a_place_on(self, driver: Blobs, start: int) -> None:
        data = secrets.token_bytes(70_000)
        key = self.store(driver, data)
        assert b"".join(driver.read(key, start=start)) == data[start:]

    def test_a_read_may_stop_before_the_end(self, driver: Blobs) -> None:
        key = self.store(driver, bytes(LARGE))
        for _ in range(20):  # no connection is kept for each
            reading = driver.read(key)
            assert next(reading)
            reading.close()
        assert b"".join(driver.read(self.store(driver, b"still here"))) == b"still here"

    def test_a_blob_that_is_not_there(self, driver: Blobs) -> None:
        key = new_key()
        with pytest.raises(BlobGone) as caught:
            driver.read(key)
        assert caught.value.key == key

    def test_a_deleted_blob_is_gone(self, driver: Blobs, another: Blobs) -> None:
        first, second, kept = (self.store(driver, b"x") for _ in range(3))
        assert not driver.delete([first, second])
        for key in (first, second):
            with pytest.raises(BlobGone):
                another.read(key)
        assert b"".join(another.read(kept)) == b"x"

    def test_a_missing_blob_is_deleted_too(self, driver: Blobs) -> None:
        key = self.store(driver, b"x")
        assert not driver.delete([new_key("nobody"), key, key])
        assert not driver.delete([key])
        with pytest.raises(BlobGone):
            driver.read(key)

    def test_as_many_are_deleted_at_once_as_it_says(self, driver: Blobs) -> None:
        keys = [new_key() for _ in range(driver.most_deleted - 1)]
        keys.append(self.store(driver, b"x"))
        assert not driver.delete(keys)
        with pytest.raises(BlobGone):
            driver.read(keys[-1])

    def test_a_blob_is_replaced_as_a_whole(self, driver: Blobs, another: Blobs) -> None:
        key = self.store(driver, b"a longer text")
        self.store(driver, b"short", key)
        assert b"".join(another.read(key)) == b"short"

    @pytest.mark.parametrize(
        "key",
        ["", "x", "../../etc/passwd", "messages/../" + "0" * 32, "messages/a/" + "0" * 33, "/etc"],
    )
    def test_what_is_no_key_reaches_nothing(self, driver: Blobs, key: str) -> None:
        for tried in (
            lambda: driver.read(key),
            lambda: driver.delete([key]),
            lambda: driver.put(key, io.BytesIO(b""), 0),
        ):
            with pytest.raises(ValueError, match="no key of a blob") as caught:
                tried()
            assert driver.error_code(caught.value) is Code.INVALID

    def test_blobs_are_listed_in_pages(self, driver: Blobs) -> None:
        began = time.time()
        sizes = {
            self.store(driver, bytes(n), f"{kind}/{owner}/{secrets.token_hex(16)}"): n
            for n, (kind, owner) in enumerate(
                (kind, owner)
                for kind in ("files", "messages", "results")
                for owner in ("a", "a-b", "A", "b")
                for _ in range(2)
            )
        }
        found: dict[str, int] = {}
        after: str | None = None
        while True:
            page = driver.list(after=after, limit=5)
            assert len(page.blobs) <= 5
            for blob in page.blobs:
                assert blob.key not in found
                found[blob.key] = blob.size
                assert began - _CLOCKS < blob.written < time.time() + _CLOCKS
            after = page.next
            if after is None:
                break
        assert found == sizes

    def test_an_empty_place_lists_nothing(self, driver: Blobs) -> None:
        page = driver.list(after=None, limit=10)
        assert not page.blobs
        assert page.next is None

    def test_many_threads_at_once(self, driver: Blobs) -> None:
        def round_trip(number: int) -> bool:
            data = hashlib.sha256(str(number).encode()).digest() * 10_000
            key = self.store(driver, data, new_key(f"owner-{number % 3}"))
            same = b"".join(driver.read(key)) == data
            return same and not driver.delete([key])

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(round_trip, range(64)))
        assert not driver.list(after=None, limit=1).blobs

    def test_making_the_place_again_leaves_it_as_it_is(self, driver: Blobs) -> None:
        if not isinstance(driver, BlobAdmin):
            pytest.skip("the place needs no making")
        key = self.store(driver, b"x")
        driver.create_place(expires=86_400.0)
        driver.create_place(expires=30 * 86_400.0)
        driver.check_place()
        assert b"".join(driver.read(key)) == b"x"

    def test_a_missing_place_is_not_found(self, request: pytest.FixtureRequest) -> None:
        if not self.has_missing_place:
            pytest.skip("the place is never missing")
        missing: Blobs = request.getfixturevalue("missing_place")
        assert isinstance(missing, BlobAdmin)
        with pytest.raises(Exception) as caught:
            missing.check_place()
        assert missing.error_code(caught.value) is Code.NOT_FOUND
        with pytest.raises(Exception) as caught:
            missing.put(new_key(), io.BytesIO(b"x"), 1)
        assert missing.error_code(caught.value) is Code.NOT_FOUND
