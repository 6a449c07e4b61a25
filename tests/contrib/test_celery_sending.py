"""An `apply_async` of a class of tasks, and a `send_task` of an app's own, are what sends calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from cloudq import ConfigurationError
from cloudq.contrib.celery import Celery, Task, chain, chord, group, signature
from cloudq.testing import Worker, eventually
from cloudq.testing.waiting import PATIENCE

SENT: list[str] = []


class OfTenant(Task[..., Any]):
    """Tasks whose calls carry a tenant, as those of many projects do."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        SENT.append(self.name)
        headers = {**(options.pop("headers", None) or {}), "tenant": "north", "size": 3}
        return super().apply_async(args, kwargs, headers=headers, **options)


def tenant(task: Any, *_: Any) -> Any:
    headers = task.request.headers or {}
    return [headers.get("tenant"), headers.get("size"), headers.get("own")]


NORTH, NONE = ["north", 3, None], [None, None, None]


def declared(app: Celery) -> None:
    app.task(name="who", base=OfTenant, bind=True)(tenant)
    app.task(name="plain", bind=True)(tenant)


@pytest.fixture
def app() -> Iterator[Celery]:
    SENT.clear()
    with Celery("sending", broker="memory://sending", backend="memory://sending") as app:
        declared(app)
        yield app


def s(app: Celery, name: str = "who", *args: Any) -> Any:
    return app.tasks[name].s(*args)


# A call or a workflow, its value, and how often the class's method sends, as Celery has it.
CASES: dict[str, tuple[Callable[[Celery], Any], Any, int]] = {
    "a call": (lambda app: app.tasks["who"].delay(), NORTH, 1),
    "a signature": (lambda app: s(app).delay(), NORTH, 1),
    "a signature with headers": (
        lambda app: s(app).set(headers={"own": [1]}).delay(),
        ["north", 3, [1]],
        1,
    ),
    "by its name": (lambda app: signature("who", app=app).delay(), NORTH, 1),
    "a group": (lambda app: group([s(app), s(app, "plain")])(), [NORTH, NONE], 1),
    "a group of a generator": (lambda app: group(s(app) for _ in range(3))(), [NORTH] * 3, 3),
    "a chain": (lambda app: chain(s(app), s(app, "plain"), s(app)).delay(), NORTH, 2),
    "a chord's body": (lambda app: chord([s(app, "plain")] * 2, s(app))(), NORTH, 1),
    "a chord's members": (lambda app: chord([s(app)] * 2, s(app, "plain"))(), NONE, 2),
    "nested": (lambda app: group(s(app) | s(app), chord([s(app)], s(app)))(), [NORTH, NORTH], 4),
}


@pytest.mark.parametrize("name", CASES)
def test_a_class_sends_the_calls_of_workflows_too(app: Celery, name: str) -> None:
    start, value, count = CASES[name]
    with Worker(app):
        assert start(app).get(timeout=PATIENCE) == value
    assert len(SENT) == count


def test_a_class_sends_callbacks_and_what_replaces(app: Celery) -> None:
    told: list[Any] = []

    @app.task(name="tell", base=OfTenant, bind=True)
    def tell(self: Any, *args: Any) -> None:
        told.append(tenant(self))

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    @app.task(name="replace", bind=True)
    def replace(self: Any) -> None:
        raise self.replace(s(app))

    with Worker(app):
        app.tasks["plain"].apply_async(link=tell.s())
        fail.apply_async(link_error=tell.s())
        eventually(lambda: len(told) == 2)
        assert told == [NORTH, NORTH]
        assert replace.delay().get(timeout=PATIENCE) == NORTH


def test_a_name_is_sent_as_it_is(app: Celery) -> None:
    with Worker(app):
        assert app.send_task("who").get(timeout=PATIENCE) == NONE
    assert SENT == []


def test_a_class_may_change_arguments_and_no_ids(app: Celery) -> None:
    class Twice(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async([arg * 2 for arg in args], {"y": 5}, **options)

    @app.task(name="add", base=Twice)
    def add(x: int, y: int = 0) -> int:
        return x + y

    with Worker(app):
        result: Any = group([add.s(1), add.s(2).set(task_id="mine")])()
        assert result.get(timeout=PATIENCE) == [7, 9]
        assert result.results[1].id == "mine"
        assert chain(add.s(1), add.s()).delay().get(timeout=PATIENCE) == 19


def test_a_class_that_adds_callbacks_to_members_is_refused(app: Celery) -> None:
    class Linked(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            return super().apply_async(args, kwargs, link=s(app), **options)

    linked: Any = app.task(name="linked", base=Linked)(lambda: None)
    with pytest.raises(ConfigurationError, match="gives link to a call of a workflow"):
        group([linked.s(), linked.s()])()


class Counting(Celery):
    """An app with a `send_task` of its own."""

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        SENT.append(name)
        options["headers"] = {**(options.get("headers") or {}), "tenant": "app", "size": 3}
        return super().send_task(name, *args, **options)


def test_an_app_sends_all_calls() -> None:
    SENT.clear()
    with Counting("counting", broker="memory://counting", backend="memory://counting") as app:
        declared(app)
        with Worker(app):
            ours = ["app", 3, None]
            assert app.tasks["plain"].delay().get(timeout=PATIENCE) == ours
            assert app.send_task("plain").get(timeout=PATIENCE) == ours
            assert group([s(app, "plain")] * 2)().get(timeout=PATIENCE) == [ours, ours]
            assert app.tasks["who"].delay().get(timeout=PATIENCE) == ours
    assert SENT == ["plain"] * 4 + ["who"] * 2


PATCHED = [
    "cloudq.contrib.celery.app.task.Task.apply_async",
    "cloudq.contrib.celery.Celery.send_task",
]


@pytest.mark.parametrize("target", PATCHED)
def test_what_a_test_patches_is_called_and_nothing_is_sent(app: Celery, target: str) -> None:
    with patch(target) as mocked:
        app.tasks["plain"].delay()
        app.tasks["plain"].apply_async(countdown=5)
        s(app, "plain").delay()
        assert mocked.call_count == 3
        with pytest.raises(ConfigurationError, match="sends nothing"):
            group([s(app, "plain")] * 2)()


def test_a_task_that_a_test_patches_is_called(app: Celery) -> None:
    plain = app.tasks["plain"]
    with patch.object(plain, "apply_async") as mocked:
        plain.delay()
        plain.s().delay()
        assert mocked.call_count == 2
        with pytest.raises(ConfigurationError, match="sends nothing"):
            chain(plain.s(), plain.s()).delay()
