"""Limits on every store: what the drivers make of their conditions, numbers and names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cloudq.driver import StoreAdmin
from cloudq.driver import loader as plugins
from cloudq.messages.message import TaskMessage
from cloudq.results.backend import Backend
from cloudq.tasks.checkpoints import load, recall, remember, save
from cloudq.tasks.limits.concurrency import (
    NoPermit,
    Permit,
    PermitRequest,
    acquire,
    permits_key,
    release,
)
from cloudq.tasks.limits.global_rate import GlobalRates
from cloudq.tasks.limits.rules import Rate
from cloudq.tasks.limits.unique import Uniques, free_key, unique_key
from tests.servers import unique

ODD = "user/7#é?\\ x:{}%"


def _url(request: pytest.FixtureRequest, folder: Path) -> str:
    def server(name: str) -> Any:
        return request.getfixturevalue(name)

    kind, table = request.param, unique("limits")
    if kind == "sqlite":
        return f"sqlite:///{folder}/limits.db"
    if kind == "dynamodb":
        return f"dynamodb://{table}?endpoint_url={server('aws').url}"
    if kind == "firestore":
        return f"firestore://cloudq-local/{table}?emulator=127.0.0.1:{server('firestore').port}"
    if kind == "aztables":
        url = server("tables").environment["CLOUDQ_BACKEND"]
        return url.replace("/cloudq?", f"/{table.replace('-', '')}?")
    return f"memory://{table}"


@pytest.fixture(params=["memory", "sqlite", "dynamodb", "firestore", "aztables"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    url = _url(request, tmp_path)
    made = Backend(plugins.open_backend(url), url=url)
    if isinstance(made.driver, StoreAdmin):
        made.driver.create_store()
    yield made
    made.close()


def test_a_bucket_moves_on_by_even_steps(backend: Backend) -> None:
    rate = Rate(count=7, seconds=60)
    turns = [GlobalRates().take(backend, ODD, rate) for _ in range(4)]
    steps = [after - before for before, after in pairwise(turns[1:])]  # type: ignore[operator]
    assert steps == pytest.approx([rate.every] * 2, abs=1e-5)  # pyright: ignore[reportUnknownMemberType]


def test_permits_are_taken_renewed_and_freed(backend: Backend) -> None:
    key = permits_key("t", ODD)

    def take(owner: str, fence: int = 1, delivery: str = "d", **more: Any) -> Permit | NoPermit:
        request = PermitRequest(owner=owner, fence=fence, delivery=delivery)
        return acquire(backend, key, 2, request, 60.0, **more)

    first, second, third = take("one"), take("two"), take("three")
    assert isinstance(first, Permit)
    assert isinstance(second, Permit)
    assert isinstance(third, NoPermit)
    assert third.owner in ("one", "two")
    assert first.renew()
    later = take("one", 2, "e", again=True)
    assert isinstance(later, Permit)
    assert not first.renew()
    first.release()
    assert isinstance(take("three"), NoPermit)
    later.release()
    assert isinstance(take("three"), Permit)
    release(backend, key, "two")
    assert isinstance(take("four"), Permit)


def test_a_key_of_many_permits_fits_into_an_item(backend: Backend) -> None:
    key = permits_key("t", "many")
    for number in range(40):
        request = PermitRequest(owner=f"id-{number}", fence=1, delivery="d")
        assert isinstance(acquire(backend, key, 40, request, 60.0), Permit)
    extra = PermitRequest(owner="extra", fence=1, delivery="d")
    assert isinstance(acquire(backend, key, 40, extra, 60.0), NoPermit)


def test_one_call_of_a_key_is_sent(backend: Backend) -> None:
    sent: list[str] = []
    uniques = Uniques(backend, lambda message: 600.0)

    def publish(*ids: str) -> list[str]:
        messages = [TaskMessage(id=id, task="t", unique_key=ODD) for id in ids]
        calls = uniques.send(messages, lambda fresh: sent.extend(m.id for m in fresh))
        return [call.id for call in calls]

    assert publish("a", "b") == ["a", "a"]
    assert publish("c") == ["a"]
    key = unique_key(TaskMessage(id="a", task="t", unique_key=ODD))
    assert key is not None
    free_key(backend, key, "c")
    assert publish("d") == ["a"]
    free_key(backend, key, "a")
    assert publish("e") == ["e"]
    assert sent == ["a", "e"]


def test_steps_and_states_are_kept(backend: Backend) -> None:
    assert recall(backend, "id", ODD) == (False, None)
    assert remember(backend, "id", ODD, {"a": [1]}) == {"a": [1]}
    assert remember(backend, "id", ODD, "late") == {"a": [1]}
    assert recall(backend, "id", ODD) == (True, {"a": [1]})
    assert load(backend, "id", 0) == 0
    save(backend, "id", 1, {"n": 1})
    save(backend, "id", 2, {"n": 2})
    assert load(backend, "id", {}) == {"n": 2}
