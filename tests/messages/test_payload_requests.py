"""The requests to a payload store: which are made, which again, and what is told of failures."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import DecodeError, PayloadError
from cloudq.driver import Code, Failure
from cloudq.messages.encryption import Encryption
from cloudq.messages.payloads import MESSAGES, Claim, Payloads
from cloudq_local.blob_files import BlobFiles


class Files(BlobFiles):
    """Files that count requests, and fail the first of those in `errors`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.errors: dict[str, list[Exception]] = {}
        self.asked: list[str] = []
        self.refused: list[Failure] = []  # of each delete
        self.readings: list[Generator[bytes]] = []
        self.parts = 0
        self.expires: float | None = None

    def ask(self, what: str) -> None:
        self.asked.append(what)
        if errors := self.errors.get(what):
            raise errors.pop(0)

    def put(self, key: str, content: Any, size: int) -> None:
        self.ask("put")
        super().put(key, content, size)

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        self.ask("read")
        self.readings.append(self._counted(super().read(key, start=start)))
        return self.readings[-1]

    def _counted(self, reading: Generator[bytes]) -> Generator[bytes]:
        for part in reading:
            self.parts += 1
            yield part
            if errors := self.errors.get("part"):
                raise errors.pop(0)

    def delete(self, keys: Sequence[str]) -> Sequence[Failure]:
        self.ask("delete")
        return self.refused or super().delete(keys)

    def create_place(self, *, expires: float) -> None:
        self.ask("create")
        self.expires = expires
        super().create_place(expires=expires)

    def check_place(self) -> None:
        self.ask("reach")
        super().check_place()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "payloads")


@pytest.fixture
def payloads(files: Files) -> Payloads:
    return Payloads(files, url="file:///x", most=10_000_000, sleep=lambda _: None)


def stored(payloads: Payloads, content: bytes, form: str = "bytes") -> Claim:
    key = payloads.new_key(MESSAGES)
    payloads.store(key, io.BytesIO(content), len(content))
    sha256 = hashlib.sha256(content).hexdigest()
    return Claim(key=key, size=len(content), sha256=sha256, form=form)


def denied() -> Exception:
    return PermissionError(13, "Permission denied")


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_place_is_made_with_the_time_that_its_blobs_are_kept(
    payloads: Payloads, files: Files
) -> None:
    assert payloads.create(expires=500.0) is True
    assert files.expires == 500.0


def test_a_place_that_cannot_be_reached_is_told(payloads: Payloads, files: Files) -> None:
    payloads.reach()
    files.errors["reach"] = [denied()]
    with pytest.raises(PayloadError, match="cannot reach the place of 'payloads' in file:///x"):
        payloads.reach()
    assert files.asked == ["reach", "reach"]


def test_a_check_writes_reads_and_deletes_a_payload(
    payloads: Payloads, files: Files, tmp_path: Path
) -> None:
    payloads.check()
    assert files.asked == ["put", "read", "delete"]
    assert left(tmp_path) == []


@pytest.mark.parametrize("what", ["put", "read", "delete"])
def test_a_check_fails_where_one_of_these_is_not_allowed(
    payloads: Payloads, files: Files, what: str
) -> None:
    files.errors[what] = [denied()]
    with pytest.raises(PayloadError, match="Permission denied") as caught:
        payloads.check()
    assert caught.value.code is Code.DENIED


def test_a_check_fails_where_its_payload_stays(payloads: Payloads, files: Files) -> None:
    files.refused = [Failure(index=0, code=Code.DENIED, reason="it is locked")]
    with pytest.raises(PayloadError, match="it is locked") as caught:
        payloads.check()
    assert caught.value.code is Code.DENIED


def test_a_check_fails_where_something_else_is_read(
    payloads: Payloads, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(key: str, *, start: int = 0) -> Generator[bytes]:
        yield b"something else"

    monkeypatch.setattr(files, "read", other)
    with pytest.raises(DecodeError, match="is not what was stored"):
        payloads.check()


def test_of_a_batch_that_cannot_be_deleted_the_first_is_told_and_the_next_are_deleted(
    payloads: Payloads, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files.most_deleted = 2
    keys = [stored(payloads, b"x").key for _ in range(5)]
    files.errors["delete"] = [denied()]
    payloads.delete(keys)
    [told] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert told.startswith(f"2 payloads stay until they expire: cannot delete '{keys[0]}' in")
    assert files.asked[5:] == ["delete"] * 3
    assert sorted(path.name for path in left(tmp_path)) == sorted(key[-32:] for key in keys[:2])


def test_each_that_was_not_deleted_is_told(
    payloads: Payloads, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.refused = [Failure(index=1, code=Code.DENIED, reason="it is locked")]
    keys = [stored(payloads, b"x").key for _ in range(2)]
    payloads.delete(keys)
    assert [each.getMessage() for each in caplog.records] == [
        f"{keys[1]} stays until it expires: it is locked"
    ]


def test_nothing_is_asked_where_nothing_is_to_be_deleted(payloads: Payloads, files: Files) -> None:
    payloads.delete([])
    assert files.asked == []


@pytest.mark.parametrize(("failures", "error"), [(3, None), (4, "Connection reset")])
def test_a_read_is_tried_four_times(
    payloads: Payloads, files: Files, failures: int, error: str | None
) -> None:
    claim = stored(payloads, b"hello")
    files.errors["read"] = [ConnectionResetError("Connection reset") for _ in range(failures)]
    if error is None:
        assert payloads.value(claim) == b"hello"
    else:
        with pytest.raises(PayloadError, match=error):
            payloads.value(claim)
    assert files.asked == ["put", *["read"] * 4]


@pytest.mark.parametrize(("failures", "error"), [(2, None), (3, "Connection reset")])
def test_a_read_that_has_got_on_has_four_tries_anew(
    payloads: Payloads, files: Files, failures: int, error: str | None
) -> None:
    """It breaks off behind its one part, and then cannot go on so many times."""
    claim = stored(payloads, b"hello")
    files.errors["part"] = [ConnectionResetError("Connection reset")]
    reading = payloads.parts(claim.key, claim.size, claim.sha256, sealed=False)
    assert next(reading) == b"hello"
    files.errors["read"] = [ConnectionResetError("Connection reset") for _ in range(failures)]
    if error is None:
        assert next(reading, None) is None
    else:
        with pytest.raises(PayloadError, match=error):
            next(reading)
    assert files.asked == ["put", "read", *["read"] * 3]


def test_of_more_than_was_stored_no_more_is_read_and_the_read_is_closed(
    payloads: Payloads, files: Files
) -> None:
    claim = replace(stored(payloads, bytes(3 << 20)), size=5)
    with pytest.raises(DecodeError, match="is not what was stored") as caught:
        payloads.value(claim)
    assert files.parts == 1
    [reading] = files.readings
    assert next(reading, None) is None
    assert caught.value.__traceback__ is not None  # which keeps what was not closed


@pytest.mark.parametrize("what", ["put", "read"])
def test_what_is_not_allowed_is_not_tried_again(
    payloads: Payloads, files: Files, what: str
) -> None:
    claim = stored(payloads, b"hello")
    files.errors[what] = [denied()]
    tries: dict[str, Callable[[], object]] = {
        "put": lambda: stored(payloads, b"x"),
        "read": lambda: payloads.value(claim),
    }
    with pytest.raises(PayloadError, match="Permission denied"):
        tries[what]()
    assert files.asked == ["put", what]


def test_there_is_a_pause_before_each_further_try(files: Files) -> None:
    pauses: list[float] = []
    payloads = Payloads(files, url="x", most=1000, sleep=pauses.append)
    resets = [ConnectionResetError() for _ in range(3)]
    files.errors = {"put": [*resets], "read": [*resets]}
    claim = stored(payloads, b"hello")
    assert len(pauses) == 3
    assert payloads.value(claim) == b"hello"
    assert len(pauses) == 6
    assert all(pauses)


def test_a_read_that_is_given_up_is_closed(payloads: Payloads, files: Files) -> None:
    claim = stored(payloads, bytes(3 << 20))
    parts = payloads.parts(claim.key, claim.size, claim.sha256, sealed=False)
    assert next(parts) == bytes(1 << 20)
    parts.close()
    [reading] = files.readings
    assert next(reading, None) is None


@pytest.mark.parametrize(("count", "fits"), [(199_998, True), (200_000, False)])
def test_a_stored_value_has_as_many_values_as_a_message_at_most(
    payloads: Payloads, count: int, fits: bool
) -> None:
    claim = stored(payloads, b"[" + b"[]," * count + b"[]]", form="json")
    if fits:
        assert payloads.value(claim) == [[]] * (count + 1)
    else:
        with pytest.raises(DecodeError, match="oversized: a value of more than 200,000 lists"):
            payloads.value(claim)


@pytest.mark.parametrize("key", [None, "A" * 43 + "="])
def test_a_claim_says_whether_its_payload_is_sealed(tmp_path: Path, key: str | None) -> None:
    encryption = Encryption({"k": key}) if key else None
    payloads = Payloads(BlobFiles(tmp_path), url="x", most=1000, encryption=encryption)
    claim, _ = payloads.claim(MESSAGES, "text", b'"text"')
    assert claim.sealed is (key is not None)
    assert Claim.from_wire(claim.to_wire()["$blob"]) == claim
