"""Large results go to the payload store, come back, and are deleted with their records."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, chain
from cloudq.errors import PayloadGone
from cloudq.messages.payload_places import READING
from cloudq.results.large import LargeValues
from cloudq.results.record import State
from cloudq.testing import drain
from cloudq_local.sqlite_backend import LIMITS, SQLiteBackend

OVER = 4096
ITEM = 16 << 20  # bytes that an item of this store takes


def make(folder: Path, **settings: Any) -> CloudQ:
    given: dict[str, Any] = {
        "payload_store": f"file://{folder}/payloads",
        "payload_store_over": OVER,
        **settings,
    }
    app = CloudQ("large", broker=f"sqlite:///{folder}/q.db", **given)

    @app.task(name="make", max_retries=0)
    def make_bytes(size: int) -> str:
        return os.urandom(size // 2).hex()

    @app.task(name="quiet", ignore_result=True)
    def quiet(size: int) -> str:
        return "x" * size

    @app.task(name="smile")
    def smile(count: int) -> str:
        return "\N{GRINNING FACE}" * count

    @app.task(name="size")
    def size(text: str) -> int:
        return len(text)

    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[CloudQ]:
    with make(tmp_path) as made:
        yield made


def stored(folder: Path) -> list[Path]:
    return [path for path in (folder / "payloads").rglob("*") if path.is_file()]


def run(app: CloudQ, task: str, *args: Any) -> Any:
    result = app.send_task(task, list(args))
    drain(app)
    return result


def test_a_large_result_lies_in_the_store_and_is_read_from_there(
    app: CloudQ, tmp_path: Path
) -> None:
    result = run(app, "make", OVER)
    [file] = stored(tmp_path)
    assert app.backend is not None
    text = app.backend.records([result.id])[result.id].value
    assert text is not None
    assert text.startswith('{"$blob"')
    assert "results/" in text
    assert result.get() == file.read_text()


def test_it_goes_with_its_record(app: CloudQ, tmp_path: Path) -> None:
    kept, gone = run(app, "make", OVER), run(app, "make", 2 * OVER)
    small = run(app, "make", 100)
    assert len(stored(tmp_path)) == 2
    gone.forget()
    small.forget()
    [left] = stored(tmp_path)
    assert kept.get() == left.read_text()


def test_one_whose_payload_is_gone_says_so(app: CloudQ, tmp_path: Path) -> None:
    result = run(app, "make", OVER)
    [file] = stored(tmp_path)
    file.unlink()
    assert result.state is State.SUCCESS
    with pytest.raises(PayloadGone, match="not in file://"):
        result.get()


@pytest.mark.parametrize(("size", "count"), [(OVER - 2, 0), (OVER, 1)])
def test_the_bound_is_that_of_the_setting(
    app: CloudQ, tmp_path: Path, size: int, count: int
) -> None:
    """Its JSON has two quotes more than the text."""
    assert len(run(app, "make", size).get()) == size
    assert len(stored(tmp_path)) == count


def test_a_result_that_nobody_keeps_is_not_stored(app: CloudQ, tmp_path: Path) -> None:
    run(app, "quiet", 2 * OVER)
    assert stored(tmp_path) == []


def test_nor_is_that_of_an_eager_call(app: CloudQ, tmp_path: Path) -> None:
    assert len(app.tasks["make"].apply((2 * OVER,)).get()) == 2 * OVER
    assert stored(tmp_path) == []


def test_the_next_step_gets_the_value(app: CloudQ) -> None:
    tasks: dict[str, Any] = dict(app.tasks)
    results: list[Any] = [chain(tasks["make"].s(3 * OVER), tasks["size"].s()).delay()]
    drain(app)
    drain(app)
    assert results[0].get() == 3 * OVER


def test_a_store_that_refuses_keeps_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not recorded as a success that nobody can read."""
    (tmp_path / "payloads").write_text("a file, and no folder")
    with make(tmp_path) as app:
        result = app.send_task("make", [2 * OVER])
        drain(app)
        assert not result.ready()
        assert "waits for the store" in caplog.text
        (tmp_path / "payloads").unlink()
        while not drain(app):  # its message comes back in a second
            time.sleep(0.05)
        assert len(result.get()) == 2 * OVER


def test_without_a_store_values_stay(tmp_path: Path) -> None:
    with make(tmp_path, payload_store="none") as app:
        result = run(app, "make", 3 * OVER)
        assert app.backend is not None
        record = app.backend.records([result.id])[result.id]
        assert record.value == f'"{result.get()}"'


class Opened:
    """Counts how often the store is opened; there is none."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("over", "item", "size", "count"),
    [
        (None, 400_000, 400_000 - 16_384, 0),  # what an item has room for beside the other fields
        (None, 400_000, 400_000 - 16_383, 1),
        (5000, 400_000, 5000, 0),
        (5000, 400_000, 5001, 1),
        (600_000, 400_000, 400_000 - 16_383, 1),  # an item does not take what the setting would
    ],
)
def test_the_store_is_opened_for_large_values_alone(
    over: int | None, item: int, size: int, count: int
) -> None:
    opens = Opened()
    text = f'"{"x" * (size - 2)}"'
    assert LargeValues(opens, over).put_away(text, item) == text
    assert opens.count == count


def test_bytes_are_counted_and_not_characters() -> None:
    opens = Opened()
    LargeValues(opens, 4000).put_away(f'"{"€" * 1500}"', ITEM)
    assert opens.count == 1


def test_values_that_are_no_claims_are_forgotten_without_the_store() -> None:
    opens = Opened()
    LargeValues(opens).forget(None)
    assert opens.count == 0


def test_nothing_is_read_from_the_store_after_a_value(app: CloudQ) -> None:
    result = run(app, "make", OVER)
    assert app.backend is not None
    text = app.backend.records([result.id])[result.id].value
    assert text is not None
    app.backend.large.load(text)
    assert READING.get() is None


def test_signs_of_four_bytes_are_counted_as_such(app: CloudQ, tmp_path: Path) -> None:
    """Some 4,800 bytes in 1,200 characters."""
    assert run(app, "smile", 1200).get() == "\N{GRINNING FACE}" * 1200
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize(("keys", "bound"), [(False, 83_616), (True, 46_116)])
def test_an_item_has_room_for_what_encryption_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: bool, bound: int
) -> None:
    """An item of 100,000 bytes: 16,384 are for other fields; base64 and more take three eighths."""
    monkeypatch.setattr(SQLiteBackend, "limits", replace(LIMITS, item=100_000))
    sealed = {"encryption_keys": {"a": base64.b64encode(bytes(32)).decode()}} if keys else {}
    with make(tmp_path, payload_store_over=None, **sealed) as app:
        run(app, "make", bound - 2)
        assert stored(tmp_path) == []
        run(app, "make", bound)
        assert len(stored(tmp_path)) == 1
