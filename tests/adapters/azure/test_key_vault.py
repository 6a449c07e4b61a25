"""Azure Key Vault passes the contract of key services over a stand-in; what only it has."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count

import pytest
from azure.core.exceptions import ServiceResponseError

from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService
from cloudq.driver.loader import open_keys
from cloudq.errors import ConfigurationError, DecodeError, KeyServiceError
from cloudq.messages.data_keys import DataKeys
from cloudq.testing import KeyServiceContract, KeyUseContract
from tests.adapters.azure.vault_server import OAEP, VaultServer, serving_vault

NAMES = map(str, count())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    folder = tmp_path_factory.mktemp("vault")
    with serving_vault(folder) as (state, environment), pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield state


@pytest.fixture
def server(running: VaultServer) -> Iterator[VaultServer]:
    running.asked.clear()
    yield running
    running.fails, running.page, running.refuses = None, None, 0


def url_of(server: VaultServer, key: str) -> str:
    return f"azkeyvault://shop/{key}?endpoint=https://127.0.0.1:{server.port}"


@pytest.fixture
def key(server: VaultServer) -> str:
    name = f"k{next(NAMES)}"
    server.make(name)
    return name


@pytest.fixture
def url(server: VaultServer, key: str) -> str:
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
    def stranger(self, server: VaultServer) -> Iterator[KeyService]:
        server.make("stranger")
        with closing(open_keys(url_of(server, "stranger"))) as driver:
            yield driver

    @pytest.fixture
    def missing_key(self, server: VaultServer) -> Iterator[KeyService]:
        with closing(open_keys(url_of(server, "nobody"))) as driver:
            yield driver


class TestUse(KeyUseContract):
    @pytest.fixture
    def url(self, url: str) -> str:
        return url

    @pytest.fixture
    def requests(self, server: VaultServer) -> list[str]:
        return server.asked

    @pytest.fixture
    def outage(self, server: VaultServer) -> Callable[[bool], None]:
        def outage(now: bool) -> None:
            server.fails = 500 if now else None

        return outage


def test_data_keys_of_an_old_version_are_opened(server: VaultServer, url: str, key: str) -> None:
    with closing(open_keys(url)) as driver:
        old = driver.new_data_key("shop")
        version = server.make(key)
        new = driver.new_data_key("shop")
        assert new.wrapped.startswith(version.encode())
        assert driver.open_data_key(old.wrapped, "shop") == old.plain
        assert driver.open_data_key(new.wrapped, "shop") == new.plain
        _, _, text = old.wrapped.partition(b".")
        with pytest.raises(KeyRefused, match="BadParameter"):
            driver.open_data_key(version.encode() + b"." + text, "shop")


def test_the_data_key_is_not_what_the_vault_unwraps(
    server: VaultServer, url: str, key: str
) -> None:
    with closing(open_keys(url)) as driver:
        made = driver.new_data_key("shop")
    (private,) = server.keys[key].values()
    secret = private.decrypt(made.wrapped.partition(b".")[2], OAEP)
    assert len(secret) == 32
    assert secret != made.plain


def test_a_version_that_is_made_up_is_refused_and_a_missing_key_is_not(
    server: VaultServer, url: str
) -> None:
    forged = b"0" * 32 + b"." + os.urandom(256)
    with closing(DataKeys("k", url)) as keys:
        for _ in range(3):
            with pytest.raises(DecodeError, match="the key has no such version"):
                keys.opened(forged, "shop")
    assert server.asked == ["unwrapkey", "wrapkey"]
    with closing(DataKeys("k", url_of(server, "nobody"))) as keys:
        with pytest.raises(KeyServiceError) as caught:
            keys.opened(forged, "shop")
        assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_secret_of_another_length_is_no_data_key(
    server: VaultServer, url: str, key: str, length: int
) -> None:
    ((version, private),) = server.keys[key].items()
    wrapped = version.encode() + b"." + private.public_key().encrypt(b"x" * length, OAEP)
    with closing(open_keys(url)) as driver, pytest.raises(KeyRefused, match=f"{length} bytes"):
        driver.open_data_key(wrapped, "shop")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.CREDENTIALS),
        (403, Code.DENIED),
        (429, Code.THROTTLED),
        (500, Code.UNREACHABLE),
        (503, Code.UNREACHABLE),
    ],
)
def test_errors_have_their_code(server: VaultServer, url: str, status: int, code: Code) -> None:
    with closing(DataKeys("k", url)) as keys:
        wrapped = keys.current("shop")[0]
        keys.close()
        server.fails = status
        for tried in (lambda: keys.current("shop"), lambda: keys.opened(wrapped, "shop")):
            with pytest.raises(KeyServiceError) as caught:
                tried()
            assert caught.value.code is code


def test_a_busy_vault_is_asked_again(server: VaultServer, url: str) -> None:
    server.refuses = 2
    with closing(open_keys(url)) as driver:
        driver.check()
    assert server.asked == ["wrapkey"] * 3 + ["unwrapkey"]


@pytest.mark.parametrize("page", [b"", b"<html>", b"{}", b'{"kid": 1, "value": "x"}', b"[]"])
def test_a_page_of_somebody_else_is_an_outage(server: VaultServer, url: str, page: bytes) -> None:
    with closing(open_keys(url)) as driver:
        made = driver.new_data_key("shop")
        server.page = page
        for tried in (
            lambda: driver.new_data_key("shop"),
            lambda: driver.open_data_key(made.wrapped, "shop"),
        ):
            with pytest.raises(ServiceResponseError) as caught:
                tried()
            assert driver.error_code(caught.value) is Code.UNREACHABLE


@pytest.mark.parametrize("kid", ["https://shop.vault.azure.net/keys/other/1", "x", ""])
def test_an_answer_for_another_key_is_not_believed(server: VaultServer, url: str, kid: str) -> None:
    value = base64.urlsafe_b64encode(bytes(256)).decode()
    server.page = f'{{"kid": "{kid}", "value": "{value}"}}'.encode()
    with closing(open_keys(url)) as driver:
        with pytest.raises(Exception, match="lacks the version of this key") as caught:
            driver.new_data_key("shop")
        assert driver.error_code(caught.value) is Code.UNREACHABLE


def test_a_disabled_key_says_what_to_do(server: VaultServer, url: str, key: str) -> None:
    server.disabled.add(key)
    with closing(DataKeys("k", url)) as keys:
        with pytest.raises(KeyServiceError, match="is disabled: enable it") as caught:
            keys.check()
        assert caught.value.code is Code.DENIED


def test_without_an_identity_it_says_what_to_do(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with closing(DataKeys("k", url)) as keys:
        with pytest.raises(KeyServiceError, match="run `az login`") as caught:
            keys.check()
        assert caught.value.code is Code.CREDENTIALS
        assert "connection string" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("azkeyvault://", "names no vault and key"),
        ("azkeyvault://shop", "names no vault and key"),
        ("azkeyvault://shop/keys/k", "names no vault and key"),
        ("azkeyvault://shop/a_b", "names no vault and key"),
        ("azkeyvault://shop/k?x=1", "has no option 'x'"),
        ("azkeyvault://shop/k?endpoint=http://127.0.0.1:1", "https://HOST"),
        ("azkeyvault://me:secret@shop/k", "names no vault and key"),
        ("azkeyvaults://k", "did you mean azkeyvault"),
    ],
)
def test_a_wrong_url_says_so(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_keys(url)
    assert "me:secret" not in str(caught.value)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cloudq_azure.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConfigurationError, match=r'pip install "cloudq-tasks\[azure\]"'):
        open_keys("azkeyvault://shop/k")
