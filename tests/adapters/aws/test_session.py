"""Clients are made without botocore's file of endpoints, and are as those that are made with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

from cloudq_aws.session import client_session

PARTITIONS: Any = Session().get_component("data_loader").load_data("partitions")["partitions"]
REGIONS = [region for each in PARTITIONS for region in each["regions"] if "global" not in region]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


def sent(session: Session, service: str, region: str, url: str | None) -> dict[str, Any]:
    """Return where a request goes, and how it is signed, by the client of a session."""
    client: Any = session.create_client(service, region_name=region, endpoint_url=url)
    seen: dict[str, Any] = {"at": client.meta.endpoint_url, "partition": client.meta.partition}
    seen["region"] = client.meta.region_name

    def stop(request: Any, **_: Any) -> None:
        seen["url"] = request.url
        scope = request.headers["Authorization"].decode().split("Credential=")[1]
        seen["scope"] = scope.partition(",")[0].split("/")[2:]
        raise StopIteration

    client.meta.events.register("before-send", stop)
    call = {"sqs": "list_queues", "dynamodb": "list_tables", "scheduler": "list_schedules"}
    with pytest.raises(StopIteration):
        getattr(client, call[service])()
    return seen


@pytest.mark.parametrize("service", ["sqs", "dynamodb", "scheduler"])
def test_requests_go_to_the_same_place_and_are_signed_alike(service: str) -> None:
    full = Session()
    small = client_session(full, "eu-west-1")
    assert small is not full
    assert len(REGIONS) > 30
    for region in REGIONS:
        assert sent(small, service, region, None) == sent(full, service, region, None)
    url = "http://127.0.0.1:1"
    assert sent(small, service, "eu-west-1", url) == sent(full, service, "eu-west-1", url)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_USE_DUALSTACK_ENDPOINT", "true")],
)
def test_variants_of_endpoints_are_left_to_botocores_file(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    session = Session()
    assert client_session(session, "us-east-1") is session


def test_so_are_regions_that_no_partition_lists(tmp_path: Path, monkeypatch: Any) -> None:
    session = Session()
    assert client_session(session, "local") is session
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    session = Session()
    assert client_session(session, "eu-west-1") is not session
    (tmp_path / "endpoints.json").write_text('{"partitions": []}')
    assert client_session(session, "eu-west-1") is session


def test_the_credentials_are_those_of_the_first_session() -> None:
    session = Session()
    assert client_session(session, "eu-west-1").get_credentials() is session.get_credentials()


def test_a_broker_and_a_store_are_opened_without_it_and_without_boto3() -> None:
    program = """
import sys, botocore.loaders as loaders
read = []
real = loaders.JSONFileLoader.load_file
def noted(self, path):
    read.append(path)
    return real(self, path)
loaders.JSONFileLoader.load_file = noted
from cloudq.driver.loader import open_backend, open_broker
open_broker("sqs://eu-west-1")
open_backend("dynamodb://cloudq?region=eu-west-1")
print(any(path.endswith("endpoints") for path in read), "boto3" in sys.modules, len(read) > 3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["False", "False", "True"]
