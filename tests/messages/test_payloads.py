"""Claims and what they stand for: hostile ones, broken reads, wrong content, files."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import secrets
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    File,
    InvalidArguments,
    PayloadError,
    PayloadGone,
)
from cloudq.driver import Code, Failure
from cloudq.messages.payload_places import READING, WRITING, writing
from cloudq.messages.payloads import MESSAGES, Claim, Payloads, Unfetched, keys_in
from cloudq.messages.values import dump_value, from_wire, json_bytes, to_wire
from cloudq_local.blob_files import BlobFiles

KEY = "messages/2026-11-30/" + "0" * 32
RIGHT = {"key": KEY, "size": 5, "sha256": "a" * 64, "as": "json"}


@pytest.fixture
def payloads(tmp_path: Path) -> Payloads:
    return Payloads(BlobFiles(tmp_path), url="file:///x", most=10_000_000, sleep=lambda _: None)


def stored(payloads: Payloads, value: object) -> Claim:
    wire = to_wire(value)
    claim, content = payloads.claim(MESSAGES, wire, json_bytes(wire))
    payloads.store(claim.key, io.BytesIO(content), claim.size)
    return claim


def fetched(payloads: Payloads | None, wire: object) -> Any:
    token = READING.set(lambda: payloads)
    try:
        return from_wire(wire)
    finally:
        READING.reset(token)


VALUES = st.one_of(
    st.binary(max_size=99),
    st.text(max_size=99),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=20,
    ),
)


@given(VALUES)
def test_every_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "values"
    payloads = Payloads(BlobFiles(folder), url="file:///x", most=10_000_000)
    claim = stored(payloads, value)
    assert fetched(payloads, [claim.to_wire()]) == [value]


def test_bytes_and_texts_are_stored_as_they_are(payloads: Payloads, tmp_path: Path) -> None:
    assert (tmp_path / stored(payloads, b"\x00\xff").key).read_bytes() == b"\x00\xff"
    assert (tmp_path / stored(payloads, "Grüße").key).read_bytes() == "Grüße".encode()
    assert (tmp_path / stored(payloads, [1, b"x"]).key).read_bytes() == b'[1,{"$bytes":"eA=="}]'


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "x",
        [],
        {},
        RIGHT | {"key": "../../etc/passwd"},
        RIGHT | {"key": "messages/../" + "0" * 32},
        RIGHT | {"key": KEY + "/x"},
        RIGHT | {"key": "https://evil.example/x"},
        RIGHT | {"key": 5},
        RIGHT | {"size": -1},
        RIGHT | {"size": 1.5},
        RIGHT | {"size": True},
        RIGHT | {"size": "5"},
        RIGHT | {"sha256": "x"},
        RIGHT | {"sha256": None},
        RIGHT | {"as": "pickle"},
        RIGHT | {"as": None},
        RIGHT | {"as": []},
    ],
)
def test_a_malformed_claim_is_refused(payloads: Payloads, wrong: object) -> None:
    with pytest.raises(DecodeError, match=r"malformed \$blob value"):
        fetched(payloads, {"$blob": wrong})
    assert keys_in({"$blob": wrong}) in ([], [KEY])


def test_the_keys_of_claims_are_found_at_any_depth_each_once_and_of_one_kind() -> None:
    def claim(key: str) -> dict[str, Any]:
        return {"$blob": RIGHT | {"key": key}}

    others = [f"messages/{owner}/{'0' * 32}" for owner in "ab"]
    result = f"results/a/{'0' * 32}"
    inside = {"k": {"deep": [claim(others[1]), claim(KEY)]}, "r": claim(result)}
    assert keys_in([claim(KEY), [claim(others[0])], inside]) == [KEY, *others]
    assert keys_in(inside, "results") == [result]


def test_a_claim_to_too_much_is_refused_before_it_is_read(payloads: Payloads) -> None:
    with pytest.raises(DecodeError, match="1,000,000,000,000 bytes, and this app takes 10,000,000"):
        fetched(payloads, {"$blob": RIGHT | {"size": 10**12}})


@pytest.mark.parametrize("change", [{"size": 4}, {"size": 6}, {"sha256": "b" * 64}])
def test_what_is_not_what_was_stored_is_refused(payloads: Payloads, change: Any) -> None:
    claim = stored(payloads, b"12345")
    wire = {"$blob": claim.to_wire()["$blob"] | change}
    with pytest.raises(DecodeError, match="is not what was stored"):
        fetched(payloads, wire)


@pytest.mark.parametrize(
    ("form", "content"),
    [("json", b"[1,"), ("json", b"\xff"), ("text", b"\xff"), ("json", b"[" * 150 + b"]" * 150)],
)
def test_malformed_content_is_refused(payloads: Payloads, form: str, content: bytes) -> None:
    key = payloads.new_key(MESSAGES)
    payloads.store(key, io.BytesIO(content), len(content))
    sha256 = hashlib.sha256(content).hexdigest()
    claim = Claim(key=key, size=len(content), sha256=sha256, form=form)
    with pytest.raises(DecodeError):
        fetched(payloads, claim.to_wire())


def test_a_stored_value_has_no_claims(payloads: Payloads) -> None:
    inner = stored(payloads, "x" * 100)
    content = orjson.dumps([inner.to_wire()])
    key = payloads.new_key(MESSAGES)
    payloads.store(key, io.BytesIO(content), len(content))
    sha256 = hashlib.sha256(content).hexdigest()
    outer = Claim(key=key, size=len(content), sha256=sha256, form="json")
    assert fetched(payloads, outer.to_wire()) == [Unfetched(claim=inner)]


def test_where_nobody_fetches_claims_stay(payloads: Payloads) -> None:
    wire = stored(payloads, "x" * 12_345).to_wire()
    read = from_wire({"a": [wire]})
    assert repr(read["a"][0]) == "<12,345 bytes in the payload store>"
    assert to_wire(read) == {"a": [wire]}
    assert dump_value(copy.deepcopy(read)) == json_bytes({"a": [wire]}).decode()


def test_an_app_without_a_store_says_what_it_needs() -> None:
    with pytest.raises(ConfigurationError, match="set payload_store to that of the sender"):
        fetched(None, {"$blob": RIGHT})


def test_one_that_is_gone(payloads: Payloads) -> None:
    with pytest.raises(PayloadGone, match="not in file:///x any more"):
        fetched(payloads, {"$blob": RIGHT})


class Broken(BlobFiles):
    """Files whose reads break off after each few bytes, so many times; writes fail as often."""

    def __init__(self, folder: Path, times: int, error: Callable[[], Exception]) -> None:
        super().__init__(folder)
        self.times, self.error = times, error
        self.starts: list[int] = []

    def read(self, key: str, *, start: int = 0) -> Generator[bytes]:
        self.starts.append(start)
        return self._broken(super().read(key, start=start))

    def _broken(self, parts: Generator[bytes]) -> Generator[bytes]:
        for part in parts:
            if self.times:
                self.times -= 1
                yield part[:10]
                raise self.error()
            yield part

    def put(self, key: str, content: Any, size: int) -> None:
        if self.times:
            self.times -= 1
            content.read(7)
            raise self.error()
        super().put(key, content, size)


def test_a_broken_read_goes_on_where_it_broke(tmp_path: Path) -> None:
    driver = Broken(tmp_path, 0, ConnectionResetError)
    payloads = Payloads(driver, url="x", most=1000, sleep=lambda _: None)
    data = secrets.token_bytes(100)
    claim = stored(payloads, data)
    driver.times = 8  # each gets on, so that is no limit
    assert fetched(payloads, claim.to_wire()) == data
    assert driver.starts == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_a_write_is_tried_again_from_the_start(tmp_path: Path) -> None:
    driver = Broken(tmp_path, 3, lambda: OSError(5, "Input/output error"))
    payloads = Payloads(driver, url="x", most=1000, sleep=lambda _: None)
    assert fetched(payloads, stored(payloads, b"1234567890").to_wire()) == b"1234567890"
    driver.times = 4
    with pytest.raises(PayloadError, match="Input/output error"):
        stored(payloads, b"x")


def test_what_a_driver_says_is_an_error_of_ours(tmp_path: Path) -> None:
    driver = Broken(tmp_path, 1, lambda: PermissionError(13, "Permission denied"))
    payloads = Payloads(driver, url="file:///x", most=1000, sleep=lambda _: None)
    with pytest.raises(PayloadError, match=r"file:///x: this user may not write.*denied") as caught:
        stored(payloads, b"x")
    assert caught.value.code == "denied"


def test_old_ones_are_swept(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    payloads = Payloads(BlobFiles(tmp_path), url="x", most=1000, clock=lambda: now)
    for age in (10, 90, 100, 110, 200):
        claim = stored(payloads, b"x" * age)
        os.utime(tmp_path / claim.key, (now - age, now - age))
    assert payloads.sweep(older=100) == (2, 310)
    assert payloads.sweep(older=100) == (0, 0)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_the_first_that_cannot_be_swept_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_000.0
    payloads = Payloads(BlobFiles(tmp_path), url="x", most=1000, clock=lambda: now)
    keys = sorted(stored(payloads, b"x").key for _ in range(3))
    for key in keys:
        os.utime(tmp_path / key, (now - 200, now - 200))

    def refuses(keys: Sequence[str]) -> list[Failure]:
        return [Failure(index=n, code=Code.DENIED, reason=f"no {n}") for n in range(1, len(keys))]

    monkeypatch.setattr(payloads.driver, "delete", refuses)
    with pytest.raises(PayloadError, match=f"{keys[1]}: no 1"):
        payloads.sweep(older=100)

    def fails(keys: Sequence[str]) -> list[Failure]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(payloads.driver, "delete", fails)
    with pytest.raises(PayloadError, match=f"delete '{keys[0]}'"):
        payloads.sweep(older=100)


def test_a_place_that_makes_itself_is_not_made() -> None:
    class Plain:
        def close(self) -> None: ...

    plain: Any = Plain()
    assert Payloads(plain, url="x", most=1).create(expires=1.0) is False


@pytest.mark.parametrize("said", [True, False, None, 1, "true"])
def test_sealed_is_what_a_claim_says_is_true(said: object) -> None:
    assert Claim.from_wire({**RIGHT, "sealed": said}).sealed is (said is True)


def test_a_value_may_be_as_large_as_the_limit(tmp_path: Path) -> None:
    payloads = Payloads(BlobFiles(tmp_path), url="x", most=100)
    claim = stored(payloads, b"x" * 100)
    assert fetched(payloads, claim.to_wire()) == b"x" * 100


def test_files_are_stored_in_the_block_alone() -> None:
    def opens() -> None: ...

    with writing(opens):
        assert WRITING.get() is opens
    assert WRITING.get() is None


class TestFiles:
    def test_one_that_is_not_sent_is_read_here(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"hello")
        file = File.from_path(path)
        assert (file.name, file.size, file.content_type) == ("a.txt", 5, "text/plain")
        with file.open() as opened:
            assert file.read() == opened.read() == b"hello"
        assert repr(file) == "<File 'a.txt', 5 bytes, text/plain>"
        assert copy.deepcopy([file]) == [file]

    def test_it_is_stored_once(self, payloads: Payloads, tmp_path: Path) -> None:
        file = File.from_bytes(b"hello", "a.bin", content_type="x/y")
        with writing(lambda: payloads):
            wire = to_wire([file, {"again": file}])
            assert wire[0] == wire[1]["again"] == to_wire(file)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
        read = fetched(payloads, wire)[0]
        assert (read, read.name, read.content_type, read.size) == (file, "a.bin", "x/y", 5)
        assert read.read() == b"hello"
        with read.open() as opened:
            assert [opened.read(2), opened.read(), opened.read()] == [b"he", b"llo", b""]
        assert pickle.loads(pickle.dumps(read)) == read
        assert from_wire(to_wire(read)) == read, "it is sent on without a store"
        read.delete()
        with pytest.raises(PayloadGone):
            read.read()

    def test_it_cannot_be_sent_without_a_store(self) -> None:
        file = File.from_bytes(b"x", "a")
        with pytest.raises(EncodeError, match="not stored yet"):
            to_wire(file)
        with writing(lambda: None), pytest.raises(EncodeError, match="this app has none: set it"):
            to_wire(file)

    def test_one_that_is_too_large(self, tmp_path: Path) -> None:
        payloads = Payloads(BlobFiles(tmp_path), url="x", most=10)
        with (
            writing(lambda: payloads),
            pytest.raises(EncodeError, match=r"a\.txt is 11 bytes, and this app takes 10"),
        ):
            to_wire(File.from_bytes(bytes(11), "a.txt"))

    def test_one_that_shrinks_before_it_is_sent(self, payloads: Payloads, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"hello")
        file = File.from_path(path)
        path.write_bytes(b"hell")
        with writing(lambda: payloads), pytest.raises(PayloadError, match="4 bytes, not 5"):
            to_wire(file)

    def test_one_that_is_gone_before_it_is_sent(self, payloads: Payloads, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"hello")
        file = File.from_path(path)
        path.unlink()
        with writing(lambda: payloads), pytest.raises(EncodeError, match="cannot be read: No such"):
            to_wire(file)

    @pytest.mark.parametrize("name", ["", "..", "a/b", "..\\x", "a\nb", "x" * 256, 5])
    def test_a_name_leads_nowhere(self, payloads: Payloads, name: Any) -> None:
        with pytest.raises(InvalidArguments):
            File.from_bytes(b"", name)
        content = {"key": KEY, "size": 5, "sha256": "a" * 64, "name": name}
        with pytest.raises(DecodeError, match=r"malformed \$file value"):
            fetched(payloads, {"$file": content})

    def test_a_saved_file_is_whole_or_not_there(self, payloads: Payloads, tmp_path: Path) -> None:
        with writing(lambda: payloads):
            wire = to_wire(File.from_bytes(b"hello", "a.txt"))
        wire["$file"]["sha256"] = "b" * 64
        with pytest.raises(DecodeError, match="is not what was stored"):
            fetched(payloads, wire).save(tmp_path / "out.txt")
        assert [path.name for path in tmp_path.glob("out*")] == []
