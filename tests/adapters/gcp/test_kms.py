"""Google's Cloud KMS passes the contract of key services over a stand-in; what only it has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from typing import Any
from urllib.parse import unquote

import grpc
import pytest

from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService
from cloudq.driver.loader import open_keys
from cloudq.errors import ConfigurationError, KeyServiceError
from cloudq.messages.data_keys import DataKeys
from cloudq.testing import KeyServiceContract, KeyUseContract
from cloudq_gcp.crc32c import crc32c
from cloudq_gcp.errors import GcpError
from tests.adapters.gcp.kms_server import KmsServer, serving_keys

NAMES = map(str, count())
ALL = "projects/shop/locations/europe-west1/keyRings/cloudq/cryptoKeys"


@pytest.fixture(scope="module")
def running() -> Iterator[KmsServer]:
    with serving_keys() as state:
        yield state


@pytest.fixture
def server(running: KmsServer) -> Iterator[KmsServer]:
    running.asked.clear()
    running.routed.clear()
    yield running
    running.fails, running.spoils, running.refuses = None, "", 0


def url_of(server: KmsServer, key: str) -> str:
    return f"gcpkms://shop/europe-west1/cloudq/{key}?emulator=127.0.0.1:{server.port}"


@pytest.fixture
def key(server: KmsServer) -> str:
    return server.make(f"k{next(NAMES)}").rpartition("/")[2]


@pytest.fixture
def url(server: KmsServer, key: str) -> str:
    return url_of(server, key)


class TestContract(KeyServiceContract):
    has_missing_key = True

    @pytest.fixture
    def driver(self, url: str) -> Iterator[KeyService]:
        with closing(open_keys(url)) as driver:
            yield driver

    @pytest.fixture
    def another(self, url: str) -> Iterator[KeyService]:
        with closing(open_keys(url)) as driver:
            yield driver

    @pytest.fixture
    def stranger(self, server: KmsServer) -> Iterator[KeyService]:
        server.make("stranger")
        with closing(open_keys(url_of(server, "stranger"))) as driver:
            yield driver

    @pytest.fixture
    def missing_key(self, server: KmsServer) -> Iterator[KeyService]:
        with closing(open_keys(url_of(server, "nobody"))) as driver:
            yield driver


class TestUse(KeyUseContract):
    @pytest.fixture
    def url(self, url: str) -> str:
        return url

    @pytest.fixture
    def requests(self, server: KmsServer) -> list[str]:
        return server.asked

    @pytest.fixture
    def outage(self, server: KmsServer) -> Callable[[bool], None]:
        def outage(now: bool) -> None:
            server.fails = grpc.StatusCode.INTERNAL if now else None

        return outage


def test_checksums_are_those_of_the_standard() -> None:
    # RFC 3720, B.4
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_data_keys_of_an_old_version_are_opened(server: KmsServer, url: str, key: str) -> None:
    with closing(open_keys(url)) as driver:
        old = driver.new_data_key("shop")
        server.make(key)
        new = driver.new_data_key("shop")
        assert driver.open_data_key(old.wrapped, "shop") == old.plain
        assert driver.open_data_key(new.wrapped, "shop") == new.plain
        assert old.wrapped[0] != new.wrapped[0]


def test_requests_say_which_key_they_are_for(server: KmsServer, url: str, key: str) -> None:
    with closing(open_keys(url)) as driver:
        driver.check()
    assert server.asked == ["Encrypt", "Decrypt"]
    assert [unquote(each) for each in server.routed] == [f"name={ALL}/{key}"] * 2


@pytest.mark.parametrize("spoils", ["ciphertext", "verified"])
def test_a_data_key_that_was_damaged_is_not_used(server: KmsServer, url: str, spoils: str) -> None:
    with closing(open_keys(url)) as driver:
        server.spoils = spoils
        with pytest.raises(GcpError, match="damaged on the way") as caught:
            driver.new_data_key("shop")
        assert driver.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize("spoils", ["plaintext", "request"])
def test_damage_while_opening_is_an_outage_and_no_refusal(
    server: KmsServer, url: str, spoils: str
) -> None:
    with closing(open_keys(url)) as driver:
        made = driver.new_data_key("shop")
        server.spoils = spoils
        with pytest.raises(GcpError, match="damaged on the way") as caught:
            driver.open_data_key(made.wrapped, "shop")
        assert driver.error_code(caught.value) is Code.UNREACHABLE
        server.spoils = ""
        assert driver.open_data_key(made.wrapped, "shop") == made.plain


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, Code.DENIED),
        (grpc.StatusCode.UNAUTHENTICATED, Code.CREDENTIALS),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Code.THROTTLED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Code.UNREACHABLE),
        (grpc.StatusCode.INTERNAL, Code.UNREACHABLE),
    ],
)
def test_errors_have_their_code(
    server: KmsServer, url: str, status: grpc.StatusCode, code: Code
) -> None:
    with closing(DataKeys("k", url)) as keys:
        wrapped = keys.current("shop")[0]
        keys.close()
        server.fails = status
        for tried in (lambda: keys.current("shop"), lambda: keys.opened(wrapped, "shop")):
            with pytest.raises(KeyServiceError) as caught:
                tried()
            assert caught.value.code is code


def test_a_service_that_answers_again_is_asked_again(server: KmsServer, url: str) -> None:
    server.refuses = 2
    with closing(open_keys(url)) as driver:
        driver.check()
    assert server.asked == ["Encrypt", "Encrypt", "Encrypt", "Decrypt"]


def test_a_disabled_key_says_what_to_do(server: KmsServer, url: str, key: str) -> None:
    server.disabled.add(f"{ALL}/{key}")
    with closing(DataKeys("k", url)) as keys:
        with pytest.raises(KeyServiceError, match="enable or restore it") as caught:
            keys.check()
        assert caught.value.code is Code.DENIED


def test_a_plain_text_of_another_length_is_no_data_key(server: KmsServer, url: str) -> None:
    with closing(open_keys(url)) as driver:
        own: Any = driver
        bound = b"cloudq shop"
        request = {"name": own._key, "plaintext": b"short", "additional_authenticated_data": bound}
        wrapped = own._client.encrypt(request=request).ciphertext
        with pytest.raises(KeyRefused, match="5 bytes"):
            driver.open_data_key(wrapped, "shop")


def test_the_whole_name_of_a_key_is_taken(server: KmsServer, key: str) -> None:
    with closing(open_keys(f"gcpkms://{ALL}/{key}?emulator=127.0.0.1:{server.port}")) as driver:
        driver.check()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gcpkms://", "names no key"),
        ("gcpkms://shop/europe-west1/cloudq", "names no key"),
        ("gcpkms://shop/europe-west1/cloudq/k/cryptoKeyVersions/1", "names no key"),
        ("gcpkms://shop/europe-west1/cloudq/a%20b", "names no key"),
        ("gcpkms://shop/europe-west1/cloudq/k?x=1", "has no option 'x'"),
        ("gcpkms://shop/europe-west1/cloudq/k", "no Google credentials"),
        ("gcpkmz://k", "did you mean gcpkms"),
    ],
)
def test_a_wrong_url_says_so(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_keys(url)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cloudq_gcp.kms", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.kms_v1", None)
    with pytest.raises(ConfigurationError, match=r'pip install "cloudq-tasks\[gcp\]"'):
        open_keys("gcpkms://shop/europe-west1/cloudq/k?emulator=127.0.0.1:1")
