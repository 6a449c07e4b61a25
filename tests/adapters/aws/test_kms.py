"""AWS KMS passes the contract of key services over moto and a local server; what only it has."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from moto import mock_aws

from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService
from cloudq.driver.loader import open_keys, parse
from cloudq.errors import ConfigurationError, KeyServiceError
from cloudq.messages.data_keys import DataKeys
from cloudq.testing import Fault, FaultProxy, KeyServiceContract, KeyUseContract
from cloudq_aws.kms import open_keys as open_kms
from localstack.servers import Endpoint
from tests.servers import skip_gap

REGION = "us-east-1"
# Part of a test's name -> what moto does otherwise; ministack runs them all.
GAPS = {
    "another_key_does_not": "moto opens with the key that the text names, whichever is asked for",
    "no_data_key_is_refused[moto-5000]": "moto denies what KMS calls invalid",
}
Make = Callable[[], str]


@pytest.fixture(scope="module", params=["moto", "ministack"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The query of a URL that reaches a stand-in for KMS."""
    with ExitStack() as stack:
        if request.param == "moto":
            stack.enter_context(mock_aws())
            yield f"region={REGION}"
        else:
            yield f"region={REGION}&endpoint_url={request.getfixturevalue('aws').url}"


@pytest.fixture
def make(endpoint: str) -> Make:
    """Makes a key, and returns its URL."""
    url = parse(f"awskms://x?{endpoint}").options.get("endpoint_url")

    def made() -> str:
        client: Any = boto3.client("kms", region_name=REGION, endpoint_url=url)
        return f"awskms://{client.create_key()['KeyMetadata']['KeyId']}?{endpoint}"

    return made


class TestContract(KeyServiceContract):
    has_missing_key = True

    @pytest.fixture
    def url(self, make: Make) -> str:
        return make()

    @pytest.fixture
    def driver(self, request: pytest.FixtureRequest, url: str) -> Iterator[KeyService]:
        skip_gap(request, GAPS if "endpoint_url" not in url else {})
        with closing(open_keys(url)) as driver:
            yield driver

    @pytest.fixture
    def another(self, url: str) -> Iterator[KeyService]:
        with closing(open_keys(url)) as driver:
            yield driver

    @pytest.fixture
    def stranger(self, make: Make) -> Iterator[KeyService]:
        with closing(open_keys(make())) as driver:
            yield driver

    @pytest.fixture
    def missing_key(self, endpoint: str) -> Iterator[KeyService]:
        with closing(open_keys(f"awskms://{uuid.uuid4()}?{endpoint}")) as driver:
            yield driver


class TestUse(KeyUseContract):
    def forged(self, wrapped: bytes) -> bytes:
        return b"x" * 40  # ministack opens what was changed, to something else

    @pytest.fixture
    def proxy(self, aws: Endpoint) -> Iterator[FaultProxy]:
        with FaultProxy(aws.url, chances={}) as proxy:
            yield proxy

    @pytest.fixture
    def url(self, aws: Endpoint, proxy: FaultProxy) -> str:
        client: Any = boto3.client("kms", region_name=REGION, endpoint_url=aws.url)
        id = client.create_key()["KeyMetadata"]["KeyId"]
        return f"awskms://{id}?region={REGION}&endpoint_url={proxy.url}"

    @pytest.fixture
    def requests(self, url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        made: list[str] = []
        whole = BaseClient._make_api_call

        def counted(client: Any, operation: str, given: Any) -> Any:
            if client.meta.service_model.service_name == "kms":
                made.append(operation)
            return whole(client, operation, given)

        monkeypatch.setattr(BaseClient, "_make_api_call", counted)
        return made

    @pytest.fixture
    def outage(self, proxy: FaultProxy) -> Callable[[bool], None]:
        def outage(now: bool) -> None:
            proxy.chances = {Fault.RESET_BEFORE: 1.0} if now else {}

        return outage


def test_a_key_that_cannot_be_used_says_what_to_do(make: Make, endpoint: str) -> None:
    with closing(DataKeys("k", f"awskms://{uuid.uuid4()}?{endpoint}")) as keys:
        with pytest.raises(KeyServiceError, match="there is no such key") as caught:
            keys.check()
        assert caught.value.code == Code.NOT_FOUND
    url = make()
    with closing(DataKeys("k", url)) as keys:
        keys.check()
        address = parse(url)
        client: Any = boto3.client(
            "kms", region_name=REGION, endpoint_url=address.options.get("endpoint_url")
        )
        client.disable_key(KeyId=address.host)
        if "endpoint_url" not in address.options:
            return  # moto uses what is disabled
        with pytest.raises(KeyServiceError, match="enable it"):
            keys.check()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("awskms://?region=us-east-1", "needs a key"),
        ("awskms://k?region=us-east-1&x=1", "has no option 'x'"),
        ("awskms://me:secret@k?region=us-east-1", "takes no user"),
        ("awskmz://k", "did you mean awskms"),
    ],
)
def test_a_wrong_url_says_so(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        open_keys(url)
    assert "me:secret" not in str(caught.value)


def test_the_region_of_an_arn_counts() -> None:
    with mock_aws():
        arn = boto3.client("kms", region_name="eu-west-3").create_key()["KeyMetadata"]["Arn"]
        with closing(open_kms(parse(f"awskms://{arn}"))) as driver:
            driver.check()
            made = driver.new_data_key("shop")
            with pytest.raises(KeyRefused):
                driver.open_data_key(made.wrapped, "bank")
