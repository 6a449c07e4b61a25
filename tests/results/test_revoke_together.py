"""A chain is revoked in few transactions where the store takes many changes at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq import AsyncResult, CloudQ, State, chain, group
from cloudq.driver import Item, Key
from cloudq.testing import drain
from tests.support.commits import commits

LONG = 600


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def app(file: Path) -> Iterator[CloudQ]:
    with CloudQ("x", broker=f"sqlite:///{file}?synchronous=off") as app:
        app.task(name="step")(step)
        yield app


def step(*_: object) -> int:
    return 1


def line_of(result: AsyncResult[Any]) -> list[str]:
    ids: list[str] = []
    each: Any = result
    while each is not None:
        ids.append(each.id)
        each = each.parent
    return ids


def revoked(app: CloudQ, ids: list[str]) -> set[str]:
    assert app.backend is not None
    found = app.backend.records(ids)
    return {id for id, record in found.items() if record.revoked}


def test_a_long_chain_is_revoked_in_few_transactions(app: CloudQ, file: Path) -> None:
    result = chain(app.signature("step") for _ in range(LONG)).delay()
    ids = line_of(result)
    assert len(ids) == LONG
    before = commits(file)
    assert result.revoke()
    assert commits(file) - before <= 1 + LONG // 100
    assert revoked(app, ids) == set(ids)
    drain(app)
    assert result.state is State.REVOKED


def test_what_has_ended_is_not_revoked(app: CloudQ) -> None:
    result = chain(app.signature("step") for _ in range(10)).delay()
    ids = line_of(result)
    drain(app)
    assert not result.revoke()
    assert revoked(app, ids) == set()
    assert result.get(timeout=0) == 1


def test_a_chain_is_revoked_from_the_step_that_has_ended_on(app: CloudQ) -> None:
    result = chain(app.signature("step") for _ in range(10)).delay()
    ids = line_of(result)
    assert app.backend is not None
    ended = {"state": "SUCCESS", "task": "step", "value": "1"}
    app.backend.put([Item(key=Key(f"task#{ids[6]}"), fields=ended)])
    assert result.revoke_all() == ids[:6]
    assert revoked(app, ids) >= set(ids[:6])
    assert ids[6] not in revoked(app, ids)


def test_a_group_within_a_chain_is_revoked_too(app: CloudQ) -> None:
    step = app.signature("step")
    result = (step | group([step, step]) | step | step).delay()
    assert result.revoke()
    ids = [each for each in result.revoke_all() if each]
    assert revoked(app, ids) == set(ids)
    assert len(ids) >= 4
