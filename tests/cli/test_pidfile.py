"""`--pidfile` writes over no file that is no pidfile, and follows no link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudq.cli.pidfile import held, holder
from cloudq.errors import ConfigurationError


def refused(path: Path, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says), held(path):
        raise AssertionError("it was taken for a pidfile")


@pytest.mark.parametrize("text", ["my notes\n", "12 34\n", "-1\n", "0\n", "²\n", "1" * 4000])
def test_another_file_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes"
    path.write_text(text)
    refused(path, "is no pidfile, and is left as it is")
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["my notes\n", "", "1234\n"])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, text: str) -> None:
    target, path = tmp_path / "notes", tmp_path / "worker.pid"
    target.write_text(text)
    path.symlink_to(target)
    refused(path, "is a symbolic link")
    assert (target.read_text(), path.is_symlink()) == (text, True)
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        holder(path)


def test_a_link_to_nothing_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    path.symlink_to(tmp_path / "made")
    refused(path, "is a symbolic link")
    assert not (tmp_path / "made").exists()


def test_a_second_name_of_a_file_is_no_pidfile(tmp_path: Path) -> None:
    target, path = tmp_path / "number", tmp_path / "worker.pid"
    target.write_text("1234\n")
    path.hardlink_to(target)
    refused(path, "is no pidfile")
    assert target.read_text() == "1234\n"


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    os.mkfifo(path)
    refused(path, "is no pidfile")


def test_a_file_that_took_its_place_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    with held(path):
        path.unlink()
        path.write_text("my notes\n")
    assert path.read_text() == "my notes\n"


def test_a_stale_pidfile_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    path.write_text("1234\n")
    with held(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert holder(path) == os.getpid()
    assert not path.exists()
    assert holder(path) is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "gone" / "worker.pid", "No such file")
