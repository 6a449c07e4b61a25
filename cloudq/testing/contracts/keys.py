"""Contract tests of key services: data keys that only their key opens, for their app alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService


class KeyServiceContract:
    """Subclass it as `Test...`, and give the fixtures `driver`, `another` and `stranger`.

    `another` is a second driver on the key of `driver`, `stranger` one on another key. With
    `has_missing_key` also `missing_key`, a driver on a key that does not exist.
    """

    has_missing_key: bool = False
    """The key may be missing, and `check` then says so."""

    @pytest.fixture
    def driver(self) -> KeyService:
        """Override it: the driver under test."""
        raise NotImplementedError

    @pytest.fixture
    def another(self) -> KeyService:
        """Override it: a second driver on the key of `driver`."""
        raise NotImplementedError

    @pytest.fixture
    def stranger(self) -> KeyService:
        """Override it: a driver on another key."""
        raise NotImplementedError

    @pytest.fixture
    def missing_key(self) -> KeyService:
        """Override it: a driver on a key that does not exist."""
        raise NotImplementedError

    def test_a_data_key_is_opened_elsewhere(self, driver: KeyService, another: KeyService) -> None:
        made = driver.new_data_key("shop")
        assert len(made.plain) == 32
        assert another.open_data_key(made.wrapped, "shop") == made.plain

    def test_data_keys_differ(self, driver: KeyService) -> None:
        made = [driver.new_data_key("shop") for _ in range(5)]
        assert len({each.plain for each in made}) == len({each.wrapped for each in made}) == 5

    def test_the_wrapped_form_does_not_show_the_key(self, driver: KeyService) -> None:
        made = driver.new_data_key("shop")
        assert made.plain not in made.wrapped
        assert repr(made.plain) not in repr(made)

    def test_a_data_key_is_bound_to_its_app(self, driver: KeyService) -> None:
        made = driver.new_data_key("shop")
        with suppress(KeyRefused):
            assert driver.open_data_key(made.wrapped, "bank") != made.plain

    def test_another_key_does_not_open_it(self, driver: KeyService, stranger: KeyService) -> None:
        made = driver.new_data_key("shop")
        with suppress(KeyRefused):
            assert stranger.open_data_key(made.wrapped, "shop") != made.plain

    def test_a_changed_data_key_does_not_open(self, driver: KeyService) -> None:
        made = driver.new_data_key("shop")
        changed = made.wrapped[:-1] + bytes([made.wrapped[-1] ^ 1])
        with suppress(KeyRefused):
            assert driver.open_data_key(changed, "shop") != made.plain

    @pytest.mark.parametrize("length", [0, 1, 7, 5000, 100_000])
    def test_what_is_no_data_key_is_refused(self, driver: KeyService, length: int) -> None:
        with pytest.raises(KeyRefused):
            driver.open_data_key(b"x" * length, "shop")

    def test_many_threads_at_once(self, driver: KeyService, another: KeyService) -> None:
        def round_trip(number: int) -> bool:
            made = driver.new_data_key(f"app {number}")
            return another.open_data_key(made.wrapped, f"app {number}") == made.plain

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(round_trip, range(32)))

    def test_a_usable_key_passes_the_check(self, driver: KeyService) -> None:
        driver.check()

    def test_a_missing_key_is_not_found(
        self, request: pytest.FixtureRequest, driver: KeyService
    ) -> None:
        if not self.has_missing_key:
            pytest.skip("the key is never missing")
        missing: KeyService = request.getfixturevalue("missing_key")
        for tried in (missing.check, lambda: missing.new_data_key("shop")):
            with pytest.raises(Exception) as caught:
                tried()
            assert missing.error_code(caught.value) is Code.NOT_FOUND
