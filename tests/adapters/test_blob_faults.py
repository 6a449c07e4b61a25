"""Blobs through a network that fails: what is said to be stored is, and what is read is whole."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import pytest

from cloudq.driver import Code
from cloudq.driver.blobs import BlobAdmin, BlobGone, Blobs
from cloudq.driver.loader import open_blobs
from cloudq.testing import Fault, FaultProxy
from cloudq.testing.contracts.blobs import new_key
from cloudq_azure.faults import BLOBS as AZURE_BLOBS
from cloudq_gcp.faults import STORAGE
from localstack.azure import ACCOUNT
from localstack.servers import Endpoint
from tests.servers import unique

pytestmark = pytest.mark.slow

BLOBS = 45
CHANCES = {fault: 0.05 for fault in Fault if fault is not Fault.PARTIAL}
PASSING = (Code.UNREACHABLE, Code.THROTTLED)
TRIES = 30


@dataclass
class Network:
    """A place that is reached straight, and through a proxy whose requests fail by chance."""

    straight: Blobs
    faulty: Blobs
    proxy: FaultProxy

    def stored(self, key: str) -> bytes | None:
        try:
            return b"".join(self.straight.read(key))
        except BlobGone:
            return None

    def tried(self, work: Callable[[], object]) -> bool:
        """Try something, and tell whether it went well; what fails must be worth another try."""
        try:
            work()
        except Exception as error:
            if self.faulty.error_code(error) not in PASSING:
                raise
            return False
        return True

    def read(self, key: str) -> bytes:
        """Read a blob, each time from where it came cut."""
        found = io.BytesIO()

        def go_on() -> None:
            for part in self.faulty.read(key, start=found.tell()):
                found.write(part)

        for number in count(1):
            if self.tried(go_on):
                return found.getvalue()
            assert number < TRIES
        raise AssertionError

    def round_trip(self, number: int) -> bool:
        """Store a blob and read it; tell whether it was stored at the first try."""
        size = (10, 100_000, (9 << 20) + number)[number % 3]
        data, key = secrets.token_bytes(size), new_key()
        if not self.tried(lambda: self.faulty.put(key, io.BytesIO(data), size)):
            assert self.stored(key) in (None, data)
            return False
        assert self.stored(key) == data
        assert self.read(key) == data
        return True


@pytest.fixture(params=["s3", "gs", "azblob"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    place = unique("faults")
    server, url, refusals = {
        "s3": ("aws", f"s3://{place}?endpoint_url={{}}", {}),
        "gs": ("storage", f"gs://{place}?project=cloudq-tests&emulator={{}}", STORAGE),
        "azblob": ("blobs", f"azblob://{ACCOUNT}/{place}?endpoint={{}}/{ACCOUNT}", AZURE_BLOBS),
    }[request.param]
    endpoint: Endpoint = request.getfixturevalue(server)
    with (
        FaultProxy(endpoint.url, seed=16, slow=0.1, refusals=refusals) as proxy,
        closing(open_blobs(url.format(endpoint.url))) as straight,
        closing(open_blobs(url.format(proxy.url))) as faulty,
    ):
        assert isinstance(straight, BlobAdmin)
        straight.create_place(expires=86_400.0)
        yield Network(straight, faulty, proxy)


def test_a_blob_is_whole_whatever_happens_on_its_way(network: Network) -> None:
    network.proxy.chances = CHANCES
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(network.round_trip, range(BLOBS)))
    assert set(CHANCES) <= set(network.proxy.counts)
    assert sum(stored) > BLOBS / 2
