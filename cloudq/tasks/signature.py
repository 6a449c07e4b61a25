"""Calls that are not made yet, and how they hang together: signatures, chains, groups, chords.

The names and the rules of composition are Celery's (its user guide, "Canvas"). All of them are
plain data: `to_wire` and `from_wire` turn them into JSON values and back.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, cast

from cloudq.errors import ConfigurationError, InvalidArguments
from cloudq.messages.ids import new_id
from cloudq.messages.values import from_wire, to_wire
from cloudq.results.groups import GroupResult
from cloudq.tasks.task_app import TaskApp

if TYPE_CHECKING:
    from cloudq.tasks.call_options import CallOptions

R = TypeVar("R")
S = TypeVar("S")


class Node(Generic[R]):
    """One piece of a workflow. `a | b` runs b after a, with a's value as its first argument.

    Nodes are changed in place by `set`, `link` and `link_error`, as Celery's are; `clone` makes
    a copy. `R` is what the whole of it comes to.
    """

    def __init__(self) -> None:
        self.app: TaskApp | None = None
        self.id: str | None = None
        self.options: dict[str, Any] = {}
        self.links: list[Node[Any]] = []
        self.link_errors: list[Node[Any]] = []

    def __or__(self, other: Node[S]) -> Node[S]:
        try:
            return joined([self, other])
        except RecursionError as error:
            raise InvalidArguments("the workflow contains itself, or is nested too deep") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and to_dict(self) == to_dict(cast("Node[Any]", other))

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = copy.copy(self)
        memo[id(self)] = made
        for name, value in vars(self).items():
            if name != "app":
                setattr(made, name, copy.deepcopy(value, memo))
        return made

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Self:
        """A copy that shares nothing with this one, with arguments put before its own."""
        made = copy.deepcopy(self)
        made.prepend(args, kwargs or {})
        return made

    def prepend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Put arguments before those of what starts first; immutable signatures take none."""
        for node in self.first():
            node.prepend(args, kwargs)

    def first(self) -> Sequence[Node[Any]]:
        """What starts when this does."""
        raise NotImplementedError

    def set(self, *, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Self:
        """Set call options of what starts first, or whether it takes the value before it.

        The callbacks in `link` and `link_error` are those of the whole, as with the methods.
        """
        given = self._linked(options)
        for node in self.first():
            node.set(immutable=immutable, **given)
        return self

    def _linked(self, options: CallOptions) -> CallOptions:
        """Take the callbacks out of options; what is left of those."""
        left = options.copy()
        for callback in _one_or_more(left.pop("link", ())):
            self.link(callback)
        for errback in _one_or_more(left.pop("link_error", ())):
            self.link_error(errback)
        return left

    def link(self, callback: Node[Any]) -> Self:
        """Run a callback with the value once this has succeeded."""
        if callback not in self.links:
            self.links.append(callback)
        return self

    def link_error(self, errback: Node[Any]) -> Self:
        """Run a callback once something of this has failed; see the guide for what it gets."""
        if errback not in self.link_errors:
            self.link_errors.append(errback)
        return self

    on_error = link_error

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Start it; arguments go before those of its first tasks."""
        app = self._app()
        return _nothing(self) if app is None else app.start(self, args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """`delay` with options for what starts first."""
        node = self.clone().set(**options) if options else self
        app = self._app()
        return _nothing(self) if app is None else app.start(node, args, kwargs or {})

    def apply(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Run all of it here and now."""
        app = self._app()
        return _nothing(self) if app is None else app.start_eagerly(self, args, kwargs or {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Start it, as Celery's `group(...)()` and `chain(...)()` do."""
        return self.delay(*args, **kwargs)

    def _app(self) -> TaskApp | None:
        """The app of the first part that has one; None where there is no task to run."""
        app = next(_apps(self), None)
        if app is not None:
            return app
        if next(_signatures(self), None) is None:
            return None
        raise ConfigurationError(
            f"{self!r} belongs to no app: make it with task.s(...) or app.signature(...)"
        )


class Signature(Node[R]):
    """One call of one task, with all or some of its arguments."""

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
        super().__init__()
        self.task = task
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self.options = dict(options or {})
        self.immutable = immutable
        self.app = app

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.task}({', '.join(shown)})"

    def first(self) -> Sequence[Node[Any]]:
        return [self]

    def prepend(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if not self.immutable:
            self.args = (*args, *self.args)
            self.kwargs |= kwargs

    def set(self, *, immutable: bool | None = None, **options: Unpack[CallOptions]) -> Self:
        if immutable is not None:
            self.immutable = immutable
        self.options |= self._linked(options)
        return self


class chain(Node[R]):  # noqa: N801 (Celery's name)
    """One after the other, each with the value of the one before as its first argument.

    A group that something follows is a chord: what follows gets the list of its values.
    """

    def __init__(self, *tasks: Node[Any] | Iterable[Node[Any]]) -> None:
        super().__init__()
        self.tasks: list[Node[Any]] = list(_members(tasks))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks)) or "chain()"

    def first(self) -> Sequence[Node[Any]]:
        return self.tasks[:1]


class group(Node[list[R]]):  # noqa: N801 (Celery's name)
    """At the same time. A generator of members is read as they are sent."""

    def __init__(self, *tasks: Node[R] | Iterable[Node[R]]) -> None:
        super().__init__()
        self._source: Iterator[Node[R]] | None = None
        self._tasks: list[Node[R]] = []
        if len(tasks) == 1 and isinstance(tasks[0], Iterator):
            self._source = tasks[0]
        else:
            self._tasks = list(_members(tasks))

    def __repr__(self) -> str:
        inside = "..." if self._source is not None else ", ".join(map(repr, self._tasks))
        return f"group({inside})"

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    @property
    def is_stream(self) -> bool:
        """Whether the members come from a generator that has not been read."""
        return self._source is not None

    def link(self, callback: Node[Any]) -> Self:
        """Run a callback, without a value, once the first member has succeeded."""
        for node in self.tasks[:1]:
            node.link(callback.clone().set(immutable=True))
        return self

    def link_error(self, errback: Node[Any]) -> Self:
        """Run a callback for each member that fails."""
        for node in self.tasks:
            node.link_error(errback)
        return self

    on_error = link_error

    @property
    def tasks(self) -> list[Node[R]]:
        """The members; those of a generator are read to the end here."""
        if self._source is not None:
            source, self._source = self._source, None
            self._tasks = list(_members([source]))
        return self._tasks

    def stream(self) -> Iterator[Node[R]]:
        """The members, one by one; those of a generator can be had once."""
        if self._source is None:
            yield from self._tasks
        else:
            yield from _members([self._source])

    def peek(self) -> Sequence[Node[R]]:
        """The members, of a generator only the first, which stays to be read."""
        if self._source is None:
            return self._tasks
        first = list(itertools.islice(_members([self._source]), 1))
        self._source = itertools.chain(first, self._source)
        return first

    def first(self) -> Sequence[Node[Any]]:
        return self.tasks

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        _ = self.tasks  # a generator cannot be copied, and what it gives can
        return super().__deepcopy__(memo)


class chord(Node[R]):  # noqa: N801 (Celery's name)
    """A group, and a body that gets the list of its values once all members have succeeded.

    `chord(header)(body)` is `chord(header, body)()`.
    """

    def __init__(
        self,
        header: Node[Any] | Iterable[Node[Any]],
        body: Node[R] | None = None,
    ) -> None:
        super().__init__()
        self.header: group[Any] = header if isinstance(header, group) else _grouped(header)
        self._body = body

    def __repr__(self) -> str:
        return f"chord({self.header!r}, {self._body!r})"

    @property
    def body(self) -> Node[R]:
        """What gets the values. Raises `InvalidArguments` while there is none."""
        if self._body is None:
            raise InvalidArguments(
                "a chord needs a body: chord(header, body), or chord(header)(body)"
            )
        return self._body

    @body.setter
    def body(self, body: Node[R]) -> None:
        self._body = body

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._body is None and args and isinstance(args[0], Node):
            return chord(self.header, cast("Node[Any]", args[0])).delay(*args[1:], **kwargs)
        return self.delay(*args, **kwargs)

    def first(self) -> Sequence[Node[Any]]:
        return self.header.tasks

    def link(self, callback: Node[Any]) -> Self:
        self.body.link(callback)
        return self

    def link_error(self, errback: Node[Any]) -> Self:
        self.body.link_error(errback)
        return self

    on_error = link_error


def _one_or_more(callbacks: Node[Any] | Sequence[Node[Any]]) -> Sequence[Node[Any]]:
    return [callbacks] if isinstance(callbacks, Node) else callbacks


def _nothing(node: Node[Any]) -> GroupResult[Any] | None:
    """The result of a node that has no task in it."""
    return None if isinstance(node, chain) else GroupResult[Any](new_id(), [])


def _signatures(node: Node[Any]) -> Iterator[Signature[Any]]:
    """The signatures in a node, each once; of what a generator gives only the first."""
    stack, seen = [node], set[int]()
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Signature):
            yield current
        elif isinstance(current, chain):
            stack += current.tasks
        elif isinstance(current, group):
            stack += cast("group[Any]", current).peek()
        elif isinstance(current, chord):
            stack += (current.header, current.body)


def _apps(node: Node[Any]) -> Iterator[TaskApp]:
    parts = itertools.chain([node], _signatures(node))
    return (each.app for each in parts if each.app is not None)


def _members(tasks: Sequence[Any]) -> Iterator[Node[Any]]:
    """The nodes in `group(a, b)`, `group([a, b])` and `group(x for x in ...)`."""
    given: Iterable[Any] = tasks
    if len(tasks) == 1 and not isinstance(tasks[0], Node):
        given = tasks[0]
    for node in given:
        if not isinstance(node, Node):
            raise InvalidArguments(f"{node!r} is no signature: write task.s(...)")
        yield cast("Node[Any]", node)


def _grouped(header: Node[Any] | Iterable[Node[Any]]) -> group[Any]:
    return group(header)


def joined(nodes: Iterable[Node[Any]]) -> Node[Any]:
    """What runs nodes one after the other, in its simplest form.

    Chains are taken apart, a group with something after it is a chord, and one with a single
    member that comes after something is that member.
    """
    steps: list[Node[Any]] = []
    for given in _steps(nodes):
        node = _single(given) if steps else given
        if not steps:
            steps.append(node)
        else:
            steps[-1:] = _followed(steps[-1], node)
    return steps[0] if len(steps) == 1 else chain(steps)


def _single(node: Node[Any]) -> Node[Any]:
    members: Sequence[Node[Any]] = ()
    if isinstance(node, group):
        members = cast("group[Any]", node).tasks
    return members[0] if len(members) == 1 else cast("Node[Any]", node)


def _followed(last: Node[Any], node: Node[Any]) -> list[Node[Any]]:
    """A step and what follows it, as one step where that makes a chord."""
    if isinstance(last, group):
        return [chord(cast("group[Any]", last), node)]
    if isinstance(last, chord):
        inside = _followed(last.body, node)
        if len(inside) == 1:  # it ends in a group, however deep
            return [chord(last.header, inside[0])]
    return [last, node]


def _steps(nodes: Iterable[Node[Any]]) -> Iterator[Node[Any]]:
    for node in nodes:
        if isinstance(node, chain) and not node.links and not node.link_errors and not node.options:
            yield from _steps(node.tasks)
        else:
            yield node


def walk(node: Node[Any]) -> Iterator[Node[Any]]:
    """A node and all inside it, callbacks left out."""
    yield node
    inside: Sequence[Node[Any]] = ()
    if isinstance(node, chain):
        inside = node.tasks
    elif isinstance(node, group):
        inside = cast("group[Any]", node).tasks
    for one in inside:
        yield from walk(one)
    if isinstance(node, chord):
        yield from walk(node.header)
        yield from walk(node.body)


def to_dict(node: Node[Any]) -> dict[str, Any]:
    """A node as JSON values."""
    made: dict[str, Any]
    if isinstance(node, Signature):
        made = {"task": node.task}
        if node.args:
            made["args"] = [to_wire(arg) for arg in node.args]
        if node.kwargs:
            made["kwargs"] = {key: to_wire(value) for key, value in node.kwargs.items()}
        if node.immutable:
            made["immutable"] = True
    elif isinstance(node, chain):
        made = {"chain": [to_dict(step) for step in node.tasks]}
    elif isinstance(node, chord):
        made = {"chord": [to_dict(member) for member in node.header.tasks]}
        made["body"] = to_dict(node.body)
    else:
        members = cast("group[Any]", node).tasks
        made = {"group": [to_dict(member) for member in members]}
    if node.id is not None:
        made["id"] = node.id
    if node.options:
        made["options"] = {key: to_wire(value) for key, value in node.options.items()}
    if node.links:
        made["link"] = [to_dict(callback) for callback in node.links]
    if node.link_errors:
        made["link_error"] = [to_dict(errback) for errback in node.link_errors]
    return made


def from_dict(made: Mapping[str, Any], app: TaskApp | None = None) -> Node[Any]:
    """The node in JSON values. Raises `InvalidArguments` for what is none."""
    node = _kind(made, app)
    node.id = made.get("id")
    node.options = {key: from_wire(value) for key, value in made.get("options", {}).items()}
    node.links = [from_dict(callback, app) for callback in made.get("link", ())]
    node.link_errors = [from_dict(errback, app) for errback in made.get("link_error", ())]
    return node


def _kind(made: Mapping[str, Any], app: TaskApp | None) -> Node[Any]:
    match made:
        case {"task": str(task)}:
            return Signature(
                task,
                [from_wire(arg) for arg in made.get("args", ())],
                {key: from_wire(value) for key, value in made.get("kwargs", {}).items()},
                immutable=bool(made.get("immutable")),
                app=app,
            )
        case {"chain": [*steps]}:
            return chain([from_dict(step, app) for step in steps])
        case {"group": [*members]}:
            return group([from_dict(member, app) for member in members])
        case {"chord": [*members], "body": body}:
            return chord([from_dict(member, app) for member in members], from_dict(body, app))
        case _:
            raise InvalidArguments(f"{dict(made)!r} is no signature")
