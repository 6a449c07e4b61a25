"""Blobs in files pass the contract; and what only files have."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from cloudq.driver.blobs import BlobGone
from cloudq.driver.loader import open_blobs
from cloudq.errors import ConfigurationError, PayloadError
from cloudq.messages.payloads import Payloads
from cloudq.testing import BlobsContract
from cloudq.testing.contracts.blobs import new_key
from cloudq_local.blob_files import BlobFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "payloads"


class TestContract(BlobsContract):
    @pytest.fixture
    def driver(self, folder: Path) -> BlobFiles:
        return BlobFiles(folder)

    @pytest.fixture
    def another(self, folder: Path) -> BlobFiles:
        return BlobFiles(folder)


def test_only_this_user_can_read_them(folder: Path) -> None:
    BlobFiles(folder).put(new_key(), io.BytesIO(b"secret"), 6)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_an_owner_s_folder_goes_with_its_last_blob(folder: Path) -> None:
    driver, first, second = BlobFiles(folder), new_key("one"), new_key("one")
    for key in (first, second):
        driver.put(key, io.BytesIO(b"x"), 1)
    driver.delete([first])
    assert (folder / second).exists()
    driver.delete([second])
    assert not (folder / "messages/one").exists()


def test_what_is_half_written_can_be_swept(folder: Path) -> None:
    pid = os.fork()
    if not pid:

        class Last(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell():
                    os._exit(0)
                return super().read(1 << 20)

        BlobFiles(folder).put(new_key(), Last(bytes(4 << 20)), 4 << 20)
    os.waitpid(pid, 0)
    driver = BlobFiles(folder)
    [left] = driver.list(after=None, limit=10).blobs
    assert left.size == 1 << 20
    driver.delete([left.key])
    assert not driver.list(after=None, limit=10).blobs


def test_a_link_is_no_blob(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of others")
    key = new_key()
    path = folder / key
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    with pytest.raises((BlobGone, OSError)):
        BlobFiles(folder).read(key)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file://", "names no folder"),
        ("file://host/folder", "names the host 'host'"),
        ("file:///x?size=3", "no option 'size'"),
        ("s4://bucket", "no payload store for.*(did you mean|installed)"),
        ("payloads", "such as file:///"),
    ],
)
def test_a_wrong_url(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_blobs(url)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file://{here}/a", "{here}/a"),
        ("file:///{here}/a%20b", "{here}/a b"),
        ("file://localhost{here}/a/", "{here}/a"),
        ("file://./a", "{here}/a"),
        ("file://./a/../b", "{here}/b"),
    ],
)
def test_the_folder_of_a_url(
    url: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = new_key()
    open_blobs(url.format(here=tmp_path)).put(key, io.BytesIO(b"x"), 1)
    assert (Path(folder.format(here=tmp_path)) / key).read_bytes() == b"x"


@pytest.mark.parametrize(("below", "says"), [("", "something else has"), ("/below", "no folder")])
def test_a_place_that_can_be_no_folder(below: str, says: str, folder: Path) -> None:
    folder.write_text("a file")
    store = Payloads(BlobFiles(Path(f"{folder}{below}")), url="file://", most=100)
    with pytest.raises(PayloadError, match=says):
        store.store(store.new_key("messages"), io.BytesIO(b"x"), 1)
    for ask in (store.reach, lambda: store.sweep(older=0)):
        with pytest.raises(PayloadError, match="no folder"):
            ask()
