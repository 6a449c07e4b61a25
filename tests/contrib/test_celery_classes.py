"""Classes of a Celery project's own: of apps and of tasks, and the names that they may use."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq.contrib.celery import Celery, Task, shared_task
from cloudq.errors import ConfigurationError

BROKER = "memory://classes"


class Counting(Task[..., Any]):
    """A class of tasks that is given to apps in several ways."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        Counting.calls += 1  # as in Celery the class of an app is one below
        return self.run(*args, **kwargs)


def test_the_class_of_an_apps_tasks_is_given_in_any_of_celerys_ways() -> None:
    class Own(Celery):
        task_cls = f"{__name__}:Counting"

    class OfClass(Celery):
        task_cls = Counting

    replaced = Celery("shop", broker=BROKER)
    replaced.Task = Counting
    for app in (
        Own("shop", broker=BROKER),
        OfClass("shop", broker=BROKER),
        Celery("shop", broker=BROKER, task_cls=Counting),
        replaced,
    ):
        Counting.calls = 0

        @app.task
        def double(x: int) -> int:
            return 2 * x

        assert isinstance(double, Counting)
        assert (double(2), double.apply((3,)).get(), Counting.calls) == (4, 6, 2)
    with pytest.raises(ConfigurationError, match="no class of tasks"):
        replaced.Task = "nowhere"


def test_a_context_around_tasks_as_flasks_page_has_it() -> None:
    app = Celery("shop", broker=BROKER)
    base = app.Task
    seen: list[str] = []

    class ContextTask(base):  # type: ignore[misc, valid-type]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("inside")
            return base.__call__(self, *args, **kwargs)

    app.Task = ContextTask

    @app.task
    def double(x: int) -> int:
        return 2 * x

    assert (double(2), double.apply((3,)).get(), seen) == (4, 6, ["inside"] * 2)


def test_a_class_of_apps_may_name_the_tasks() -> None:
    class Short(Celery):
        def gen_task_name(self, name: str, module: str) -> str:
            return f"short.{name}"

    app = Short("shop", broker=BROKER)

    @app.task
    def plain() -> None: ...

    @app.task(bind=True, max_retries=7)
    def bound(self: Any) -> None: ...

    @app.task(name="given")
    def named() -> None: ...

    @shared_task
    def shared() -> None: ...

    names = [plain.name, bound.name, named.name, shared.name]
    assert names == ["short.plain", "short.bound", "given", "short.shared"]
    assert bound.max_retries == 7
    other = Celery("shop", broker=BROKER)

    def by_name(name: str, module: str) -> str:
        return f"set.{name}"

    other.gen_task_name = by_name  # type: ignore[method-assign]
    assert other.task(plain.function).name == "set.plain"


@pytest.mark.parametrize("name", ["loader", "on_init", "on_configure", "loader_cls", "amqp"])
def test_what_a_class_of_apps_overrides_for_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"class Middle: {name} has no effect here"):
        type("Own", (type("Middle", (Celery,), {name: "x"}),), {})
    with pytest.raises(ConfigurationError, match=f"class Own: {name} has no effect here"):
        type("Own", (type("Mixin", (), {name: "x"}), Celery), {})


@pytest.mark.parametrize("name", ["policy", "function", "made", "arguments", "_app", "_given"])
def test_a_name_of_cloudqs_tasks_is_refused_to_classes_and_keywords(name: str) -> None:
    app = Celery("shop", broker=BROKER)
    with pytest.raises(ConfigurationError, match=f"the name {name}: choose another"):
        type("Own", (Task,), {name: 1})
    with pytest.raises(ConfigurationError, match=f"the name {name}: choose another"):
        app.task(**{name: 1})(lambda: None)


def test_a_name_of_cloudqs_tasks_is_refused_when_it_is_set_later() -> None:
    own: Any = type("Own", (Task,), {"_mine": 1, "resume": "mine"})
    own.policy = 5
    with pytest.raises(ConfigurationError, match="the name policy"):
        Celery("shop", broker=BROKER).task(base=own)(lambda: None)


@pytest.mark.parametrize(
    "source",
    [
        {"*": {"rate_limit": "5/m", "acks_late": True, "compression": "gzip", "max_retries": 9}},
        [{"shop.one": {"max_retries": 9}}, {"*": {"rate_limit": "5/m", "compression": "gzip"}}],
    ],
)
def test_annotations_have_celerys_options_and_can_be_read(source: Any) -> None:
    app: Any = Celery("shop", broker=BROKER)
    before = app.task(name="shop.one")(lambda: None)
    app.conf.task_annotations = source
    after = app.task(name="shop.two")(lambda: None)
    assert (before.rate_limit, before.max_retries, before.compression) == ("5/m", 9, "zlib")
    assert (after.rate_limit, after.compression) == ("5/m", "zlib")
    before.rate_limit = "1/s"
    assert before.rate_limit == "1/s"
    with pytest.raises(ConfigurationError, match=r"annotations of shop.one: .*acks_late"):
        app.conf.task_annotations = {"shop.one": {"acks_late": False}}
    assert after.rate_limit == "5/m"
    with pytest.raises(ConfigurationError, match=r"annotations of shop.one: .*the name policy"):
        app.conf.task_annotations = {"shop.one": {"policy": 1}}
