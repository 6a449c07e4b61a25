"""Validates workflows before any task is sent; errors name the part at fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudq.canvas.freeze import EMPTY, passed_on
from cloudq.errors import ConfigurationError, EncodeError, InvalidArguments
from cloudq.messages.json_text import json_bytes
from cloudq.messages.values import to_wire
from cloudq.publishing.builder import MessageBuilder
from cloudq.runtime import Runtime
from cloudq.tasks.arguments import LATER
from cloudq.tasks.callback import CALLBACKS
from cloudq.tasks.signature import Node, Signature, chain, chord
from cloudq.tasks.task import Task

# Each level is two levels of JSON, of which the parsers of the wire take 254.
MAX_NESTING = 100


class Checks:
    """The checks of one app's workflows before they are sent. `tasks` may grow."""

    def __init__(
        self, runtime: Runtime, tasks: Mapping[str, Task[..., Any]], builder: MessageBuilder
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._builder = builder

    def check(self, node: Node[Any]) -> None:
        """Check a whole workflow, which reads its generators. Raises `InvalidArguments`."""
        named: set[str] = set()
        count = 0
        composed: list[Node[Any]] = []
        for part in _parts(node, composed):
            self._check_options(part)
            if part.is_errback:
                continue
            count += 1
            self.count(count)
            self._fit(part)
            id = part.signature.options.get("task_id") or part.signature.id
            if id in named:
                raise InvalidArguments(
                    f"{part.place}{part.signature.task}: another call of the workflow has the "
                    f"task_id {id!r} too: each needs one of its own"
                )
            if id is not None:
                named.add(id)
        if composed:  # a copy has the options where they take effect
            for part in _parts(passed_on(node.clone())):
                self._check_options(part)

    def shape(self, node: Node[Any]) -> None:
        """Check only for cycles, depth and size, so that the workflow can be copied."""
        calls = (part for part in _parts(node) if not part.is_errback)
        for count, _ in enumerate(calls, 1):
            self.count(count)

    def count(self, tasks: int) -> None:
        """Raise `InvalidArguments` for more tasks than the setting `max_fan_out` allows."""
        most = self._runtime.conf.max_fan_out
        if tasks > most:
            raise InvalidArguments(
                f"the workflow has more than {most:,} tasks: does a loop not end? "
                "the setting max_fan_out allows more"
            )

    def _check_options(self, part: Part) -> None:
        """Refuse what the part's own message would be refused for, when its turn comes."""
        options: Any = part.signature.options
        if options:
            try:
                self._builder.check_options(part.signature.task, options)
            except (ConfigurationError, TypeError) as error:
                kind = ConfigurationError if isinstance(error, ConfigurationError) else None
                raise (kind or InvalidArguments)(f"{part.place}{error}") from error

    def _fit(self, part: Part) -> None:
        signature = part.signature
        task = self._tasks.get(signature.task)
        if task is None:
            return
        arguments = task.arguments
        try:
            # The value that comes first is not known yet.
            first = () if signature.immutable or not part.given else (LATER,)
            arguments.sendable((*first, *signature.args), signature.kwargs)
        except (InvalidArguments, EncodeError) as error:
            raise type(error)(f"{part.place}{error}") from error

    def blame(self, node: Node[Any], error: EncodeError) -> EncodeError:
        """Return the error with the name of the part whose arguments cannot be sent."""
        for part in _parts(node):
            named = [*enumerate(part.signature.args, 1), *part.signature.kwargs.items()]
            for name, value in named:
                try:
                    json_bytes(to_wire(value))
                except EncodeError as wrong:
                    return EncodeError(
                        f"{part.place}{part.signature.task}: argument {name}: {wrong}"
                    )
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A signature in a workflow: the path to it, and whether it gets a value first.

    What an error callback gets depends on its own signature.
    """

    signature: Signature[Any]
    path: tuple[str, ...]
    given: bool
    is_errback: bool

    @property
    def place(self) -> str:
        """The path as the start of an error message; empty for a signature alone."""
        return _at(self.path)


def _parts(node: Node[Any], composed: list[Node[Any]] | None = None) -> Iterator[Part]:
    """Yield the signatures of a workflow, those of its callbacks and error callbacks too.

    Composed nodes that have options are added to `composed`.
    Raises `InvalidArguments` for a cyclic or deep one.
    """
    stack = [_Visit(node=node)]
    while stack:
        visit = stack.pop()
        current, path = visit.node, visit.path
        if id(current) in visit.above:
            raise InvalidArguments(f"{_at(path)}the workflow contains itself")
        if len(visit.above) >= MAX_NESTING:
            raise InvalidArguments(
                f"{_at(path)}the workflow is nested deeper than {MAX_NESTING} levels: "
                "let a task start what lies deeper, with self.replace"
            )
        if path and isinstance(current, chain) and not current.tasks:
            raise InvalidArguments(_at(path) + EMPTY)
        callbacks = max(len(current.links), len(current.link_errors))
        if callbacks > CALLBACKS:
            raise InvalidArguments(
                f"{_at(path)}{callbacks:,} callbacks of one kind: {CALLBACKS:,} at most"
            )
        if isinstance(current, Signature):
            yield Part(signature=current, path=path, given=visit.given, is_errback=visit.is_errback)
        elif composed is not None and current.options:
            composed.append(current)
        inside = [*_inside(current, visit.given), *_callbacks(current)]
        stack += [visit.below(each, name, takes) for each, name, takes in reversed(inside)]
        errbacks = enumerate(current.link_errors, 1)
        stack += [visit.below(e, f"error callback {n}", True, is_errback=True) for n, e in errbacks]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """A node to look at: the path to it, and the ids of the nodes around it."""

    node: Node[Any]
    path: tuple[str, ...] = ()
    given: bool = False
    above: tuple[int, ...] = ()
    is_errback: bool = False

    def below(self, node: Node[Any], name: str, given: bool, *, is_errback: bool = False) -> _Visit:
        return _Visit(
            node=node,
            path=(*self.path, name),
            given=given,
            above=(*self.above, id(self.node)),
            is_errback=is_errback or self.is_errback,
        )


def _inside(node: Node[Any], given: bool) -> Sequence[tuple[Node[Any], str, bool]]:
    """Return the parts of a node: each with a name, and whether it gets a value first."""
    given = given and not node.takes_none
    if isinstance(node, chain):
        return [(s, f"step {n}", given or n > 1) for n, s in enumerate(node.tasks, 1)]
    if isinstance(node, chord):
        members = node.header.tasks
        header = [(m, f"member {n}", given) for n, m in enumerate(members, 1)]
        return [*header, (node.body, "body", True)]
    return [(m, f"member {n}", given) for n, m in enumerate(node.parts(), 1)]


def _callbacks(node: Node[Any]) -> Sequence[tuple[Node[Any], str, bool]]:
    return [(c, f"callback {n}", True) for n, c in enumerate(node.links, 1)]


def _at(path: tuple[str, ...]) -> str:
    shown = path if len(path) <= 8 else (*path[:4], "...", *path[-3:])
    return "".join(f"{step}: " for step in shown)
