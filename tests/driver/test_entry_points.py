"""Entry points are found as importlib.metadata finds them, most of the time without it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cloudq.driver.entry_points import EntryPoint, entry_points, forget

KINDS = ("brokers", "backends", "schedulers", "blobs", "formats", "adapters")
GROUPS = [f"cloudq.{kind}" for kind in KINDS]


def by_metadata(group: str) -> list[tuple[str, str]]:
    return sorted((each.name, each.value) for each in importlib.metadata.entry_points(group=group))


def found(group: str) -> list[tuple[str, str]]:
    return [(each.name, each.value) for each in entry_points(group)]


def install(folder: Path, name: str, text: str, kind: str = "dist-info") -> None:
    info = folder / f"{name}-1.0.{kind}"
    info.mkdir(parents=True)
    metadata = "METADATA" if kind == "dist-info" else "PKG-INFO"
    (info / metadata).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(text)


@pytest.fixture(autouse=True)
def _afresh() -> None:
    forget()


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_is_found_as_by_importlib_metadata(group: str) -> None:
    assert found(group) == by_metadata(group)
    assert {each.distribution for each in entry_points(group)} <= {"cloudq-tasks"}


def test_so_it_is_where_files_are_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    install(
        first, "one", "# a comment\n[other]\na = b:c\n\n[cloudq.brokers]\n  x=y:z  \n#n = o:p\n"
    )
    install(first, "old_style", "[cloudq.brokers]\nold = m : a.b\n", kind="egg-info")
    install(first, "None_here", "")
    install(second, "One", "[cloudq.brokers]\nshadowed = m:a\n")
    install(second, "two.parts", "[cloudq.backends]\nb = m:a [extra]\n")
    (second / "a_file-1.0.egg-info").write_text("Name: a-file")
    (tmp_path / "odd-1.dist-info").mkdir()
    (tmp_path / "odd-1.dist-info" / "entry_points.txt").write_bytes(b"\xff[cloudq.brokers]\n")
    for folder in (second, first, tmp_path / "nowhere"):
        monkeypatch.syspath_prepend(folder)
    for group in GROUPS:
        assert [name for name, _ in found(group)] == [name for name, _ in by_metadata(group)]
    assert {"old", "x"} <= {name for name, _ in found("cloudq.brokers")}
    assert "shadowed" not in {name for name, _ in found("cloudq.brokers")}


def test_a_zip_file_in_the_path_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "zipped.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("zipped-1.0.dist-info/METADATA", "Name: zipped\nVersion: 1.0\n")
        written.writestr("zipped-1.0.dist-info/entry_points.txt", "[cloudq.brokers]\nzip = m:a\n")
    monkeypatch.syspath_prepend(archive)
    assert ("zip", "m:a") in found("cloudq.brokers")
    assert found("cloudq.brokers") == by_metadata("cloudq.brokers")


def test_an_entry_point_is_loaded() -> None:
    assert EntryPoint("g", "n", "os:path.join").load() is __import__("os").path.join
    assert EntryPoint("g", "n", "json").load() is __import__("json")
    with pytest.raises(AttributeError):
        EntryPoint("g", "n", "json:no_such").load()


def test_a_broker_is_opened_without_importlib_metadata() -> None:
    program = (
        "import sys; from cloudq.driver.loader import open_broker; open_broker('memory://x');"
        "print('importlib.metadata' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
