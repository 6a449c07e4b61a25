"""Habits of Celery's programs: times that are past, states that are set, loggers, and results."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from cloudq import signals
from cloudq.contrib.celery import AsyncResult, Celery, Task, shared_task
from cloudq.contrib.celery.exceptions import Ignore, TaskRevokedError
from cloudq.contrib.celery.own_states import failure_of
from cloudq.contrib.celery.utils.log import get_task_logger
from cloudq.errors import ConfigurationError, InvalidArguments, TaskFailure
from cloudq.execution import lifecycle
from cloudq.testing import Worker
from cloudq.testing.waiting import PATIENCE


@pytest.fixture
def app() -> Any:
    with Celery("habits", broker="memory://habits", backend="memory://habits") as app:
        yield app


def test_a_countdown_that_is_past_is_none(app: Celery) -> None:
    add: Any = app.task(name="add")(lambda x, y: x + y)
    due = datetime.now(UTC) - timedelta(minutes=1)
    late = (due - datetime.now(UTC)).total_seconds()
    with Worker(app):
        assert add.apply_async((1, 2), countdown=late).get(timeout=PATIENCE) == 3
        assert add.s(1, 2).set(countdown=late).delay().get(timeout=PATIENCE) == 3
        with pytest.raises(TaskRevokedError, match="expired"):
            add.apply_async((1, 2), expires=-1).get(timeout=PATIENCE)


def test_a_countdown_that_is_no_number_is_refused(app: Celery) -> None:
    add: Any = app.task(name="add")(lambda x, y: x + y)
    for wrong in ("5", float("nan"), True):
        with pytest.raises(InvalidArguments, match="countdown is"):
            add.apply_async((1, 2), countdown=wrong)


META: dict[str, Any] = {
    "exc_type": "ValueError",
    "exc_message": ["no", 7],
    "exc_module": "builtins",
}


@pytest.mark.parametrize("ending", ["ignore", "return"])
def test_a_failure_that_a_task_sets_is_what_it_ends_with(app: Celery, ending: str) -> None:
    @app.task(bind=True)
    def give_up(self: Any) -> None:
        self.update_state(state="FAILURE", meta=META)
        if ending == "ignore":
            raise Ignore

    with Worker(app):
        result = give_up.delay()
        with pytest.raises(ValueError, match="no") as caught:
            result.get(timeout=PATIENCE)
        assert caught.value.args == ("no", 7)
        assert result.state == "FAILURE"


def test_other_ends_that_a_task_sets_are_refused(app: Celery) -> None:
    @app.task(bind=True)
    def done(self: Any) -> None:
        self.update_state(state="SUCCESS", meta=1)

    with Worker(app), pytest.raises(InvalidArguments, match="return a value instead"):
        done.delay().get(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("meta", "kind", "args"),
    [
        (META, ValueError, ("no", 7)),
        ({"exc_type": "KeyError", "exc_message": "x"}, KeyError, ("x",)),
        (OSError("gone"), OSError, ("gone",)),
        ("a text", Exception, ("a text",)),
        (None, Exception, (None,)),
    ],
)
def test_a_failure_is_made_of_what_celery_stores(
    meta: Any, kind: type[BaseException], args: Any
) -> None:
    made = failure_of(meta, "id")
    assert (type(made), made.args) == (kind, args)


def test_a_failure_of_a_class_that_is_not_known_has_its_text() -> None:
    made = failure_of({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "there"}, "id")
    assert isinstance(made, TaskFailure)
    assert (str(made), made.type) == ("there.Gone: x", "there.Gone")


def test_the_loggers_of_tasks_are_below_celery_s(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_task_logger("weather.of.habits")
    above = [logger]
    while above[-1].parent is not None:
        above.append(above[-1].parent)
    assert [each.name for each in above] == ["weather.of.habits", "celery.task", "celery", "root"]
    assert get_task_logger("weather.of.habits") is logger
    with caplog.at_level(logging.INFO, logger="celery"):
        logger.info("seen")
    assert caplog.messages == ["seen"]
    for name in ("celery", "celery.task", "celery.task.x", "root"):  # which are there, or below
        assert get_task_logger(name).parent is not get_task_logger(name)
    assert logging.getLogger().parent is None


def test_a_result_is_shown_as_celery_shows_it(app: Celery) -> None:
    assert repr(AsyncResult("an-id")) == "<AsyncResult: an-id>"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("revoked", (False, None, False)),
        ("expired", (False, None, True)),
        ("terminated", (True, 15, False)),
    ],
)
def test_a_receiver_is_told_why_a_call_was_revoked(app: Celery, reason: str, told: Any) -> None:
    add: Any = app.task(name="add")(lambda x, y: x + y)
    given: list[Any] = []

    def receive(**named: Any) -> None:
        given.append(tuple(named[name] for name in ("terminated", "signum", "expired")))

    signals.task_revoked.connect(receive)
    try:
        lifecycle.revoked(add, add.request, reason)
    finally:
        signals.task_revoked.disconnect(receive)
    assert given == [told]


def test_a_message_is_shown_before_it_is_sent_as_celery_shows_it(app: Celery) -> None:
    add: Any = app.task(name="add")(lambda x, y: x + y)
    given: list[Any] = []

    def receive(**named: Any) -> None:
        given.append(named)

    signals.before_task_publish.connect(receive)
    try:
        add.apply_async((1, 2), eta=datetime(2030, 1, 2, tzinfo=UTC))
        add.delay(1, y=2)
    finally:
        signals.before_task_publish.disconnect(receive)
    assert given[0]["body"][:2] == ((1, 2), {})
    assert given[0]["headers"]["eta"] == "2030-01-02T00:00:00+00:00"
    assert given[1]["body"][:2] == ((1,), {"y": 2})
    assert given[1]["headers"]["eta"] is None


def test_a_class_of_tasks_may_have_its_own_update_state(app: Celery) -> None:
    class Told(Task[..., Any]):
        told: ClassVar[list[Any]] = []

        def update_state(self, *args: Any, **named: Any) -> None:
            self.told.append(named["state"])
            super().update_state(*args, **named)

    @app.task(bind=True, base=Told)
    def give_up(self: Any) -> None:
        self.update_state(state="FAILURE", meta="no")

    with Worker(app), pytest.raises(Exception, match="no"):
        give_up.delay().get(timeout=PATIENCE)
    assert Told.told == ["FAILURE"]


def test_an_app_s_class_of_tasks_can_be_set_as_programs_with_flask_do(app: Celery) -> None:
    inside: list[str] = []

    class ContextTask(app.Task):  # type: ignore[misc, name-defined]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            inside.append(self.name)
            return self.run(*args, **kwargs)

    app.Task = ContextTask
    app.set_current()
    mine: Any = app.task(name="mine")(lambda x: x)
    shared: Any = shared_task(name="shared")(lambda x: x)
    with Worker(app):
        assert mine.delay(1).get(timeout=PATIENCE) == 1
        assert shared.delay(2).get(timeout=PATIENCE) == 2
    assert mine(3) == 3
    assert inside == ["mine", "shared", "mine"]


def test_a_class_of_apps_may_name_the_class_of_its_tasks() -> None:
    class Kind(Task[..., Any]):
        pass

    class Apps(Celery):
        task_cls = Kind

    with Apps("kinds", broker="memory://kinds") as app:
        assert isinstance(app.task(name="x")(lambda: None), Kind)


@pytest.mark.parametrize("name", ["on_init", "on_configure", "loader_cls"])
def test_a_class_of_apps_is_refused_what_nothing_would_call(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"class Apps: {name} has no effect here: "):
        type("Apps", (Celery,), {name: lambda self: None})
