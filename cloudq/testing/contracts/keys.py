"""Contract tests of key services: data keys that only their key opens, for their app alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from cloudq import CloudQ
from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService
from cloudq.driver.loader import open_keys
from cloudq.errors import DecodeError, KeyServiceError
from cloudq.messages.data_keys import LIFETIME, MOST_MESSAGES, DataKeys
from cloudq.testing.draining import drain
from cloudq.testing.waiting import eventually


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


class KeyUseContract:
    """Contract tests of an app with a key of a service: few requests, and messages that wait.

    Subclass it as `Test...`, and give the fixtures `url`, `requests` and `outage`.
    """

    @pytest.fixture
    def url(self) -> str:
        """Override it: the URL of a new key."""
        raise NotImplementedError

    @pytest.fixture
    def requests(self) -> list[str]:
        """Override it: the requests to the service since the key was made, of every driver."""
        raise NotImplementedError

    @pytest.fixture
    def outage(self) -> Callable[[bool], None]:
        """Override it: takes the service away (True), and brings it back."""
        raise NotImplementedError

    def forged(self, wrapped: bytes) -> bytes:
        """Return what the service is asked about and refuses, by way of a wrapped data key."""
        return wrapped[:-1] + bytes([wrapped[-1] ^ 1])

    def shop(self, url: str, name: str, ran: list[int], lease: float = 60.0) -> CloudQ:
        """Open an app with the key, whose task notes what it is called with."""
        keys = {"k": url}
        app = CloudQ("shop", broker=f"memory://{name}", encryption_keys=keys, lease=lease)
        app.task(name="note")(ran.append)
        return app

    def test_a_thousand_messages_cost_two_requests(self, url: str, requests: list[str]) -> None:
        ran: list[int] = []
        name = uuid.uuid4().hex
        with self.shop(url, name, []) as sender, self.shop(url, name, ran) as worker:
            for number in range(1000):
                sender.send_task("note", args=[number])
            assert len(requests) == 1
            drain(worker)
        assert sorted(ran) == list(range(1000))
        assert len(requests) == 2

    def test_a_data_key_is_made_anew_after_an_hour_and_a_million_messages(
        self, url: str, requests: list[str]
    ) -> None:
        now = [0.0]
        with closing(DataKeys("k", url, monotonic=lambda: now[0])) as keys:
            made: set[bytes] = set()
            for now[0] in (0.0, LIFETIME - 1, LIFETIME + 1, 2 * LIFETIME, 2 * LIFETIME + 2):
                made.add(keys.current("shop")[0])
            assert len(requests) == len(made) == 3
            for _ in range(MOST_MESSAGES - 1):
                keys.current("shop")
            assert len(requests) == 3
            assert keys.current("shop")[0] not in made
            assert len(requests) == 4

    def test_a_refused_data_key_is_remembered(self, url: str, requests: list[str]) -> None:
        with closing(open_keys(url)) as driver:
            wrapped = driver.new_data_key("shop").wrapped
        forged = self.forged(wrapped)
        requests.clear()
        with closing(DataKeys("k", url)) as keys:
            for _ in range(3):
                with pytest.raises(DecodeError, match="has not made its data key"):
                    keys.opened(forged, "shop")
                assert len(requests) == 1

    def test_messages_wait_while_the_service_is_down(
        self, url: str, outage: Callable[[bool], None]
    ) -> None:
        ran: list[int] = []
        name = uuid.uuid4().hex
        with self.shop(url, name, []) as sender, self.shop(url, name, ran, lease=1) as worker:
            sender.send_task("note", args=[7])
            outage(True)
            with pytest.raises(KeyServiceError) as caught:
                drain(worker)
            assert caught.value.code is Code.UNREACHABLE
            assert ran == []
            outage(False)
            eventually(lambda: bool(drain(worker)) and ran == [7])
            assert list(worker.broker.admin.peek_dead("default", count=5)) == []

    def test_nothing_is_sent_in_the_clear_while_the_service_is_down(
        self, url: str, outage: Callable[[bool], None]
    ) -> None:
        with self.shop(url, uuid.uuid4().hex, []) as sender:
            outage(True)
            with pytest.raises(KeyServiceError):
                sender.send_task("note", args=[7])
            assert list(sender.broker.admin.peek("default", count=5)) == []
            outage(False)
            sender.send_task("note", args=[7])
            assert len(sender.broker.admin.peek("default", count=5)) == 1
