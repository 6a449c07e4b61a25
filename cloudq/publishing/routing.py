"""Routes calls that name no queue by the setting `task_routes`, in all of Celery's forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from importlib import import_module
from typing import Any, TypeGuard

from cloudq.errors import ConfigurationError, did_you_mean
from cloudq.tasks.task import Task

Route = Mapping[str, Any]
"""Options of a call: its queue, and more if need be."""

Routing = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any], object], Route | None]
"""Maps (name, args, kwargs, options, task) to a route; None passes on to the next rule."""


class Router:
    """Finds the route of a call: the first of the rules that has one decides.

    `source` is the setting: a mapping from names, globs (`shop.mail.*`) or compiled regular
    expressions to a queue or to options; a list of (pattern, route) pairs; a function
    `(name, args, kwargs, options, task=None)`, or the dotted name of one; or a list of these. In a
    mapping an exact name comes before patterns, and patterns come in their order. `known` are the
    options that a route may have. Raises `ConfigurationError` for a rule that cannot be.
    """

    def __init__(self, source: object, known: Collection[str]) -> None:
        self.source = source
        self._known = known
        self._tables: list[Routing] = []
        self._rules = list(self._read(source))
        self.queues = self._named(source)

    def route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: object,
    ) -> Route:
        """Return the options of the first rule that has some for a call; empty if none has."""
        for rule in self._rules:
            route = rule(name, args, kwargs, options, task)
            if route is not None:
                return self._checked(name, route)
        return {}

    def queue_of(self, name: str) -> str | None:
        """Return the queue of a task by names and patterns alone; no function is called."""
        for table in self._tables:
            route = table(name, (), {}, {}, None)
            if route is not None:
                return route.get("queue")
        return None

    def _read(self, source: object) -> Iterator[Routing]:
        if source is None:
            return
        if _is_mapping(source):
            yield self._mapping(source.items())
        elif callable(source):
            yield _function(source)
        elif isinstance(source, str):
            yield _function(_imported(source))
        elif _is_sequence(source):
            if source and all(_is_pair(entry) for entry in source):
                yield self._mapping([(pattern, route) for pattern, route in source])
            else:
                for entry in source:
                    yield from self._read([entry] if _is_pair(entry) else entry)
        else:
            raise ConfigurationError(
                f"task_routes: {source!r} is no route: give a mapping from names to queues, a "
                "function, or a list of these"
            )

    def _mapping(self, pairs: Iterable[tuple[Any, Any]]) -> Routing:
        exact: dict[str, Route] = {}
        patterns: list[tuple[re.Pattern[str], Route]] = []
        for pattern, given in pairs:
            route = self._checked(pattern, given)
            if _is_pattern(pattern):
                patterns.append((pattern, route))
            elif not isinstance(pattern, str):
                raise ConfigurationError(f"task_routes: {pattern!r} is no task's name or pattern")
            elif any(sign in pattern for sign in "*?["):
                patterns.append((re.compile(translate(pattern)), route))
            else:
                exact[pattern] = route

        def find(name: str, *_: object) -> Route | None:
            found = exact.get(name)
            if found is not None:
                return found
            return next((route for pattern, route in patterns if pattern.match(name)), None)

        self._tables.append(find)
        return find

    def _checked(self, name: object, given: object) -> Route:
        if isinstance(given, str):
            given = {"queue": given}
        if not _is_mapping(given):
            raise ConfigurationError(
                f"task_routes: the route of {name} is {given!r}: give a queue, or options such as "
                '{"queue": "mail"}'
            )
        for option in given:
            if option not in self._known:
                hint = did_you_mean(str(option), self._known, otherwise="a queue is named by queue")
                raise ConfigurationError(
                    f"task_routes: the route of {name} has {option!r}, which is no option of a "
                    f"call: {hint}"
                )
        return given

    def _named(self, source: object) -> list[str]:
        """Return the queues named in the setting itself; functions are not called."""
        if _is_mapping(source):
            routes = list(source.values())
        elif _is_sequence(source):
            entries = [dict([entry]) if _is_pair(entry) else entry for entry in source]
            return list(dict.fromkeys(queue for entry in entries for queue in self._named(entry)))
        else:
            return []
        checked = [self._checked("a task", route) for route in routes]
        return list(dict.fromkeys(route["queue"] for route in checked if route.get("queue")))


def _is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)


def _is_pattern(value: object) -> TypeGuard[re.Pattern[str]]:
    return isinstance(value, re.Pattern)


def _is_pair(entry: object) -> bool:
    """Tell whether this is one (pattern, route) of a list."""
    if not _is_sequence(entry) or len(entry) != 2:
        return False
    pattern, route = entry
    return isinstance(pattern, str | re.Pattern) and isinstance(route, str | Mapping)


def _function(function: Callable[..., Any]) -> Routing:
    def find(
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: object,
    ) -> Route | None:
        return function(name, args, kwargs, options, task=task)

    return find


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"task_routes: cannot import {path!r}: {error}") from error
    if not callable(found):
        raise ConfigurationError(f"task_routes: {path} is not a function")
    return found


def own_options(task: Task[..., Any]) -> dict[str, Any]:
    """Return the options of a task itself that stand above those of a route."""
    policy = task.policy
    own = {
        "queue": policy.queue,
        "serializer": policy.serializer,
        "compression": policy.compression,
    }
    return {name: value for name, value in own.items() if value is not None}
