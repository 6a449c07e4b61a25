"""Large arguments of calls that are composed: each call finds its own until it has ended."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, File, chain, group
from cloudq.operations.audit import local_actor
from cloudq.operations.seen import read
from cloudq.operations.task_actions import retry
from cloudq.operations.tasks import FAILURES
from cloudq.testing import drain

LARGE = "a line\n" * 1000


@pytest.fixture
def app(tmp_path: Path) -> Iterator[CloudQ]:
    url = f"memory://{uuid.uuid4().hex}"
    settings: dict[str, Any] = {
        "payload_store": f"file://{tmp_path}",
        "payload_store_over": 2000,
        "max_retries": 0,
    }
    with CloudQ("large", broker=url, backend=url, **settings) as made:
        yield made


def left(folder: Path) -> list[str]:
    """The kinds of the payloads that are there."""
    return sorted(path.parent.parent.name for path in folder.rglob("*") if path.is_file())


def test_a_file_in_a_large_value_is_read(app: CloudQ) -> None:
    @app.task(name="same")
    def same(given: list[Any]) -> list[Any]:
        assert given[0].read() == b"hello"
        return given

    result = same.delay([File.from_bytes(b"hello", "hello.txt"), LARGE])
    drain(app)
    [file, text] = result.get(timeout=1)
    assert (file.read(), text) == (b"hello", LARGE)


def test_one_text_in_many_calls_is_there_for_each(app: CloudQ, tmp_path: Path) -> None:
    sizes: list[int] = []

    @app.task(name="measure")
    def measure(text: str, *others: str) -> None:
        sizes.extend(map(len, (text, *others)))

    given = measure.si(LARGE), measure.si(LARGE), measure.si(LARGE, LARGE)
    steps: Any = chain(*given)  # pyright: ignore[reportUnknownVariableType]
    steps.delay()
    measure.apply_async((LARGE,), link=[measure.si(LARGE), measure.si(LARGE)])
    assert left(tmp_path) == ["messages"] * 7
    drain(app)
    assert sizes == [len(LARGE)] * 7
    assert not left(tmp_path)


def test_error_callbacks_are_given_the_large_arguments_of_the_failed_call(app: CloudQ) -> None:
    told: list[Any] = []

    @app.task(name="told")
    def tell(request: dict[str, Any], error: str, traceback: str, *more: str) -> None:
        told.append([request["args"], request["kwargs"], *more])

    @app.task(name="fail")
    def fail(text: str, *, key: str) -> None:
        raise ValueError(text[:6])

    fail.apply_async((LARGE,), {"key": LARGE}, link_error=[tell.s(LARGE), tell.s()])
    drain(app)
    given = [[LARGE], {"key": LARGE}]
    assert sorted(told, key=len) == [given, [*given, LARGE]]


def test_what_no_error_callback_is_given_goes_with_the_failed_call(
    app: CloudQ, tmp_path: Path
) -> None:
    told: list[str] = []

    @app.task(name="told")
    def tell(failed: str) -> None:
        told.append(failed)

    @app.task(name="fail")
    def fail(text: str) -> None:
        raise ValueError(text[:6])

    failed = fail.apply_async((LARGE,), link_error=tell.s())
    drain(app)
    assert told == [failed.id]
    assert not left(tmp_path)


def test_each_error_callback_of_a_replaced_call_has_its_large_arguments(app: CloudQ) -> None:
    told: list[int] = []

    @app.task(name="told")
    def tell(request: Any, error: str, traceback: str, text: str) -> None:
        told.append(len(text))

    @app.task(name="fail")
    def fail(number: int) -> None:
        raise ValueError(number)

    @app.task(name="replaced", bind=True)
    def replaced(self: Any) -> None:
        members: Any = group(fail.s(1), fail.s(2))
        self.replace(members)

    replaced.apply_async(link_error=tell.s(LARGE))
    drain(app)
    assert told == [len(LARGE)] * 3, "of each member, and of the body"


def test_a_call_is_not_run_again_with_an_argument_that_is_gone(app: CloudQ) -> None:
    ran: list[int] = []

    @app.task(name="fail")
    def fail(text: str) -> None:
        ran.append(len(text))
        raise ValueError(text[:6])

    fail.delay(LARGE)
    fail.delay("small")
    drain(app)
    done = retry(app, FAILURES, by=local_actor())
    drain(app)
    assert ran == [len(LARGE), 5, 5]
    [refused] = done.failed
    assert "a large argument of it was in the payload store, and went with" in refused.reason


def test_where_nobody_runs_the_call_its_size_is_shown(app: CloudQ) -> None:
    @app.task(name="take")
    def take(*args: Any, **kwargs: Any) -> None: ...

    file = File.from_bytes(b"hello", "hello.txt")
    take.delay(LARGE, file, 3, report=[LARGE, file], key={"$blob": 1})
    [seen] = [read(each, app, "default") for each in app.broker.admin.peek("default", count=1)]
    assert seen.arguments(200) == (
        "<7,000 bytes in the payload store>, <File 'hello.txt', 5 bytes, text/plain>, 3, "
        'report=<8,198 bytes in the payload store>, key={"$dict":[["$blob",1]]}'
    )
