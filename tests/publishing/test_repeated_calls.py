"""The calls after the first of a task, of which less is made anew, are as the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudq import CloudQ
from cloudq.errors import InvalidArguments
from cloudq.messages.message import FIELDS, TaskMessage, given_fields
from cloudq.testing import drain


class Name(str):
    """A text of a class of its own."""


@pytest.fixture
def app(tmp_path: Any) -> Iterator[CloudQ]:
    with CloudQ("repeated", broker=f"memory://{tmp_path.name}", backend="memory://") as app:
        yield app


def built(app: CloudQ, task: Any, *args: Any, **kwargs: Any) -> TaskMessage:
    return app.publisher.message_of(task.prepare(*args, **kwargs))


def adder(app: CloudQ) -> Any:
    @app.task(name="add")
    def add(x: Any, y: Any = 1, **more: Any) -> Any:
        return x, y

    return add


def shape(message: TaskMessage) -> tuple[Any, ...]:
    fields = {name: getattr(message, name) for name in FIELDS if name not in ("id", "sent_at")}
    types = {name: type(getattr(message, name)) for name in FIELDS}
    return fields, types, message.model_fields_set


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1,), {}), (("ü", 2.5), {}), ((None,), {"y": (1, 2)}), (([{"a": b"x"}],), {"z": {1}})],
)
def test_the_messages_of_equal_calls_are_equal(app: CloudQ, args: Any, kwargs: Any) -> None:
    add = adder(app)
    first, second = (built(app, add, *args, **kwargs) for _ in range(2))
    assert shape(first) == shape(second)
    assert first.id != second.id
    written = [
        app.runtime.codec.encode(m.model_copy(update={"id": "-", "sent_at": 1.0}))
        for m in (first, second)
    ]
    assert written[0] == written[1]
    assert second == TaskMessage(**given_fields(second))


def test_messages_share_nothing_that_can_change(app: CloudQ) -> None:
    add = adder(app)
    first, second, third = (built(app, add, 1) for _ in range(3))
    second.headers["a"] = "b"
    second.chain.append({})
    assert third.headers == first.headers == {}
    assert third.chain == first.chain == []


def set_to(name: str, value: Any) -> Callable[[CloudQ], None]:
    return lambda app: setattr(app.conf, name, value)


@pytest.mark.parametrize(
    ("change", "field", "wanted"),
    [
        (set_to("task_default_queue", "other"), "queue", "other"),
        (set_to("task_routes", {"add": "routed"}), "queue", "routed"),
        (set_to("task_serializer", "yaml"), "serializer", "yaml"),
        (set_to("task_compression", "zlib"), "compression", "zlib"),
        (lambda app: app.configure(task_annotations={"add": {"queue": "noted"}}), "queue", "noted"),
        (lambda app: app.conf.queue_produce.update(cloudq="celery"), "protocol", "celery"),
        (lambda app: app.configure(task_annotations={"add": {"expires": 5.0}}), "expires", None),
    ],
)
def test_a_setting_that_changes_counts_for_the_next_call(
    app: CloudQ, change: Callable[[CloudQ], None], field: str, wanted: Any
) -> None:
    app.configure(task_default_queue="cloudq")
    add = adder(app)
    before = [built(app, add, 1) for _ in range(2)][1]
    change(app)
    after = built(app, add, 1)
    assert getattr(after, field) != getattr(before, field)
    assert wanted is None or getattr(after, field) == wanted


def test_calls_of_another_form_are_refused_after_many_that_fit(app: CloudQ) -> None:
    @app.task(name="strict")
    def strict(x: int, *, y: int = 0) -> None: ...

    for _ in range(3):
        strict.delay(1, y=2)
    for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"z": 1}), ((1,), {"x": 1})):
        for _ in range(2):
            with pytest.raises(InvalidArguments, match="strict"):
                strict.delay(*args, **kwargs)


def test_a_queue_that_cannot_be_is_refused_after_many_calls(app: CloudQ) -> None:
    add = adder(app)
    for _ in range(3):
        add.delay(1)
    app.conf.task_default_queue = "q" * 3000
    for _ in range(2):
        with pytest.raises(InvalidArguments, match="queue"):
            add.delay(1)


def test_names_of_arguments_of_a_class_of_their_own_arrive_as_texts(app: CloudQ) -> None:
    add = adder(app)
    for _ in range(3):
        result = add.delay(1, **{Name("z"): 2})
        drain(app)
        assert result.get(timeout=10) == [1, 1]


def test_calls_within_a_task_are_its_children(app: CloudQ) -> None:
    add = adder(app)
    seen: list[TaskMessage] = []

    @app.task(name="outer", bind=True)
    def outer(self: Any) -> None:
        seen.append(built(app, add, 1))

    built(app, add, 1)
    sent = outer.delay()
    drain(app)
    assert seen[0].parent == seen[0].root == sent.id
    assert seen[0].depth == 1
    assert built(app, add, 1).parent is None
