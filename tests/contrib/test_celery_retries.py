"""`self.retry` of a Celery project's tasks: its options, and what catches it."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq.contrib.celery import Celery, Retry
from cloudq.testing import Worker
from cloudq.testing.waiting import PATIENCE
from tests.servers import unique


@pytest.fixture
def app() -> Any:
    return Celery("retries", broker="memory://", backend=f"memory://{unique()}")


def test_a_retry_that_is_caught_runs_again_all_the_same(app: Any) -> None:
    seen: list[int] = []

    @app.task(bind=True, max_retries=2, default_retry_delay=0, name="caught")
    def caught(self: Any) -> str:
        seen.append(self.request.retries)
        try:
            self.retry()
        except Retry:
            return "after the first"
        except Exception:
            return "no retries are left"
        return "never"

    with Worker(app):
        assert caught.delay().get(timeout=PATIENCE) == "no retries are left"
    assert seen == [0, 1, 2]
    seen.clear()
    assert caught.apply().get() == "no retries are left"
    assert seen == [0, 1, 2]
    seen.clear()
    assert caught() == "after the first"
    assert seen == [0]


def test_a_retry_takes_the_options_of_a_call(app: Any) -> None:
    @app.task(bind=True, default_retry_delay=0, name="again")
    def again(self: Any, options: dict[str, Any]) -> Any:
        if not self.request.retries:
            raise self.retry(**options)
        return self.request.headers

    with Worker(app):
        given = {"headers": {"tries": 1, "who": "me"}, "compression": "gzip", "routing_key": "x"}
        result = again.delay({**given, "queue": "celery"})
        assert result.get(timeout=PATIENCE) == {"tries": 1, "who": "me"}
        for refused in ({"routing_key": "x"}, {"link": again.s({})}, {"task_id": "other"}):
            with pytest.raises(Exception, match=min(refused)):
                again.delay(refused).get(timeout=PATIENCE)
