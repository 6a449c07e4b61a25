"""Workflow nodes: signatures of calls, and chains, groups and chords, by the names of Celery."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeGuard, TypeVar, Unpack, overload

from cloudq.errors import InvalidArguments
from cloudq.messages.message import new_id
from cloudq.messages.redaction import Redaction
from cloudq.messages.values import to_wire
from cloudq.results.groups import GroupResult
from cloudq.results.result import AsyncResult
from cloudq.tasks.call_arguments import by_name, in_thread, positional
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.callback import Callback, Called, app_of, callbacks, extend, node_of, nodes_in
from cloudq.tasks.celery_names import CeleryNames
from cloudq.tasks.members import Members
from cloudq.tasks.steps import COLLECT, NESTED, Steps, steps_of
from cloudq.tasks.task_app import TaskApp

R = TypeVar("R")
S = TypeVar("S")


class Node(CeleryNames, Callback, Generic[R]):
    """A part of a workflow. `a | b` runs b after a, with a's value as its first argument.

    `set`, `link` and `link_error` change a node in place, as Celery's do; `clone` makes a copy.
    `R` is the type of the node's result.
    """

    links: list[Node[Any]]
    link_errors: list[Node[Any]]

    @overload  # one that ends as a group does
    def __or__(self, other: group[S]) -> group[S]: ...
    @overload
    def __or__(self, other: Node[S]) -> Node[S]: ...
    def __or__(self, other: Node[S]) -> Node[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return self.with_mine(joined(nodes_in([self.bare(), other])))
        except RecursionError as error:
            raise InvalidArguments("the workflow contains itself, or is nested too deep") from error

    def clone(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Self:
        """Copy this node deeply, with arguments put before its own, and with more options."""
        made = copy.deepcopy(self)
        made.prepend(positional(args), by_name(kwargs))
        return made.set(**options) if options else made

    def prepend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Put arguments before those of the first tasks; immutable signatures take none."""
        if not self.takes_none:
            for node in self.first():
                node.prepend(args, kwargs)

    def first(self) -> Sequence[Node[Any]]:
        """Return the nodes that start when this one does."""
        return self.parts()

    def set(self, *, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Self:
        """Set call options of the first tasks; `immutable` ones take no value of earlier tasks.

        `link` and `link_error` are of the whole node; so is `task_id`, the id of its result.
        """
        given: Any = self._linked(options)
        if (id := given.pop("task_id", None)) is not None:
            self.take_id(id)
        return self.told(immutable, given)

    def _linked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Add the callbacks among the options to this node, and return the other options."""
        left = dict(options)
        self.call_back("links", callbacks("link", left.pop("link", ())))
        self.call_back("link_errors", callbacks("link_error", left.pop("link_error", ())))
        return left

    def call_back(self, kind: Called, given: Iterable[Node[Any]], again: bool = False) -> Self:
        """Add callbacks, not those that are there unless `again`; one given twice is two calls."""
        extend(self, kind, [each for each in given if not is_empty(each)], again)
        return self

    def delay(self, /, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Start the node; arguments go before those of its first tasks."""
        return self.apply_async(args, kwargs)

    async def adelay(self, /, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Start the node without blocking the event loop."""
        return await in_thread(self.delay, args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Start the node with options for its first tasks."""
        node, app = self.clone(**options) if options else self, app_of(self)
        result: Any = self.empty_result() if app is None else app.start(node, args, kwargs or {})
        return result

    __call__ = delay  # `group(...)()` and `chain(...)()` start, `task.s()()` does not

    def empty_result(self) -> GroupResult[Any] | None:
        """Return the result of a node without calls; that of a chain is None."""
        return None if isinstance(self, chain) else GroupResult[Any](new_id(), [])


class Signature(Node[R]):
    """One call of one task, with all or some of its arguments."""

    is_call = True
    __call__ = CeleryNames.run_here  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        task: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: TaskApp | None = None,
    ) -> None:
        super().__init__(app)
        self.task = task
        self.args = tuple(positional(args))
        self.kwargs = dict(by_name(kwargs))
        self.options = dict(self._linked(options or {}))
        self.immutable = immutable

    def _call(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("task", "args", "kwargs", "immutable")}

    def __repr__(self) -> str:
        rules = Redaction((), {}) if self.app is None else self.app.runtime.redaction
        args, named = rules.shown(self.task, self.args, self.kwargs, part=not self.immutable)
        shown = [*map(repr, args), *(f"{k}={v!r}" for k, v in named.items())]
        return f"{self.task}({', '.join(shown)})"

    def first(self) -> Sequence[Node[Any]]:
        return [self]

    def prepend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if not self.immutable:
            self.args = (*args, *self.args)
            self.kwargs |= kwargs

    def set(self, *, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Self:
        self.immutable = self.immutable if immutable is None else immutable
        self.options |= self._linked(options)
        return self

    def _kind_dict(self) -> dict[str, Any]:
        kwargs = {key: to_wire(value) for key, value in self.kwargs.items()}
        parts: dict[str, Any] = {"args": list(map(to_wire, self.args)), "kwargs": kwargs}
        parts["immutable"] = self.immutable
        return {"task": self.task} | {name: value for name, value in parts.items() if value}


class chain(Node[R]):  # noqa: N801 (Celery's name)
    """Nodes that run one after the other, each with the value before it as its first argument.

    A group with a node after it becomes a chord: that node gets the list of the group's values.
    """

    subtask_type = "chain"

    def __init__(self, *tasks: Node[Any] | Iterable[Node[Any]]) -> None:
        super().__init__()
        steps: list[Node[Any]] = []
        for node in nodes_in(tasks):
            opened = isinstance(node, chain) and not node.own
            inside: list[Any] = node.opened() if opened else [node]
            while inside and is_empty(inside[-1]):
                inside.pop()
            steps += inside
        self.steps = Steps[Node[Any]](steps)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks)) or "chain()"

    @property
    def tasks(self) -> list[Node[Any]]:
        """The steps, a list of this chain's own."""
        return self.steps.all()

    @tasks.setter
    def tasks(self, tasks: list[Node[Any]]) -> None:
        self.steps = Steps(tasks)

    def first(self) -> Sequence[Node[Any]]:
        return self.steps.first

    def take_id(self, id: str) -> None:
        for step in self.tasks[-1:]:
            self.tasks[-1] = step.clone(task_id=id)

    def parts(self) -> Sequence[Node[Any]]:
        return self.tasks

    def peek(self) -> Sequence[Node[Any]]:
        return self.steps.copied()

    def _kind_dict(self) -> dict[str, Any]:
        return {"chain": [step.to_dict() for step in self.tasks]}


class group(Node[list[R]]):  # noqa: N801 (Celery's name)
    """Nodes that run at the same time. Members from a generator are read as they are sent."""

    subtask_type = "group"

    def __init__(self, *tasks: Node[R] | Iterable[Node[R]]) -> None:
        super().__init__()
        lazy = len(tasks) == 1 and isinstance(tasks[0], Iterator)
        nodes = nodes_in(tasks)
        given: Any = (n for n in nodes if (is_group(n) and n.is_stream) or not is_empty(n))
        self._members = Members[Node[R]](given, lazy=lazy)

    if TYPE_CHECKING:  # what starts is many calls
        delay: Callable[..., GroupResult[R]]  # type: ignore
        adelay: Callable[..., Any]  # type: ignore
        apply_async: Callable[..., GroupResult[R]]  # type: ignore
        __call__: Callable[..., GroupResult[R]]  # type: ignore
    else:
        __call__ = CeleryNames.start_with

    def __repr__(self) -> str:
        inside = "..." if self.is_stream else ", ".join(map(repr, self.tasks))
        return f"group({inside})"

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def is_stream(self) -> bool:
        """Tell whether the members come from a generator that has not been read."""
        return not self._members.is_read

    def call_back(self, kind: Called, given: Iterable[Node[Any]], again: bool = False) -> Self:
        made = list(given)
        members = self.tasks if made else []
        if kind == "links":  # of the first alone, and without its value
            members, made = members[:1], [each.clone().set(immutable=True) for each in made]
        for member in members:
            member.call_back(kind, made, again=again)
        return self

    @property
    def tasks(self) -> list[Node[R]]:
        """The members; reading this reads a generator to its end."""
        return self._members.all()

    def stream(self) -> Iterator[Node[R]]:
        """Iterate over the members one by one; those of a generator can be read only once."""
        return self._members.stream()

    def peek(self) -> Sequence[Node[R]]:
        return self._members.peek()

    def parts(self) -> Sequence[Node[Any]]:
        return self.tasks

    def _kind_dict(self) -> dict[str, Any]:
        return {"group": [member.to_dict() for member in self.tasks]}


class chord(Node[R]):  # noqa: N801 (Celery's name)
    """A group and a body, which gets the list of the members' values once all have succeeded.

    `chord(header)(body)` is `chord(header, body)()`.
    """

    subtask_type = "chord"

    def __init__(
        self, header: Node[Any] | Iterable[Node[Any]], body: Node[R] | None = None
    ) -> None:
        super().__init__()
        self.header: group[Any] = header if is_group(header) else group(header)
        self._body = body if body is None else node_of(body)

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self._body!r})"

    @property
    def body(self) -> Node[R]:
        """The node that gets the values. Raises `InvalidArguments` while there is none."""
        if self._body is None:
            raise InvalidArguments("a chord needs a body: write chord(header, body)")
        return self._body

    @body.setter
    def body(self, body: Node[R]) -> None:
        self._body = node_of(body)

    __call__ = CeleryNames.start_with  # pyright: ignore[reportAssignmentType]

    def first(self) -> Sequence[Node[Any]]:
        return self.header.tasks

    def take_id(self, id: str) -> None:
        self.body = self.body.clone(task_id=id)

    def parts(self) -> Sequence[Node[Any]]:
        return self.header, self.body

    def _kind_dict(self) -> dict[str, Any]:
        return {"chord": [m.to_dict() for m in self.header.tasks], "body": self.body.to_dict()}

    def call_back(self, kind: Called, given: Iterable[Node[Any]], again: bool = False) -> Self:
        if made := list(given):
            self.body.call_back(kind, made, again=again)
        return self


def is_node(given: object) -> TypeGuard[Node[Any]]:
    """Tell whether a value is a node, of any result type."""
    return isinstance(given, Node)


def is_group(given: object) -> TypeGuard[group[Any]]:
    """Tell whether a value is a group, of any member type."""
    return isinstance(given, group)


def is_empty(node: Node[Any]) -> bool:
    """Tell whether a node is a chain or a group without tasks, and without callbacks."""
    called_back = node.links or node.link_errors
    if isinstance(node, chain):
        return not (called_back or node.steps.last)
    return is_group(node) and not (called_back or node.peek())


def joined(nodes: Iterable[Node[Any]]) -> Node[Any]:
    """Return a node that runs nodes one after the other, in its simplest form.

    Chains inside are unpacked, a group with a node after it becomes a chord, and a group of one
    member with a node before it becomes that member.
    """
    steps = steps_of(_steps(nodes), _after)
    made: chain[Any] = chain()
    if steps is None:
        return made
    made.steps = steps
    return steps.last[0] if steps.is_single else made


def _after(last: Node[Any], node: Node[Any]) -> list[Node[Any]]:
    while is_group(node) and len(node) == 1:
        options, node = node.options, joined(node.parts())
        node = node.clone(**options) if options else node
    if isinstance(node, chain) and not node.own:
        first, *rest = node.opened()
        return [*_after(last, first), *rest]
    return _followed(last, node)


def _followed(last: Node[Any], node: Node[Any]) -> list[Node[Any]]:
    """Return a step and the node after it, as one step where that makes a chord."""
    if is_group(last):
        return [last] if is_group(node) and is_empty(node) else [chord(last, node)]
    if not isinstance(last, chord) or (depth := _chords_to_group(last.body)) is None:
        return [last, node]
    if depth < NESTED:
        return [chord(last.header, joined([last.body, node]))]
    return [chord(last.header, joined([last.body, Signature(COLLECT)])), node]


def _chords_to_group(node: Node[Any]) -> int | None:
    """Count the chords around the group that a node ends in; None if it ends in none."""
    depth = 0
    while not is_group(node):
        if isinstance(node, chain) and not node.own and node.steps.last:
            node = node.steps.last[0]
        elif isinstance(node, chord):
            node, depth = node.body, depth + 1
        else:
            return None
    return depth


def _steps(nodes: Iterable[Node[Any]]) -> Iterator[Node[Any] | Steps[Node[Any]]]:
    for node in nodes:
        if node.own or not isinstance(node, chain):
            yield node
        elif node.steps.is_simple and not node.for_first:
            yield node.steps
        else:
            yield from _steps(node.opened())
