"""The routes of calls, the settings of tasks from outside, and the apps of shared tasks."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cloudq import CloudQ, ConfigurationError, EncodeError, State, Task
from cloudq.app.autodiscover import discover
from cloudq.app.shared_task import APPS, Apps, shared_task
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE


def queue_of(app: CloudQ, name: str, **options: Any) -> str:
    """Send a call of this name and find the queue on which it is received."""
    sent = app.send_task(name, **options)
    for queue in [*app.queues(), "from-function", "at-call"]:
        for delivery in app.broker.receive(queue, count=10, wait=0.0, lease=60):
            app.broker.ack([delivery])
            if sent.id.encode() in delivery.body:
                return queue
    raise AssertionError(f"{sent.id} is nowhere")


def by_function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
    if name == "import.large" and kwargs.get("size", 0) > 10:
        return {"queue": "from-function"}
    return None


ROUTES: Any = {
    "shop.mail.*": "mail",
    "shop.mail.urgent": {"queue": "urgent"},
    re.compile(r"(video|image)\..*"): {"queue": "media"},
}


@pytest.fixture
def routed() -> Iterator[CloudQ]:
    with CloudQ("routed", broker="memory://routed", task_routes=ROUTES) as app:
        yield app


def test_names_globs_and_expressions_route(routed: CloudQ) -> None:
    assert queue_of(routed, "shop.mail.send") == "mail"
    assert queue_of(routed, "shop.mail.urgent") == "urgent"
    assert queue_of(routed, "video.encode") == "media"
    assert queue_of(routed, "my.video.encode") == "default"
    assert routed.queues() == ["default", "mail", "media", "urgent"]


def test_the_call_and_the_task_stand_above_a_route(routed: CloudQ) -> None:
    routed.task(name="shop.mail.own", queue="urgent")(lambda: 1)
    assert queue_of(routed, "shop.mail.own") == "urgent"
    assert queue_of(routed, "shop.mail.send", queue="at-call") == "at-call"


def test_a_list_is_asked_in_its_order_and_a_function_sees_the_call(routed: CloudQ) -> None:
    routed.conf.task_routes = [by_function, [("import.*", "imports")], {"*": "rest"}]
    assert queue_of(routed, "import.large", kwargs={"size": 11}) == "from-function"
    assert queue_of(routed, "import.large", kwargs={"size": 1}) == "imports"
    assert queue_of(routed, "other") == "rest"


def test_pairs_and_dotted_names_of_functions_route(
    routed: CloudQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "life_routers.py").write_text(
        "def route(name, args, kwargs, options, task=None):\n    return 'mail'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    routed.conf.task_routes = [("a.*", "urgent"), (re.compile("b"), {"queue": "media"})]
    assert [queue_of(routed, name) for name in ("a.x", "b", "c")] == ["urgent", "media", "default"]
    routed.conf.task_routes = ("life_routers.route", {"x": "mail"})
    assert queue_of(routed, "any", queue="at-call") == "at-call"
    assert queue_of(routed, "any") == "mail"


def test_a_route_may_have_other_options(routed: CloudQ) -> None:
    routed.conf.task_routes = {"t": {"queue": "mail", "countdown": 500, "headers": {"h": "1"}}}
    routed.send_task("t")
    (waiting,) = routed.broker.scheduled("mail", count=1)
    assert b'"h":"1"' in waiting.body


def test_a_route_s_serializer_writes_the_arguments(routed: CloudQ) -> None:
    keys = {"signing_keys": {"k": "x" * 32}, "accept_content": ["json", "pickle", "msgpack"]}
    routed.configure(**keys, task_routes={"odd": {"serializer": "pickle"}})
    seen: list[Any] = []
    odd: Any = routed.task(name="odd")(seen.append)
    odd.delay(complex(1, 2))  # which JSON cannot say
    drain(routed)
    assert seen == [complex(1, 2)]
    plain: Any = routed.task(name="plain")(seen.append)
    with pytest.raises(EncodeError):
        plain.delay(complex(1, 2))
    # What the call and the task say stands above the route.
    with pytest.raises(EncodeError):
        odd.apply_async((complex(1, 2),), serializer="json")
    own: Any = routed.task(name="own", serializer="json")(seen.append)
    routed.conf.task_routes = {"own": {"serializer": "pickle"}}
    with pytest.raises(EncodeError):
        own.delay(complex(1, 2))


def test_a_route_s_compression_and_serializer_form_the_body(routed: CloudQ) -> None:
    form = {"serializer": "msgpack", "compression": "zlib"}
    routed.configure(accept_content=["json", "msgpack"], task_routes={"*": form})
    wide: Any = routed.task(name="wide")(len)
    wide.delay(["wide"] * 1000)
    (wide.s(["wide"] * 1000) | wide.si([])).delay()
    bodies = [peeked.body for peeked in routed.broker.admin.peek("default", count=9)]
    assert [(b"wide" in body, len(body) < 1000) for body in bodies] == [(False, True)] * 2
    assert len(drain(routed)) == 3


def test_a_route_by_function_sees_the_arguments_of_a_call(routed: CloudQ) -> None:
    seen: list[Any] = []

    def by_size(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> str:
        seen.append(args)
        return "mail"

    routed.conf.task_routes = [by_size]
    routed.send_task("t", (Decimal("1.5"),))
    assert seen == [(Decimal("1.5"),)]


@pytest.mark.parametrize(
    ("routes", "reason"),
    [
        (5, "5 is no route"),
        ({"t": 5}, "the route of t is 5"),
        ({"t": {"que": "x"}}, "the route of t has 'que', .* did you mean queue"),
        ({"t": {"exchange": "x"}}, "has 'exchange'"),
        ({5: "x"}, "5 is no task's name"),
        ("no.such.function", "cannot import 'no.such.function'"),
        ("os.sep", "os.sep is not a function"),
    ],
)
def test_routes_that_cannot_be_are_an_error_of_the_settings(routes: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        CloudQ("x", task_routes=routes)


def test_workflows_and_prepared_calls_are_routed_too(routed: CloudQ) -> None:
    task: Any = routed.task(name="shop.mail.add")(lambda x, y: x + y)
    (task.s(1, 2) | task.s(3)).delay()
    routed.publish([task.prepare(1, 1)])
    assert len(drain(routed, ["mail"])) == 3


# ---- annotations


def test_annotations_stand_above_the_decorator_and_the_star_above_all(plain: CloudQ) -> None:
    before = plain.task(name="a", time_limit=9)(print)
    plain.configure(task_annotations={"a": {"time_limit": 1, "queue": "q"}, "*": {"time_limit": 2}})
    assert (before.policy.time_limit, before.policy.queue) == (2, "q")
    after = plain.task(name="b", queue="own")(print)
    assert (after.policy.time_limit, after.policy.queue) == (2, "own")
    plain.configure(task_annotations=None)
    assert (before.policy.time_limit, before.policy.queue) == (9, None)


def test_annotations_can_be_objects_and_lists_of_which_the_first_counts(plain: CloudQ) -> None:
    class Slow:
        def annotate(self, task: Task[..., Any]) -> Any:
            return {"time_limit": 7} if task.name.startswith("slow.") else None

    plain.configure(task_annotations=[Slow, {"slow.a": {"time_limit": 3}, "b": {"time_limit": 4}}])
    assert plain.task(name="slow.a")(print).policy.time_limit == 7
    assert plain.task(name="b")(print).policy.time_limit == 4


def test_an_annotation_can_be_a_hook(plain: CloudQ) -> None:
    seen: list[Any] = []

    def on_failure(self: Task[..., Any], exc: Any, *more: Any) -> None:
        seen.append((self.name, repr(exc)))

    plain.configure(task_annotations={"*": {"on_failure": on_failure}})
    task: Any = plain.task(name="t")(lambda: 1 / 0)
    task.apply()
    assert seen == [("t", "ZeroDivisionError('division by zero')")]
    plain.configure(task_annotations={})
    task.apply()
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"t": {"tiem_limit": 1}}, "'tiem_limit' of t is no option"),
        ({"t": {"name": "x"}}, "'name' of t is no option that can be given so"),
        (object(), "is no mapping and has no annotate"),
        ({"t": {"time_limit": -1}}, "time_limit is -1"),
    ],
)
def test_annotations_that_cannot_be_are_an_error(
    plain: CloudQ, annotations: Any, reason: str
) -> None:
    plain.task(name="t")(print)
    with pytest.raises(ConfigurationError, match=reason):
        plain.configure(task_annotations=annotations)
    assert plain.conf.task_annotations is None
    plain.task(name="u")(print)  # the settings are those from before


# ---- shared tasks


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Apps:
    """No app and no shared task of any other test."""
    apps = Apps()
    monkeypatch.setattr("cloudq.app.shared_task.APPS", apps)
    monkeypatch.setattr("cloudq.app.app.APPS", apps)
    return apps


def test_a_shared_task_is_in_every_app_and_acts_for_the_current_one(alone: Apps) -> None:
    first = CloudQ("first", broker="memory://first")

    @shared_task(name="shared", bind=True)
    def shared(self: Task[..., Any], x: int) -> str:
        return f"{self.app.name} {x}"  # type: ignore[attr-defined]

    second = CloudQ("second", broker="memory://second")
    assert "shared" in first.tasks
    assert "shared" in second.tasks
    assert (shared(1), shared.apply((2,)).get()) == ("second 1", "second 2")
    first.set_default()
    result = shared.delay(3)
    drain(first)
    assert result.get() == "first 3"
    second.set_current()
    assert shared(4) == "second 4"
    elsewhere: list[str] = []
    thread = threading.Thread(target=lambda: elsewhere.append(shared(5)))
    thread.start()
    thread.join()
    assert elsewhere == ["first 5"]
    assert isinstance(shared, Task)
    assert shared.name == "shared"


def test_a_plain_shared_task_keeps_its_one_task_in_an_app(alone: Apps) -> None:
    app = CloudQ("one", broker="memory://one")

    @shared_task
    def plainly(x: int) -> int:
        return x

    assert plainly.s(1).task == plainly.name
    assert plainly.app is app
    assert app.tasks[plainly.name].delay_on_commit.__self__ is plainly.options.__self__  # type: ignore[attr-defined]


def test_a_shared_task_without_an_app_says_what_to_do(alone: Apps) -> None:
    @shared_task
    def lonely() -> int:
        return 1

    with pytest.raises(ConfigurationError, match="there is no app yet"):
        lonely.delay()


def test_the_process_has_its_apps() -> None:
    app = CloudQ("last", broker="memory://last")
    assert app in APPS._all  # pyright: ignore[reportPrivateUsage]


# ---- discovery


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("life_shop", "life_mail", "life_empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    task = "from cloudq import shared_task\n@shared_task(name='{0}')\ndef run(): return '{0}'\n"
    (tmp_path / "life_shop" / "tasks.py").write_text(task.format("life_shop.run"))
    (tmp_path / "life_mail" / "jobs.py").write_text(task.format("life_mail.run"))
    (tmp_path / "life_broken").mkdir()
    (tmp_path / "life_broken" / "__init__.py").write_text("")
    (tmp_path / "life_broken" / "tasks.py").write_text("import life_nowhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith("life_")]:
        del sys.modules[module]


def test_tasks_are_discovered_when_the_app_is_loaded(alone: Apps, packages: Path) -> None:
    app = CloudQ("finds", broker="memory://finds")
    app.autodiscover_tasks(["life_shop", "life_empty"])
    app.autodiscover_tasks(lambda: ["life_mail"], related_name="jobs")
    assert app.tasks == {}
    app.load()
    assert set(app.tasks) == {"life_shop.run", "life_mail.run"}


def test_discovery_can_be_forced_and_import_packages_themselves(
    alone: Apps, packages: Path
) -> None:
    app = CloudQ("forced", broker="memory://forced")
    app.autodiscover_tasks(["life_shop"], force=True)
    assert "life_shop.tasks" in sys.modules
    assert discover(["life_empty", "life_mail"], None) == ["life_empty", "life_mail"]
    assert discover(["life_mail"], "tasks") == []


def test_a_package_that_there_is_not_is_an_error_and_a_broken_import_stays_one(
    packages: Path,
) -> None:
    with pytest.raises(ConfigurationError, match="there is no package 'life_none'"):
        discover(["life_none"], "tasks")
    with pytest.raises(ModuleNotFoundError, match="life_nowhere"):
        discover(["life_broken"], "tasks")
    (packages / "life_worse").mkdir()
    (packages / "life_worse" / "__init__.py").write_text("import life_nowhere\n")
    with pytest.raises(ModuleNotFoundError, match="life_nowhere"):
        discover(["life_worse"], "tasks")


# ---- Django

_DJANGO = """
import sys
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["life_shop", "life_mail"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
from cloudq import CloudQ
from cloudq.testing import drain
app = CloudQ("dj", broker="memory://dj")
app.autodiscover_tasks()
assert "life_shop.tasks" not in sys.modules
app.load()
assert set(app.tasks) == {"life_shop.run"}, app.tasks
task = app.tasks["life_shop.run"]

from django.db import transaction
with transaction.atomic():
    result = task.delay_on_commit()
    optioned = task.apply_async_on_commit((), queue="other")
    assert drain(app, ["default", "other"]) == []
drain(app, ["default", "other"])
assert result.get(timeout=1) == optioned.get(timeout=1) == "life_shop.run"

try:
    with transaction.atomic():
        undone = task.delay_on_commit()
        raise KeyError("rolled back")
except KeyError:
    assert drain(app) == [] and undone.state == "PENDING"


def refused(result, kind, text, **options):
    try:
        result.get(**options)
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError("it is no error")


import asyncio, threading
from cloudq import ConfigurationError, TaskRevoked
refused(undone, TaskRevoked, "was rolled back")  # without a timeout
refused(undone, TaskRevoked, "was rolled back", timeout=60)
try:
    asyncio.run(asyncio.wait_for(undone._awaited(), 60))
except TaskRevoked:
    pass
with transaction.atomic():
    early = task.delay_on_commit()
    refused(early, ConfigurationError, "when the transaction of this thread commits")
    try:
        with transaction.atomic():  # a savepoint
            inner = task.delay_on_commit()
            raise KeyError("rolled back to the savepoint")
    except KeyError:
        refused(inner, TaskRevoked, "was rolled back")
drain(app)
assert early.get() == "life_shop.run"
# Another thread waits while this one rolls back.
ended = []
def wait(result):
    try:
        result.get()
    except TaskRevoked as error:
        ended.append(error)
try:
    with transaction.atomic():
        later = task.delay_on_commit()
        waiting = threading.Thread(target=wait, args=(later,), daemon=True)
        waiting.start()
        raise KeyError("rolled back")
except KeyError:
    waiting.join(60)
assert len(ended) == 1

at_once = task.delay_on_commit()
assert len(drain(app)) == 1 and at_once.state == "SUCCESS"
kept = app.task(name="kept")(lambda ids, by=None: [ids, by])
ids, by = [1, 2], {"a": [3]}
with transaction.atomic():
    result = kept.apply_async_on_commit([ids], {"by": by})
    ids.clear()
    by["a"].append(4)
drain(app)
assert result.get(timeout=1) == [[1, 2], {"a": [3]}]
from cloudq import EncodeError
for wrong in (object(), "\\ud800", {frozenset({(1, object())})}):
    try:
        with transaction.atomic():
            try:
                kept.delay_on_commit(wrong)
            except EncodeError:
                raise KeyError("at the call") from None
    except KeyError:
        assert drain(app) == []
    else:
        raise AssertionError(wrong)

try:
    with transaction.atomic():
        task.delay_on_commit(1)
except TypeError:
    print("fine")
app.close()
"""


def test_django_apps_are_discovered_and_calls_wait_for_the_commit(packages: Path) -> None:
    pytest.importorskip("django")
    ended = subprocess.run(
        [sys.executable, "-c", _DJANGO],
        cwd=packages,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.stdout.strip(), ended.returncode) == ("fine", 0), ended.stderr


_PROMISES = """
import sys
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
)
from django.db import transaction
from cloudq import CloudQ, TaskRevoked
from cloudq.testing import drain
app = CloudQ("dj", broker="memory://promises")
runs = []

@app.task(unique=True)
def report(day):
    runs.append(day)
    return len(runs)

# An equal call takes the place of a promised one: the result is that of the equal call.
with transaction.atomic():
    first, second = report.delay_on_commit("mon"), report.delay_on_commit(day="mon")
    third = report.apply_async_on_commit(("mon",), task_id="mine")
    promised = second.id
drain(app)
assert [first.get(timeout=1), second.get(timeout=1), third.get(timeout=1)] == [1] * 3
assert first.id == second.id == third.id and runs == ["mon"]
for unsent in (promised, "mine"):
    try:
        app.AsyncResult(unsent).get(timeout=1)
    except TaskRevoked as error:
        assert first.id in str(error), error
    else:
        raise AssertionError(unsent)

# One that was queued before the transaction began.
before = report.delay("tue")
with transaction.atomic():
    later = report.delay_on_commit("tue")
assert later == before
drain(app)

# What ended before under the same id is no answer.
@app.task
def same(value):
    return value
same.apply_async(("old",), task_id="used")
drain(app)
with transaction.atomic():
    result = same.apply_async_on_commit(("new",), task_id="used")
    assert not result.ready() and result.state == "PENDING"
between = same.apply_async(("between",), task_id="used")
assert not result.ready()
drain(app)
assert result.get(timeout=1) in ("new", "between")
with transaction.atomic():
    silent = same.apply_async_on_commit(("new",), ignore_result=True)
try:
    silent.get()
except Exception as error:
    assert "ignore" in str(error), error
drain(app)

# An eager app has run the call when the transaction is committed.
app.conf.task_always_eager = True
with transaction.atomic():
    result = same.delay_on_commit("eager")
assert result.get(timeout=0) == "eager"
app.close()
print("fine")
"""


def test_what_was_promised_on_commit_comes_or_ends(tmp_path: Path) -> None:
    pytest.importorskip("django")
    ended = subprocess.run(
        [sys.executable, "-c", _PROMISES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.stdout.strip(), ended.returncode) == ("fine", 0), ended.stderr


def test_outside_of_django_a_call_on_commit_is_sent_at_once(plain: CloudQ) -> None:
    task: Any = plain.task(name="t")(lambda: 5)
    result = task.apply_async_on_commit(task_id="mine")
    drain(plain)
    assert (result.id, result.get(), result.state) == ("mine", 5, State.SUCCESS)
