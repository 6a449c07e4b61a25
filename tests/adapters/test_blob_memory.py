"""A large blob goes both ways through a process whose memory does not grow with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from localstack.azure import ACCOUNT
from localstack.servers import Endpoint
from tests.servers import unique

SIZE = 192 << 20
MOST = 60 << 20  # bytes of it that are in memory at a time, at most

CHILD = """
import resource, secrets, sys
from cloudq.driver.loader import open_blobs

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

url, path, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
key = f"messages/memory/{secrets.token_hex(16)}"
driver = open_blobs(url)
driver.create_place(expires=86_400.0)
with open(path, "rb") as content:
    driver.put(key, content, 1000)
    list(driver.read(key))
    before = peak()
    driver.put(key, content, size)
assert sum(map(len, driver.read(key))) == size
driver.delete([key])
print(peak() - before)
"""


@pytest.fixture(params=["file", "s3", "gs", "azblob"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = unique("memory")

    def server(name: str) -> Endpoint:
        return request.getfixturevalue(name)

    match request.param:
        case "s3":
            return f"s3://{place}?endpoint_url={server('aws').url}"
        case "gs":
            return f"gs://{place}?emulator={server('storage').url}&project=cloudq-tests"
        case "azblob":
            return f"azblob://{ACCOUNT}/{place}?endpoint={server('blobs').url}/{ACCOUNT}"
    return f"file://{tmp_path}/payloads"


@pytest.mark.slow
def test_memory_does_not_grow_with_a_blob(url: str, tmp_path: Path) -> None:
    content = tmp_path / "content"
    with content.open("wb") as file:
        file.truncate(SIZE)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, url, str(content), str(SIZE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MOST
