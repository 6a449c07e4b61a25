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

from cloudq import CloudQ
from cloudq.driver import Code
from cloudq.driver.keys import KeyRefused, KeyService
from cloudq.driver.loader import open_keys, parse
from cloudq.errors import ConfigurationError, DecodeError, KeyServiceError
from cloudq.messages.data_keys import MOST_MESSAGES, DataKeys
from cloudq.testing import Fault, FaultProxy, KeyServiceContract, drain, eventually
from cloudq_aws.kms import open_keys as open_kms
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


class Requests:
    """Counts what botocore asks of KMS."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        whole = BaseClient._make_api_call

        def counted(client: Any, operation: str, given: Any) -> Any:
            if client.meta.service_model.service_name == "kms":
                self.made.append(operation)
            return whole(client, operation, given)

        monkeypatch.setattr(BaseClient, "_make_api_call", counted)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


def shop(url: str, **settings: Any) -> CloudQ:
    return CloudQ("shop", broker="memory://kms", encryption_keys={"k": url}, **settings)


def test_a_thousand_messages_cost_two_requests(make: Make, requests: Requests) -> None:
    url = make()
    requests.made.clear()
    with shop(url) as sender, shop(url) as worker:
        ran: list[int] = []
        worker.task(name="add")(ran.append)
        for number in range(1000):
            sender.send_task("add", args=[number])
        drain(worker)
    assert sorted(ran) == list(range(1000))
    assert requests.made == ["GenerateDataKey", "Decrypt"]


def test_a_data_key_is_made_anew_after_an_hour_and_after_a_million_messages(
    make: Make, requests: Requests
) -> None:
    now = [0.0]
    keys = DataKeys("k", make(), monotonic=lambda: now[0])
    requests.made.clear()
    wrapped = {keys.current("shop")[0]}
    for later in (3599.0, 3601.0, 3700.0, 7300.0):
        now[0] = later
        wrapped.add(keys.current("shop")[0])
    assert requests.made == ["GenerateDataKey"] * len(wrapped)
    assert len(wrapped) == 3
    first = keys.current("shop")[0]
    for _ in range(MOST_MESSAGES):
        last = keys.current("shop")[0]
    assert last != first
    assert len(requests.made) == 4
    keys.close()


def test_what_is_no_data_key_is_asked_about_once(make: Make, requests: Requests) -> None:
    keys = DataKeys("k", make())
    requests.made.clear()
    for _ in range(3):
        with pytest.raises(DecodeError, match="has not made its data key"):
            keys.opened(b"x" * 40, "shop")
    assert requests.made == ["Decrypt"]
    keys.close()


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


def test_messages_wait_while_the_service_is_down(aws: Any) -> None:
    client: Any = boto3.client("kms", region_name=REGION, endpoint_url=aws.url)
    id = client.create_key()["KeyMetadata"]["KeyId"]
    with FaultProxy(aws.url, chances={}) as proxy:
        url = f"awskms://{id}?region={REGION}&endpoint_url={proxy.url}"
        with shop(url) as sender, shop(url, lease=1) as worker:
            sender.send_task("add", args=[7])
            ran: list[int] = []
            worker.task(name="add")(ran.append)
            proxy.chances = {Fault.RESET_BEFORE: 1.0}
            with pytest.raises(KeyServiceError):
                drain(worker)
            assert not ran
            proxy.chances = {}
            eventually(lambda: bool(drain(worker)) and ran == [7])


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
