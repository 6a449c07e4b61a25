"""Celery's tasks: attributes that are read and set, classes, and keywords of one's own."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import BaseModel

from cloudq import CloudQ, ConfigurationError, InvalidArguments
from cloudq.contrib.celery import (
    Celery,
    IgnoredByCloudQ,
    Task,
    chain,
    chord,
    crontab,
    exceptions,
    group,
    shared_task,
)
from cloudq.contrib.celery.attributes import REFUSED, Attribute, Attributes
from cloudq.contrib.celery.exceptions import Retry
from cloudq.contrib.celery.pytest import (
    celery_app,
    celery_class_tasks,
    celery_config,
    celery_includes,
    celery_parameters,
    celery_worker,
    celery_worker_parameters,
    celery_worker_pool,
    use_celery_app_trap,
)
from cloudq.contrib.celery.testing import start_worker
from cloudq.tasks.call_options import Options
from cloudq.testing import Worker, eventually
from cloudq.testing.waiting import PATIENCE

__all__ = [
    "celery_app",
    "celery_class_tasks",
    "celery_config",
    "celery_includes",
    "celery_parameters",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "use_celery_app_trap",
]


class Named(Task[..., Any]):
    """A base that is given by its name."""


class Point(BaseModel):
    x: int


def _run(self: Any) -> int:
    return 1


def _same(a: Any) -> Any:
    return a


class TestClasses:
    def test_an_object_keeps_its_state_and_is_the_task(
        self, celery_app: Any, celery_worker: Worker
    ) -> None:
        class Store(Task[..., Any]):
            def __init__(self, bucket: str) -> None:
                self.bucket = bucket

            def run(self, key: str) -> str:
                return f"{self.bucket}/{key}"

        made = Store("b1")
        assert made("k") == "b1/k"
        registered = celery_app.register_task(made)
        assert registered is made
        assert celery_app.tasks[made.name] is made
        assert made.name == f"{__name__}.Store"
        assert (made("k"), made.apply(("k",)).get()) == ("b1/k", "b1/k")
        assert made.delay("k").get(timeout=PATIENCE) == "b1/k"
        assert made.s("k").delay().get(timeout=PATIENCE) == "b1/k"

    def test_two_objects_of_a_class_are_two_tasks(self, celery_app: Any) -> None:
        class Store(Task[..., Any]):
            def __init__(self, bucket: str) -> None:
                self.name = f"store.{bucket}"
                self.bucket = bucket
                self.max_retries = 7

            def run(self) -> str:
                return self.bucket

        one, other = map(celery_app.register_task, (Store("a"), Store("b")))
        assert (one.name, one.apply().get()) == ("store.a", "a")
        assert (other.name, other.apply().get()) == ("store.b", "b")
        assert one.policy.max_retries == one.max_retries == 7

    def test_run_may_be_inherited(self, celery_app: Any) -> None:
        class Base(celery_app.Task):
            abstract = True
            factor = 2
            track_started = True

            def run(self, number: int) -> int:
                return self.factor * number

        class Triple(Base):
            name = "triple"
            factor = 3

        task = celery_app.register_task(Triple)
        assert (task(2), task.apply((2,)).get(), task.name) == (6, 6, "triple")
        assert (task.track_started, task.policy.track_started) == (True, True)

    def test_what_cannot_be_a_task_says_why(self, celery_app: Any) -> None:
        class Nothing(Task[..., Any]):
            pass

        class Plain:
            def run(self) -> None: ...

        with pytest.raises(ConfigurationError, match="no method run"):
            celery_app.register_task(Nothing())
        with pytest.raises(ConfigurationError, match="derive it from Task"):
            celery_app.register_task(Plain())

    @pytest.mark.parametrize(
        ("name", "value"),
        [("acks_late", False), ("routing_key", "other"), ("store_errors_even_if_ignored", True)],
    )
    def test_what_the_decorator_refuses_is_refused_everywhere(
        self, celery_app: Any, name: str, value: Any
    ) -> None:
        kind: Any = type("Base", (celery_app.Task,), {name: value, "run": _run})
        with pytest.raises(ConfigurationError, match=name):
            celery_app.task(base=kind)(lambda: 1)
        with pytest.raises(ConfigurationError, match=name):
            celery_app.register_task(kind())
        task = celery_app.task(name="work")(lambda: 1)
        with pytest.raises(ConfigurationError, match=name):
            setattr(task, name, value)
        assert name not in vars(task)

    def test_what_a_class_overrides_is_called_or_refused(self, celery_app: Any) -> None:
        bound: list[Any] = []

        class Bound(celery_app.Task):
            @classmethod
            def on_bound(cls, app: Any) -> None:
                bound.append(app)

            def apply_async(
                self, args: Any = None, kwargs: Any = None, *more: Any, **o: Any
            ) -> Any:
                return super().apply_async(args, kwargs, *more, **{**o, "queue": "mine"})

        task = celery_app.task(base=Bound, name="bound")(_same)
        assert bound == [celery_app]
        sent = [task.apply_async((1,), None, "my-id"), task.delay(2), task.s(3).delay()]
        assert sent[0].id == "my-id"
        with start_worker(celery_app, queues="mine"):
            assert [result.get(timeout=PATIENCE) for result in sent] == [1, 2, 3]
        for name in ("on_replace", "start_strategy", "from_config"):
            kind: Any = type("Odd", (celery_app.Task,), {name: _run, "run": _run})
            with pytest.raises(ConfigurationError, match=name):
                celery_app.register_task(kind())

    def test_what_a_class_has_takes_effect(self, celery_app: Any) -> None:
        class Base(celery_app.Task):
            typing = False
            rate_limit = None
            acks_late = None
            time_limit = 5
            throws = (KeyError,)

        with pytest.warns(IgnoredByCloudQ, match="throws"):
            task = celery_app.task(base=Base, name="work")(_same)
        assert task.policy.time_limit == 5
        with pytest.raises(TypeError):
            task.apply((1, 2)).get()


class TestAttributes:
    def test_those_that_are_set_take_effect(self, celery_app: Any) -> None:
        task: Any = celery_app.task(name="work", max_retries=1)(lambda: 1)
        task.time_limit = 9
        task.max_retries = 7
        task.rate_limit = "5/m"
        task.ignore_result = True
        task.default_retry_delay = 2
        policy = task.policy
        assert (policy.time_limit, policy.max_retries, policy.ignore_result) == (9, 7, True)
        assert policy.throttle is not None
        assert policy.default_retry_delay == 2
        assert (task.time_limit, task.max_retries, task.rate_limit) == (9, 7, "5/m")
        task.max_retries = None
        assert task.policy.retry_forever
        del task.max_retries, task.time_limit
        assert (task.policy.max_retries, task.max_retries) == (1, 1)
        assert (task.policy.time_limit, task.time_limit) == (None, None)
        assert task.policy.ignore_result is True
        celery_app.conf.task_annotations = {"*": {"time_limit": 3, "ignore_result": False}}
        assert (task.time_limit, task.policy.ignore_result) == (3, True)

    def test_those_that_are_wrong_say_why_and_change_nothing(self, celery_app: Any) -> None:
        task: Any = celery_app.task(name="work", time_limit=4)(lambda: 1)
        for name, value in (("time_limit", "soon"), ("soft_time_limit", 9), ("aliases", ["x"])):
            with pytest.raises(ConfigurationError, match=name):
                setattr(task, name, value)
            assert name not in vars(task)
        task.ignore_result = True
        assert (task.policy.time_limit, task.policy.soft_time_limit) == (4, None)

    def test_what_is_patched_on_a_shared_task_reaches_self(self, celery_app: Any) -> None:
        @shared_task(bind=True, name="shared.flaky", max_retries=2)
        def flaky(self: Any) -> None:
            try:
                raise KeyError("gone")
            except KeyError as error:
                raise self.retry(exc=error) from error

        celery_app.set_current()
        task: Any = flaky
        with patch.object(task, "retry", side_effect=Retry()) as retry:
            with pytest.raises(Retry):
                task()
            assert isinstance(retry.call_args.kwargs["exc"], KeyError)
        with pytest.raises(KeyError):
            task()
        with patch.object(task, "max_retries", 9):
            assert celery_app.tasks["shared.flaky"].policy.max_retries == 9
        assert celery_app.tasks["shared.flaky"].policy.max_retries == 2
        task.time_limit = 8
        assert celery_app.tasks["shared.flaky"].policy.time_limit == 8

    def test_run_and_hooks_may_be_patched(self, celery_app: Any) -> None:
        task: Any = celery_app.task(name="work")(lambda: 1)
        with patch.object(task, "run", return_value=2), patch.object(task, "on_success") as hook:
            assert (task(), task.apply().get()) == (2, 2)
            assert hook.called
        assert (task(), task.apply().get()) == (1, 1)

    def test_all_of_celerys_can_be_read(self, celery_app: Any) -> None:
        task: Any = celery_app.task(name="work", serializer="yaml", rate_limit=3)(lambda: 1)
        names = [name for name, value in vars(Attributes).items() if isinstance(value, Attribute)]
        assert len(names) > 30
        assert {name: getattr(task, name) for name in names}["serializer"] == "yaml"
        assert (task.rate_limit, task.default_retry_delay, task.acks_late) == (3, 180, True)
        assert (Task.max_retries, Task.default_retry_delay) == (3, 180)
        assert task.backend is celery_app.backend

    @pytest.mark.parametrize("name", REFUSED)
    def test_those_that_there_are_not_say_why(self, celery_app: Any, name: str) -> None:
        task = celery_app.task(name="work")(lambda: 1)
        with pytest.raises(AttributeError, match=name) as caught:
            getattr(task, name)
        assert REFUSED[name] in str(caught.value)

    def test_a_request_may_be_pushed_for_a_test(self, celery_app: Any) -> None:
        @celery_app.task(bind=True, max_retries=1)
        def work(self: Any) -> int:
            return self.request.retries

        task: Any = work
        task.push_request(retries=4, id="one")
        assert (task(), task.request.id) == (4, "one")
        task.pop_request()
        assert task() == 0


def test_a_shared_task_is_the_current_apps_task(celery_app: Any) -> None:
    @shared_task(name="shared.same", mark=1)
    def same() -> int:
        return 1

    celery_app.set_current()
    shared: Any = same
    task = celery_app.tasks["shared.same"]
    assert shared == task
    assert shared != celery_app.task(name="other")(_same)
    assert isinstance(shared, Task)
    assert pickle.loads(pickle.dumps(task)) is task
    assert task.options(countdown=5) is not task
    assert (task.request.id, Task.name) == (None, None)


def test_a_shared_task_with_keywords_of_its_own_is_one_of_plain_apps_too(celery_app: Any) -> None:
    with CloudQ("plain", broker="memory://plain-shared") as plain:

        @shared_task(name="shared.owned", mark=3)
        def owned() -> int:
            return 1

        assert celery_app.tasks["shared.owned"].mark == 3
        made: Any = plain.tasks["shared.owned"]
        assert (made.mark, made()) == (3, 1)


def test_a_base_may_be_given_by_its_name(celery_app: Any) -> None:
    task = celery_app.task(name="named", base=f"{__name__}.Named", mark=2)(_same)
    assert (isinstance(task, Named), task.mark) == (True, 2)
    assert isinstance(celery_app.task(name="plain", base=f"{__name__}:Named")(_same), Named)
    with pytest.raises(ConfigurationError, match="nowhere"):
        celery_app.task(base="nowhere.Base")(_same)


def test_an_exchange_beside_a_queue_says_no_more(celery_app: Any, celery_worker: Worker) -> None:
    task = celery_app.task(name="work")(_same)
    options: Any = {"queue": "celery", "exchange": "celery", "routing_key": "celery"}
    assert task.apply_async((1,), **options).get(timeout=PATIENCE) == 1
    assert celery_app.send_task("work", (2,), **options).get(timeout=PATIENCE) == 2


class TestKeywords:
    def test_own_keywords_are_attributes(self, celery_app: Any, celery_worker: Worker) -> None:
        seen: list[Any] = []

        def on_success(self: Any, value: Any, *more: Any) -> None:
            seen.append((self.db, value))

        @celery_app.task(bind=True, db="orders", on_success=on_success)
        def work(self: Any) -> str:
            return self.db

        @shared_task(bind=True, name="shared.db", db="users")
        def other(self: Any) -> str:
            return self.db

        assert work.delay().get(timeout=PATIENCE) == "orders"
        assert seen == [("orders", "orders")]
        celery_app.set_current()
        assert (other(), celery_app.tasks["shared.db"].db) == ("users", "users")

    def test_what_looks_like_a_misspelled_option_is_refused(self, celery_app: Any) -> None:
        for name in ("max_retry", "acks_lately", "time_limits"):
            with pytest.raises(TypeError, match=name):
                celery_app.task(**{name: 1})

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_without_typing_the_call_of_the_function_tells(
        self, celery_app: Any, celery_worker: Worker
    ) -> None:
        @celery_app.task(typing=False)
        def work(a: int) -> int:
            return a

        result = work.delay(1, 2)
        with pytest.raises(TypeError):
            result.get(timeout=PATIENCE)
        assert work.delay(3).get(timeout=PATIENCE) == 3
        task: Any = celery_app.task(name="other")(_same)
        with pytest.raises(InvalidArguments):
            task.delay()
        task.typing = False
        assert task.delay().id
        lax: Any = Celery("lax", broker="memory://lax", strict_typing=False)
        assert lax.task(name="other")(_same).delay().id

    def test_a_call_may_have_another_name_in_logs(
        self, celery_app: Any, celery_worker: Worker
    ) -> None:
        class Named(Task[..., Any]):
            def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
                return f"named.{args[0]}"

        @celery_app.task(base=Named, bind=True)
        def work(self: Any, a: str) -> str:
            return self.request.shadow

        assert work.delay("x").get(timeout=PATIENCE) == "named.x"


class TestEager:
    def test_ends_are_celerys(self, celery_app: Any) -> None:
        @celery_app.task(ignore_result=True)
        def kept() -> int:
            return 6

        @celery_app.task
        def ignored() -> None:
            raise exceptions.Ignore

        @celery_app.task
        def rejected() -> None:
            raise exceptions.Reject("why", True)

        @celery_app.task
        def add(a: int, b: int) -> int:
            return a + b

        assert (kept.apply().get(), kept.apply().result) == (6, 6)
        result = ignored.apply()
        assert (result.state, result.get(), result.successful()) == ("IGNORED", None, False)
        assert isinstance(result.result, exceptions.Ignore)
        result = rejected.apply()
        assert (result.state, result.get()) == ("REJECTED", None)
        assert isinstance(result.result, exceptions.Reject)
        assert chain(ignored.s(), add.si(1, 1)).apply().successful() is False
        celery_app.conf.task_always_eager = True
        assert kept.delay().get() == 6
        assert rejected.delay().state == "REJECTED"

    def test_a_chain_ends_at_a_step_that_is_ignored_or_rejected(self, celery_app: Any) -> None:
        ran: list[str] = []

        @celery_app.task
        def ends(how: str) -> None:
            raise getattr(exceptions, how)

        @celery_app.task
        def note(*args: Any) -> int:
            ran.append("note")
            return 1

        for how, state in (("Ignore", "IGNORED"), ("Reject", "REJECTED")):
            end = ends.si(how)
            results = [
                chain(end, note.si(), note.s()).apply(),
                chain(note.si(), end, note.s()).apply(),
                group([chain(end, note.si())]).apply()[0],
            ]
            assert [(each.state, each.get(), each.failed()) for each in results] == [
                (state, None, False)
            ] * 3
            assert [each.parent and each.parent.state for each in results] == [
                None,
                "SUCCESS",
                None,
            ]
            assert ran == ["note"]
            ran.clear()

    def test_a_task_that_exits_ends_the_program(self, celery_app: Any) -> None:
        @celery_app.task
        def exits() -> None:
            raise SystemExit(3)

        calls: list[Any] = [exits.apply, chain(exits.si(), exits.si()).apply]
        for call in calls:
            with pytest.raises(SystemExit) as caught:
                call()
            assert caught.value.code == 3

    def test_tries_before_it_are_counted(self, celery_app: Any) -> None:
        @celery_app.task(bind=True, max_retries=3, default_retry_delay=0)
        def tries(self: Any, seen: list[int] | None = None) -> int:
            if self.request.retries < 3:
                raise self.retry()
            return self.request.retries

        @celery_app.task(bind=True)
        def counted(self: Any, *args: Any) -> int:
            return self.request.retries

        assert counted.apply(retries=2).get() == 2
        assert tries.apply(retries=1).get() == 3
        assert counted.apply(retries=2, link=counted.s()).get() == 2
        assert counted.apply(retries=None).get() == 0
        with pytest.warns(IgnoredByCloudQ, match="log"):
            counted.apply(loglevel=10, logfile="x")

    def test_exceptions_are_raised_where_celery_raises_them(self, celery_app: Any) -> None:
        @celery_app.task
        def boom(*args: Any) -> None:
            raise KeyError("x")

        @celery_app.task
        def good(*args: Any) -> int:
            return 1

        @celery_app.task(bind=True, max_retries=2, default_retry_delay=0)
        def again(self: Any) -> None:
            raise self.retry(exc=OSError("busy"))

        workflows: list[Any] = [
            chain(boom.s(), good.s()),
            chain(good.s(), boom.s()),
            group(good.s(), boom.s()),
        ]
        assert boom.apply().state == "FAILURE"
        with pytest.raises(KeyError):
            boom.apply(throw=True)
        with pytest.raises(KeyError):
            workflows[0].apply()
        for workflow in workflows[1:]:
            assert workflow.apply().failed()
        with pytest.raises(OSError, match="busy"):
            again.apply().get()
        with pytest.raises(Retry) as caught:
            again.apply(throw=True)
        assert isinstance(caught.value.exc, OSError)
        celery_app.conf.task_eager_propagates = True
        assert boom.apply(throw=False).state == "FAILURE"
        for call in (boom.apply, *(workflow.apply for workflow in workflows)):
            with pytest.raises(KeyError):
                call()
        celery_app.conf.task_always_eager = True
        for call in (boom.delay, *(workflow.delay for workflow in workflows)):
            with pytest.raises(KeyError):
                call()
        with pytest.raises(Retry):
            again.delay()
        assert chain(good.s(), good.s()).delay().get() == 1


def test_exceptions_are_made_as_celerys(celery_app: Any, celery_worker: Worker) -> None:
    cause = KeyError("k")
    made = Retry("busy", cause, 5)
    assert (made.message, made.exc, made.when, made.countdown) == ("busy", cause, 5, 5)
    assert Retry(exc=cause, when=datetime.now(UTC) + timedelta(hours=1)).countdown == pytest.approx(
        3600, abs=60
    )
    rejected = exceptions.Reject("why", True)
    assert (rejected.reason, rejected.requeue) == ("why", True)
    spent = exceptions.MaxRetriesExceededError("no", task_args=(1,), task_kwargs={"a": 2})
    assert (spent.task_args, spent.task_kwargs, str(spent)) == ((1,), {"a": 2}, "no")

    @celery_app.task(bind=True, max_retries=0)
    def gives_up(self: Any, a: int, b: int = 0) -> None:
        raise self.retry()

    for result in (gives_up.apply((1,), {"b": 2}), gives_up.delay(1, b=2)):
        with pytest.raises(exceptions.MaxRetriesExceededError) as caught:
            result.get(timeout=PATIENCE)
        assert list(caught.value.task_args) == [1]
        assert caught.value.task_kwargs == {"b": 2}


@pytest.mark.parametrize("wrong", [{"minute": 60}, {"hour": "x"}, {"day_of_month": 0}])
def test_a_wrong_crontab_is_a_value_error(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        crontab(**wrong)
    assert isinstance(caught.value, ConfigurationError)


class TestErrbacks:
    @pytest.mark.parametrize("eagerly", [False, True])
    def test_they_get_the_call_the_exception_and_the_traceback(
        self, celery_app: Any, celery_worker: Worker, eagerly: bool
    ) -> None:
        seen: list[Any] = []

        @celery_app.task
        def boom(x: int) -> None:
            raise ValueError("bad", x)

        @celery_app.task(bind=True)
        def told(self: Any, request: Any, exc: Any, traceback: Any, more: str = "") -> None:
            seen.append((request, exc, traceback, more, self.request.id))

        @celery_app.task
        def star(*args: Any) -> None:
            seen.append((*args, "", ""))

        @celery_app.task
        def old(task_id: str) -> None:
            seen.append(task_id)

        for errback in (told.s(), told.s(more="m"), star.s(), old.s()):
            seen.clear()
            send = boom.apply if eagerly else boom.apply_async
            result = send((3,), link_error=errback)
            eventually(lambda: seen)
            if errback.task == old.name:
                assert seen == [result.id]
                continue
            [(request, exc, traceback, more, own_id)] = seen
            assert (request.id, request.get("task"), request.args) == (result.id, boom.name, [3])
            assert (request.get("nothing", 5), request.errbacks, request.kwargs) == (5, None, {})
            assert type(exc) is ValueError
            assert exc.args == (("('bad', 3)",) if eagerly else ("bad", 3))
            assert "boom" in traceback
            assert more in ("", "m")
            assert own_id != result.id

    def test_a_dict_is_passed_as_it_is(self, celery_app: Any, celery_worker: Worker) -> None:
        @celery_app.task
        def show(*args: Any) -> Any:
            return args

        for first in ({"id": 1}, {"id": 1, "task": 2, "retries": 3, "own": 4}):
            assert show.delay(first, "a", "b").get(timeout=PATIENCE) == [first, "a", "b"]


def test_a_request_has_celerys_fields(celery_app: Any, celery_worker: Worker) -> None:
    @celery_app.task(bind=True)
    def show(self: Any, *args: Any) -> Any:
        request = self.request
        called = [len(each or ()) for each in (request.callbacks, request.errbacks, request.chain)]
        texts = [request.argsrepr, request.kwargsrepr, request.lang]
        headers = [
            request.get("tenant"),
            request.get("nothing", 5),
            (request.headers or {}).get("tenant"),
        ]
        return [called, texts, headers, request.group_index, request.ignore_result]

    plain = show.apply_async((1,), headers={"tenant": "t"}, link_error=show.si()).get(PATIENCE)
    assert plain == [[0, 1, 0], ["(1,)", "{}", "py"], ["t", 5, "t"], None, False]
    linked = show.apply_async(link=show.si()).get(timeout=PATIENCE)
    assert linked[0] == [1, 0, 0]
    [one, other] = chord([show.s(), show.s()], show.si())().parent.get(timeout=PATIENCE)
    assert [one[3], other[3]] == [0, 1]

    @celery_app.task(bind=True)
    def missing(self: Any) -> Any:
        return self.request.nothing

    with pytest.raises(AttributeError, match="nothing"):
        missing.apply().get()


def test_a_request_has_them_in_celerys_form(celery_app: Any, celery_worker: Worker) -> None:
    @celery_app.task(bind=True)
    def show(self: Any, *args: Any) -> Any:
        found = self.request
        return [found.id, found.headers, found.utc, found.delivery_info, found.properties and 1]

    queue = {"exchange": "", "routing_key": "celery", "redelivered": False, "priority": 0}
    result = show.delay()
    assert result.get(timeout=PATIENCE) == [result.id, None, None, queue, 1]
    eager = {"is_eager": True, "exchange": None, "routing_key": None, "priority": None}
    assert show.apply().get()[1:] == [None, None, eager, None]
    assert show() == [None, None, None, None, None]
    assert (show.request.id, show.request.called_directly) == (None, True)


@pytest.mark.parametrize("eagerly", [False, True])
def test_what_a_program_notes_in_a_request_is_kept_while_it_runs(
    celery_app: Any, celery_worker: Worker, eagerly: bool
) -> None:
    class Timed(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            self.request.mine = self.request.get("mine", 0) + 1

    @celery_app.task(bind=True, base=Timed)
    def show(self: Any) -> Any:
        self.request.update(other=5, retries=7)
        return [self.request.mine, self.request.other, self.request.retries]

    for _ in range(3):
        result = show.apply() if eagerly else show.delay()
        assert result.get(timeout=PATIENCE) == [1, 5, 7]
    with pytest.raises(AttributeError):
        _ = show.request.mine


@pytest.mark.filterwarnings("ignore::cloudq.contrib.celery.IgnoredByCloudQ")
def test_the_texts_of_arguments_are_those_that_were_given(
    celery_app: Any, celery_worker: Worker
) -> None:
    @celery_app.task(bind=True)
    def show(self: Any, *args: Any, **kwargs: Any) -> Any:
        return [self.request.argsrepr, self.request.kwargsrepr, self.request.headers]

    @celery_app.task(bind=True)
    def inner(self: Any) -> Any:
        return show.apply_async((1,), argsrepr="I").as_tuple()

    given: dict[str, Any] = {"argsrepr": "A", "kwargsrepr": "K"}
    assert show.apply_async((1,), **given).get(timeout=PATIENCE) == ["A", "K", None]
    with_headers = show.apply_async((1,), headers={"n": 1}, **given)
    assert with_headers.get(timeout=PATIENCE) == ["A", "K", {"n": 1}]
    assert show.s(1).set(**given).delay().get(timeout=PATIENCE) == ["A", "K", None]
    assert show.apply((1,), **given).get() == ["A", "K", None]
    # What follows a call has arguments, and texts, of its own.
    last = chain(show.s(1).set(**given), show.si(2))()
    assert last.get(timeout=PATIENCE) == ["(2,)", "{}", None]
    assert last.parent.get(timeout=PATIENCE) == ["A", "K", None]
    within = inner.delay().get(timeout=PATIENCE)[0][0]
    assert celery_app.AsyncResult(within).get(timeout=PATIENCE) == ["I", "{}", None]


def test_it_is_said_where_the_arguments_are_shown(celery_app: Any) -> None:
    @celery_app.task
    def secret(word: str) -> None: ...

    with pytest.warns(IgnoredByCloudQ, match="task_events_args"):
        secret.apply_async(("x",), argsrepr="***")


class TestAppTask:
    def test_the_class_of_an_apps_tasks_knows_it(self, celery_app: Any) -> None:
        class Base(celery_app.Task):  # pyright: ignore[reportUntypedBaseClass]
            pass

        class Own(Task[..., Any]):
            pass

        assert celery_app.Task.app is Base.app is Base().app is celery_app
        assert issubclass(celery_app.Task, Task)
        with Celery("owned", broker="memory://owned", task_cls=Own, set_as_current=False) as app:
            other: Any = app
            assert issubclass(other.Task, Own)
            assert (other.Task.app, Own.app) == (other, celery_app)

            @other.task(base=Base)
            def work() -> None: ...

            assert work.app is other

    def test_a_task_that_there_is_not_is_not_registered(self, celery_app: Any) -> None:
        with pytest.raises(exceptions.NotRegistered, match=r"'shop\.nope'"):
            celery_app.tasks["shop.nope"]
        assert celery_app.tasks.get("shop.nope") is None
        assert "shop.nope" not in celery_app.tasks


class TestCallOptions:
    @pytest.mark.filterwarnings("ignore::cloudq.contrib.celery.IgnoredByCloudQ")
    def test_headers_may_be_of_any_json(self, celery_app: Any, celery_worker: Worker) -> None:
        @celery_app.task(bind=True)
        def show(self: Any) -> Any:
            request = self.request
            return [dict(request.headers), request.get("n"), request.tenant]

        given = {"n": 5, "flag": True, "tenant": "t", "none": None, "list": [1, "a"]}
        options: Any = {"headers": given, "compression": "gzip", "argsrepr": "(***)"}
        expected = [given, 5, "t"]
        assert show.apply_async(**options).get(timeout=PATIENCE) == expected
        assert show.s().set(**options).delay().get(timeout=PATIENCE) == expected
        assert show.apply(headers=given).get() == expected
        with pytest.raises(ConfigurationError, match="JSON"):
            show.apply_async(headers={"a": object()})
        with pytest.raises(ConfigurationError, match="brotli"):
            show.apply_async(compression="brotli")

    def test_a_priority_on_a_plain_queue_is_told_of_once(
        self, celery_app: Any, celery_worker: Worker
    ) -> None:
        @celery_app.task
        def work() -> int:
            return 1

        @celery_app.task(priority=3)
        def other() -> int:
            return 2

        with pytest.warns(IgnoredByCloudQ, match="priority_queues"):
            result = work.apply_async(priority=9)
        assert other.delay().get(timeout=PATIENCE) == 2
        assert result.get(timeout=PATIENCE) == 1
        app: Any = Celery("levels", broker="memory://levels", priority_queues=["celery"])
        [message] = [app.publisher.builder.queue_of("x", (), {}, Options(priority=9))]
        assert message == "celery-high"

    def test_throw_is_for_calls_that_run_at_once(self, celery_app: Any) -> None:
        @celery_app.task
        def boom() -> None:
            raise KeyError("x")

        assert boom.apply_async(throw=True).id
        celery_app.conf.task_always_eager = True
        assert boom.apply_async(throw=False).failed()
        with pytest.raises(KeyError):
            boom.apply_async(throw=True)

    def test_a_model_comes_back_as_celery_gives_it(
        self, celery_app: Any, celery_worker: Worker
    ) -> None:
        @celery_app.task(pydantic=True)
        def move(point: Point) -> Point:
            assert isinstance(point, Point)
            return Point(x=point.x + 1)

        for result in (move.delay({"x": 1}), move.delay(Point(x=1)), move.apply(({"x": 1},))):
            assert result.get(timeout=PATIENCE) == {"x": 2}
