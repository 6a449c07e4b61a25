"""Targets that take bodies through a whole app: the executor, functions, readers of the store."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure.functions as func

from cloudq import CloudQ, chain, chord, group
from cloudq.cli.commands.result import as_json
from cloudq.cli.output import local, since
from cloudq.driver import Item, Key
from cloudq.errors import CloudQError
from cloudq.execution.invocation import NotSettled
from cloudq.messages.ids import bundled_id, place_of
from cloudq.monitoring.commands import Command
from cloudq.monitoring.heartbeats import Heartbeat, Heartbeats
from cloudq.operations import audit, costs, queues, schedules, tasks, workers, workflows
from cloudq.operations.audit import Actor
from cloudq.results.outline import outlines_in
from cloudq.results.record import failure
from cloudq.schedules.when import every
from cloudq.testing import drain
from cloudq.text import iso_time, json_text
from cloudq_aws import lambda_handler
from cloudq_azure import register
from cloudq_gcp import PushEndpoint, cloud_event_handler
from tests.functions.aws.events import Context
from tests.functions.azure.azure_host import functions
from tests.fuzz import seeds
from tests.fuzz.drive import Drive, make_app
from tests.fuzz.recipes import QUEUE, SECRETS, Recipe, Wire
from tests.fuzz.targets import LIMIT, Target, Wrong

_APPS = 1_800
"""Bodies that one app takes: what it keeps of them goes with it."""
_LATER = 4e9
_TOGETHER = ("join#", "steps#")
"""Starts of partitions whose items are read together."""


def _settings(folder: Path, *, encrypted: bool = False) -> dict[str, Any]:
    """Settings of an app that reads all that there is."""
    path = folder / seeds.BLOB
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seeds.HELD)
    keys = {"encryption_keys": SECRETS, "encryption_required": False} if encrypted else {}
    return keys | {
        "accept_content": ["json", "msgpack", "yaml", "pickle"],
        "payload_store": f"file:///{folder}",
        "payload_limit": 1 << 20,
        "max_body": LIMIT,
    }


class Executor:
    """Takes bodies through the steps of a worker, beside calls that must succeed."""

    name = "executor"
    share = 0.02
    at_once = 90
    wrapped = False

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cloudq-fuzz-")
        self._drives = [
            Drive(**_settings(Path(self._folder.name), encrypted=encrypted))
            for encrypted in (False, True)
        ]
        self._kept: list[bytes] = []
        self._turn = 0

    def recipes(self) -> Sequence[Recipe]:
        return [*seeds.messages(), *seeds.bundled(), *seeds.celery()]

    def run(self, body: bytes) -> str:
        self._kept.append(body)
        if len(self._kept) < self.at_once:
            return "kept"
        bodies, self._kept = self._kept, []
        self._turn += 1
        drive = self._drives[self._turn % 2]
        _settings(Path(self._folder.name))  # what was read once is gone
        drive.run(bodies)
        if drive.found.wrong:
            what, wrong = drive.found.wrong.pop()
            drive.found.wrong.clear()
            raise Wrong(what, wrong)
        return "ran"

    def close(self) -> None:
        self._folder.cleanup()


class Functions:
    """Calls functions of all platforms with their events."""

    name = "functions"
    share = 0.02
    at_once = 1
    wrapped = True

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cloudq-fuzz-")
        self._app: CloudQ | None = None
        self._count = 0
        self._ways: Mapping[str, Callable[[Any, Wire], str]] = {}

    def recipes(self) -> Sequence[Recipe]:
        return seeds.events()

    def run(self, body: bytes) -> str:
        if self._count % _APPS == 0:
            self._renew()
        self._count += 1
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            return "no event"  # a platform makes the event, and strangers what is in it
        if not isinstance(given, dict):
            return "no event"
        way = self._ways.get(str(given.get("to")), self._lambda)
        try:
            return way(given.get("event"), given)
        except (CloudQError, NotSettled) as error:
            return type(error).__name__

    def close(self) -> None:
        if self._app is not None:
            self._app.close()
        self._folder.cleanup()

    def _renew(self) -> None:
        if self._app is not None:
            self._app.close()
        settings = _settings(Path(self._folder.name), encrypted=self._count % 2 == 1)
        self._app = app = make_app(f"functions-{self._count}", **settings)
        self._handler = lambda_handler(app)
        self._endpoint = PushEndpoint(app, verify=False)
        self._cloud = cloud_event_handler(app)
        made = func.FunctionApp()
        register(made, app, queues=[QUEUE])
        [function] = functions(made).values()
        self._one = function.get_user_function()
        self._ways = {
            "lambda": self._lambda,
            "push": self._push,
            "event": self._event,
            "servicebus": self._servicebus,
        }

    def _lambda(self, event: Any, given: Wire) -> str:
        answer = self._handler(event, Context(timeout=600.0))
        json.dumps(answer)
        return "answered"

    def _push(self, event: Any, given: Wire) -> str:
        named = given.get("headers")
        pairs = named.items() if isinstance(named, dict) else ()
        headers = {str(name): str(value) for name, value in pairs}
        status, text = self._endpoint.answer(headers, json.dumps(event).encode())
        if status not in (204, 400, 503, 413) or not isinstance(text, str):
            raise Wrong(f"a push is answered with {status}")
        return str(status)

    def _event(self, event: Any, given: Wire) -> str:
        self._cloud({"source": f"//x/topics/{QUEUE}"} | _Data(event))
        return "taken"

    def _servicebus(self, event: Any, given: Wire) -> str:
        try:
            body = base64.b64decode(str(given.get("body")).encode(errors="replace"))
        except ValueError:
            body = str(given.get("body")).encode(errors="replace")
        count, id, session = given.get("count"), given.get("id"), given.get("session")
        message = SimpleNamespace(
            message_id=id if isinstance(id, str) else None,
            get_body=lambda: body,
            lock_token="lock",
            sequence_number=7,
            delivery_count=count if type(count) is int else None,
            session_id=session if isinstance(session, str) else None,
            enqueued_time_utc=None,
        )
        self._one(message)
        return "completed"


class _Data(dict[str, Any]):
    """A CloudEvent, as far as it is read."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.data = data

    def __ror__(self, other: Mapping[str, Any]) -> _Data:
        self.update(other)
        return self


# ---- what is read from the store


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, frozenset):
        return {"set": sorted(value)}
    return value


def _decoded(value: Any) -> Any:
    """Make a value that a store can hold of a value in JSON."""
    if isinstance(value, dict) and "bytes" in value:
        try:
            return base64.b64decode(str(value["bytes"]))
        except ValueError:
            return str(value["bytes"]).encode(errors="replace")
    if isinstance(value, dict) and isinstance(value.get("set"), list):
        return frozenset(map(str, value["set"]))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(2**63)  # what no store holds
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value)


class Stored:
    """Reads what lies in a result store, as callers, operators, workers and beats do."""

    name = "stored"
    share = 0.04
    at_once = 1
    wrapped = True

    def __init__(self) -> None:
        self._app = make_app("stored")
        self._items = list(self._made())
        self._beside: dict[str, list[Item]] = {}
        for item in self._items:
            if item.key.partition.startswith(_TOGETHER):
                self._beside.setdefault(item.key.partition, []).append(item)
        self._app.close()
        self._renew()
        self._count = 0

    def _renew(self) -> None:
        self._app = make_app("read")
        self._executor = self._app.executor()
        self._readers: Mapping[str, Callable[[Key, Item], object]] = {
            "task": self._task,
            "bundle": self._bundle,
            "series": self._bundle,
            "events": self._events,
            "ends": self._events,
            "workers": self._workers,
            "join": self._join,
            "joins": self._join,
            "steps": self._steps,
            "beat": self._beat,
            "pauses": lambda key, item: queues.pauses(self._app),
            "audit": lambda key, item: audit.read(self._app),
        }

    def _made(self) -> Iterator[Item]:
        """Let an app write all that is stored."""
        app = self._app
        echo, boom = app.tasks["echo"], app.tasks["boom"]
        many = chain(*[echo.si(n) for n in range(120)])
        started = [
            echo.delay(1, a="b"),
            boom.delay("x"),
            app.tasks["once"].delay(1),
            chord([echo.s(1), echo.s(2)])(echo.s()),
            chord([echo.s(1), boom.s(2)])(echo.s().on_error(echo.s())),
            group(echo.s(1), echo.s(2)).apply_async(),
            many.apply_async(),
        ]
        app.publish([echo.prepare(n) for n in range(4)], bundle=4)
        assert started
        drain(app)
        chord([echo.s(1), echo.s(2)])(echo.s())  # is left under way
        app.schedules.add("s", "echo", every(60), args=[1], kwargs={"a": 1})
        app.schedules.pause("s")
        assert app.backend is not None
        heart = Heartbeat(
            hostname="w",
            app="fuzz",
            seen=_LATER,
            queues=["default"],
            longest=[["id", "echo", 1.0]],
        )
        hearts = Heartbeats(app.backend)
        hearts.exchange(heart, usage=b"[1,{},{}]")
        hearts.tell("w", Command(id="c", name="ping", arguments={"a": 1}).to_text())
        queues.pause(app, QUEUE, by=Actor(who="me", via="test"))
        app.backend.write_ends()
        driver: Any = app.backend.driver
        found: Mapping[Key, Item] = driver._items._items
        yield from found.values()

    def recipes(self) -> Sequence[Recipe]:
        made: list[Recipe] = []
        for item in self._items:
            fields = {name: _encoded(value) for name, value in item.fields.items()}
            made.append(Recipe(tree={"p": item.key.partition, "s": item.key.sort, "f": fields}))
        return made

    def run(self, body: bytes) -> str:
        try:
            given = json.loads(body)
            fields = {name: _decoded(value) for name, value in given["f"].items()}
            key = Key(str(given["p"]), str(given["s"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "no item"
        backend = self._app.backend
        assert backend is not None
        item = Item(key=key, fields=fields, expires=None)
        beside = self._beside.get(key.partition, [])
        if backend.driver.put([*(each for each in beside if each.key != key), item]):
            return "not stored"
        try:
            kind = key.partition.partition("#")[0]
            self._readers.get(kind, self._task)(key, item)
        except CloudQError as error:
            return type(error).__name__
        finally:
            backend.driver.delete([key, *(each.key for each in beside)])
        return "read"

    def close(self) -> None:
        self._app.close()

    def _task(self, key: Key, item: Item) -> None:
        id = key.partition.partition("#")[2]
        self._result(id)
        life = tasks.life(self._app, id)
        if life is not None:
            _shown(tasks.event_of(life).at)

    def _result(self, id: str) -> None:
        backend = self._app.backend
        assert backend is not None
        record = backend.record(id)
        if record is None:
            return
        json_text(as_json(record))
        _shown(record.started_at, record.finished_at)
        result = self._app.AsyncResult(id)
        for look in (lambda: result.info, lambda: result.traceback, lambda: result.children):
            _allowed(look)
        if record.terminal:
            _allowed(lambda: result.get(timeout=5, propagate=False))
            if record.state != "SUCCESS":
                str(failure(record))
        if record.children is not None:
            _allowed(lambda: outlines_in(record.children or ""))

    def _bundle(self, key: Key, item: Item) -> None:
        name = key.partition.partition("#")[2]
        for number in (0, 1):
            id = bundled_id(name, number)
            if place_of(id) is None and not key.partition.startswith("series"):
                return
            self._result(id)

    def _events(self, key: Key, item: Item) -> None:
        found = tasks.search(self._app, limit=20)
        for event in found.rows[:3]:
            _shown(event.at)
            json_text(event)
            if event.args is not None:
                tasks.arguments_in(event.args)

    def _workers(self, key: Key, item: Item) -> None:
        rows = workers.workers(self._app)
        for running in workers.running(rows):
            _shown(running.since)
        for row in rows:
            _shown(row.seen)
            json_text(row)
        commands = item.fields.get("commands")
        for text in commands if isinstance(commands, frozenset) else ():
            Command.of(text)
        _allowed(lambda: costs.costs(self._app))

    def _join(self, key: Key, item: Item) -> None:
        id = key.partition.partition("#")[2].partition("/")[0]
        for one in workflows.workflows(self._app, all_states=True).workflows:
            _shown(one.started)
        _allowed(lambda: workflows.workflow(self._app, id))
        workflows.graph(self._app, id)
        _allowed(lambda: workflows.member_ids(self._app, id))
        joins = self._executor.joins
        assert joins is not None
        _allowed(lambda: joins.go_on(id, item.fields))
        _allowed(lambda: joins.abandon(id, "x"))

    def _steps(self, key: Key, item: Item) -> None:
        joins = self._executor.joins
        assert joins is not None
        joins.tails.whole([{"more": key.partition.partition("#")[2], "at": 0}])

    def _beat(self, key: Key, item: Item) -> None:
        for row in schedules.schedules(self._app).schedules:
            json_text(row)
        for name in self._app.schedules.all():
            _allowed(lambda name=name: schedules.next_runs(self._app, name, count=3))


def _shown(*moments: float | None) -> None:
    """Write times as the command line does."""
    for moment in moments:
        local(moment), since(moment), iso_time(moment)


def _allowed(look: Callable[[], object]) -> None:
    """Do what an error of cloudq's own may end."""
    with suppress(CloudQError):
        look()


def app_targets() -> list[Target]:
    """Make the targets that need an app."""
    return [Executor(), Functions(), Stored()]
