"""`Celery`: a `CloudQ` with the constructor, settings and methods of Celery's app."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, Unpack, overload

from cloudq import app, settings
from cloudq.app.registration import register
from cloudq.app.shared_task import APPS
from cloudq.contrib.celery import results as result_names
from cloudq.contrib.celery.attributes import OPTIONS
from cloudq.contrib.celery.conf import Conf, check_beat_schedule, check_name, read_source
from cloudq.contrib.celery.control import Control
from cloudq.contrib.celery.current import app_or_default, bugreport
from cloudq.contrib.celery.current import current_app as default_app
from cloudq.contrib.celery.eager import CeleryEager
from cloudq.contrib.celery.logging_signals import set_up_logging
from cloudq.contrib.celery.missing import names_of
from cloudq.contrib.celery.names import REFUSED, AppNames, asks_for_name
from cloudq.contrib.celery.own_sending import as_given, as_sent, celerys, sends_itself
from cloudq.contrib.celery.settings_table import KEPT, SETTINGS, modern
from cloudq.contrib.celery.sources import CONFIG_MODULE, Sources, of_environment
from cloudq.contrib.celery.task import (
    class_for,
    has_run,
    is_task,
    own_keywords,
    run_of,
    shared_task,
)
from cloudq.contrib.celery.translation import call_options, task_options, without_none
from cloudq.contrib.celery.workflows import translated
from cloudq.errors import ConfigurationError
from cloudq.results import result
from cloudq.results.eager import EagerResult
from cloudq.results.waiting import Places
from cloudq.schedules.entry import periodic_entry
from cloudq.settings import DECLARED, Settings
from cloudq.signals import Signal
from cloudq.tasks import task
from cloudq.tasks.call_options import Options
from cloudq.tasks.signature import Node, Signature

if TYPE_CHECKING:  # not loaded in programs that only publish
    from cloudq.execution.call import ExecutorOptions
    from cloudq.execution.executor import Executor

__all__ = ["Celery", "app_or_default", "bugreport", "default_app", "shared_task"]

P = ParamSpec("P")
R = TypeVar("R")

# Celery's defaults where they differ: the queue's name, so that both read the same queue, one task
# at a time in a process, since code written for prefork need not be thread-safe, and the state
# RETRY, which programs look at, of every task.
DEFAULTS: Mapping[str, Any] = {
    "task_default_queue": "celery",
    "worker_threads": 1,
    "task_track_retries": True,
}

# Settings read when the broker or the store is opened: a later change would have no effect.
_OPENED_WITH = frozenset({"broker", "backend", "result_expires", "publish_retries"})

NO_BEAT = "run `cloudq beat -A module:app`, or `cloudq worker --beat`"


class Celery(AppNames, result_names.ResultMakers, app.CloudQ):
    """A `CloudQ` app with Celery's constructor, configuration and names.

    `main` is its name. Settings have the names in `settings_table`, in lower or upper case;
    a refused one raises `ConfigurationError` with the reason and the alternative.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Sequence[str] | None = None,
        namespace: str | None = None,
        config_source: object = None,
        set_as_current: bool = True,
        strict_typing: bool = True,
        task_cls: type[Any] | str | None = None,
        changes: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        self.main = main
        self.strict_typing = strict_typing
        self.warned: set[str] = set()
        self._raw: dict[str, Any] = {}
        self._sources = Sources()
        self._name = f"Celery({main!r})"
        self._namespace = namespace
        named = {"broker_url": broker, "result_backend": backend, "include": include}
        given = {name: value for name, value in named.items() if value is not None}
        given = {**(changes or {}), **values, **given, **of_environment()}
        made = self._taken(given)
        self._raw |= given
        self._sources.own |= given.keys()
        before = APPS.latest
        super().__init__(
            main or "celery", task_cls=class_for(self, task_cls or self.task_cls), **made
        )
        self.publisher.builder.is_plain = self.is_plain
        self.publisher.builder.as_sent = self._as_sent
        self.set_as_current = set_as_current
        if not set_as_current:
            APPS.latest = before
        self._results.kind = result_names.AsyncResult
        config_source = config_source or os.environ.get(CONFIG_MODULE)
        if config_source is not None:
            self.config_from_object(config_source, namespace=namespace)

    def _as_sent(self, name: str, *call: Any) -> Any:
        task = self.tasks.get(name)
        return as_sent(task, *call) if is_task(task) and sends_itself(task) else call

    # ---- settings

    @property
    def conf(self) -> Conf:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The settings: `app.conf.timezone`, `app.conf["timezone"]`, `app.conf.update(...)`."""
        return Conf(self.runtime.conf, self._raw, self._updated)

    def _settings(self, given: Mapping[str, Any]) -> Settings:
        """Read the settings, with Celery's defaults for those that are not set."""
        found = super()._settings(given)
        missing = DEFAULTS.keys() - found.given
        return found.replaced({name: DEFAULTS[name] for name in missing})

    def config_from_object(
        self,
        source: object,
        silent: bool = False,
        force: bool = False,
        namespace: str | None = None,
    ) -> None:
        """Take settings from a module, its name, an object (`module:name`) or a mapping, at once.

        They take the place of those of an earlier call. The constructor's, `conf.update`'s and
        `add_defaults`' override them. Raises `ConfigurationError`.
        """
        found = read_source(source, namespace or self._namespace, silent=silent)
        found = self._sources.free(found)
        gone = self._taken(self._sources.source)
        left = {n: v for n, v in self._given.items() if n not in gone or gone[n] != v}
        self._configure(self._taken(found) | left)
        self._raw = {n: v for n, v in self._raw.items() if n not in self._sources.source} | found
        self._sources.source = found

    def add_defaults(self, source: object) -> None:
        """Take settings that the constructor's and `conf.update`'s override, as in Celery."""
        found = read_source(source() if callable(source) else source, None, silent=False)
        found = {name: value for name, value in found.items() if name not in self._sources.own}
        self._configure(self._given | self._taken(found))
        self._raw |= found
        self._sources.defaults |= found.keys()

    def configure(self, **values: Any) -> None:
        """Change settings, overriding all other sources.

        Settings that a broker or a store is opened with cannot change once it is open.
        """
        with self.runtime.lock:
            fixed = [n for n in _OPENED_WITH & values.keys() if values[n] != getattr(self.conf, n)]
            if fixed:
                super().configure(**values)  # refuses once they are in use
            else:
                self._configure(self._given | settings.plain_names(values))

    def _updated(self, values: Mapping[str, Any]) -> Conf:
        named = {modern(name) if name.isupper() else name: v for name, v in values.items()}
        named |= {name: v for name, v in of_environment().items() if name in named}
        self.configure(**self._taken(named))
        self._raw |= named
        self._sources.own |= named.keys()
        return self.conf

    def _taken(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings under cloudq's names; any other value is kept as it was given."""
        for name in values:
            check_name(name)
        kept = {name for name in values if name in KEPT}
        check_beat_schedule(values.get("beat_schedule"))
        settings = {name: value for name, value in values.items() if name not in kept}
        made = SETTINGS.apply(settings, of=self._name, ours=DECLARED, warned=self.warned)
        own = {name for name in made if name not in DECLARED}
        taken = {name: value for name, value in made.items() if name not in own}
        return taken | {name: values[name] for name in kept}

    # ---- tasks

    if TYPE_CHECKING:

        @overload
        def task(self, function: Callable[P, R], /) -> task.Task[P, R]: ...
        @overload
        def task(
            self, function: None = None, /, **options: Any
        ) -> Callable[[Callable[..., R]], task.Task[..., R]]: ...
        def task(self, function: Any = None, /, **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Make a function a task, with Celery's options."""

    else:

        def task(self, function=None, /, **options):
            """Make a function a task, with Celery's options.

            Each option is carried over, ignored with a warning or refused; the tables are in
            docs/how-to/move-from-celery.md.
            """
            made = task_options(options, of=f"{self._name}.task", warned=self.warned)
            made = own_keywords(made, self.task_cls)
            if not self.strict_typing:
                made.setdefault("typing", False)
            decorate = asks_for_name(self, made) or super().task(**made)
            return decorate if function is None else decorate(function)

    def register_task(self, task: Any, **options: Any) -> task.Task[..., Any]:
        """Register a task that is written as a class with a method `run`: an object of it.

        The object itself is the task. Raises `ConfigurationError`.
        """
        given: Any = task
        made: Any = given() if isinstance(task, type) else given
        kind: type[Any] = made.__class__
        held: dict[str, Any] = made.__dict__
        if not is_task(made):
            raise ConfigurationError(
                f"register_task: {kind.__name__} is no task: derive it from Task of "
                "cloudq.contrib.celery"
            )
        if "function" in held:  # it is one of a function, perhaps another app's
            again = {"name": made.name, "bind": made.bind, "base": kind}
            return self.task(**{**made.declared, **again, **options})(made.function)
        if not has_run(kind):
            raise ConfigurationError(f"register_task: {kind.__name__} has no method run")
        own = {name: value for name, value in held.items() if name in OPTIONS}
        found = task_options(
            without_none({**own, **options}), of=f"class {kind.__name__}", warned=self.warned
        )
        name = getattr(made, "name", None) or self.gen_task_name(kind.__name__, kind.__module__)
        function, bind = run_of(kind)
        taken: Any = {**found, "name": name, "base": kind}
        return register(
            function,
            taken,
            bind=bind,
            app=self,
            tasks=self.tasks,
            base=kind,
            instance=made,
        )

    @celerys
    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> result.AsyncResult[Any]:
        """Publish a call by the task's name, which need not be registered here."""
        known: Any = options.pop("task_type", None) or self.tasks.get(name)
        given = () if args is None else args
        if is_task(known):
            return known.send_call(given, kwargs, options)
        made = call_options(options, of=f"send_task({name!r})", warned=self.warned)
        return super().send_task(name, given, kwargs, **made)

    def start(
        self,
        node: Node[Any] | Sequence[str] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a workflow, whose calls may have Celery's options. Refuses a command line."""
        if not isinstance(node, Node):
            raise ConfigurationError(
                f"{self._name}.start: an app runs no commands: run `cloudq worker -A module:app`"
            )
        node = translated(node, self.warned)
        task: Any = self.tasks.get(node.task) if isinstance(node, Signature) else None
        if is_task(task) and sends_itself(task) and not self.conf.task_always_eager:
            one: Any = node.clone(args, kwargs)
            if not (one.links or one.link_errors):
                return task.apply_async(one.args, one.kwargs, **as_given(one.options))
        return super().start(node, args, kwargs or {})

    def start_eagerly(self, node: Node[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a workflow here and now, whose calls may have Celery's options."""
        return super().start_eagerly(translated(node, self.warned), args, kwargs)

    def apply(
        self,
        task: task.Task[..., R],
        options: Options,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        throw: bool | None = None,
        retries: int = 0,
    ) -> EagerResult[R]:
        """Run a task here, after `retries` other tries.

        What it raises is raised with `throw`, or `task_eager_propagates`.
        """
        eager = self._eager()
        eager.retries = retries
        eager.raises = self.conf.task_eager_propagates if throw is None else throw
        result = eager.apply(task, replace(options, ignore_result=False), args, kwargs)
        if eager.raises:
            result.get()
        return result

    def _eager(self) -> CeleryEager:
        made = CeleryEager(self.executor(is_eager=True), self._every_task, self.publisher.builder)
        made.raises = self.conf.task_eager_propagates
        return made

    def executor(self, **options: Unpack[ExecutorOptions]) -> Executor:
        """Make what runs this app's deliveries; no task waits for another, as in Celery."""
        return super().executor(**{**options, "places": Places(0)})

    @cached_property
    def control(self) -> Control:
        """Looks into live workers and tells them what to do, under Celery's names."""
        return Control(self.runtime, self._results, self.queues)

    # ---- periodic tasks

    @cached_property
    def on_after_configure(self) -> Any:
        """A signal, sent when a worker loads the app: `@app.on_after_configure.connect`."""
        return Signal("on_after_configure", "source")

    @cached_property
    def on_after_finalize(self) -> Any:
        """A signal, sent when a worker has loaded the app's modules."""
        return Signal("on_after_finalize")

    def load(self) -> None:
        """Import the modules in `include`, and send the app's signals."""
        if "on_after_configure" in vars(self):
            self.on_after_configure.send(self, source=self.conf)
        super().load()
        if "on_after_finalize" in vars(self):
            self.on_after_finalize.send(self)
        set_up_logging()

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Add an entry to `conf.beat_schedule`; returns its name.

        Raises `ConfigurationError`, also for a name that another entry has. Without a name it is
        the call's text, so that a task called alike at two schedules needs two names.
        """
        given, node = periodic_entry(sig, args, kwargs, options)
        name = name or repr(node)
        entry = {"task": node.task, "schedule": schedule, **given}
        # A handler of `on_after_configure` adds the same entry at each load.
        if self.conf.beat_schedule.get(name, entry) != entry:
            raise ConfigurationError(
                f"two periodic tasks are named {name!r}: give one of them another name="
            )
        self.conf.update(beat_schedule={**self.conf.beat_schedule, name: entry})
        return name

    def _schedule_options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return call_options(options, of=f"{self._name}: a schedule", warned=self.warned)

    def Beat(self, **options: Any) -> NoReturn:  # noqa: N802 (Celery's name)
        """Refuses, with the reason."""
        raise ConfigurationError(f"{self._name}.Beat: {NO_BEAT}")

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            raise AttributeError(f"a cloudq app has no {name}: {REFUSED[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    return names_of(__name__, name)
