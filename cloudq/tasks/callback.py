"""The base of all workflow nodes, for code that need not know their kinds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self, cast

from cloudq.errors import ConfigurationError, EncodeError, InvalidArguments
from cloudq.messages.values import to_wire
from cloudq.tasks.as_dict import AsDict
from cloudq.tasks.members import Members
from cloudq.tasks.steps import Steps
from cloudq.tasks.task_app import TaskApp

Called = Literal["links", "link_errors"]
CALLBACKS = 1000
"""The most callbacks of one part: they are compared with each other, which costs their square."""

_PLAIN = frozenset({str, int})


class Callback(AsDict):
    """Anything that `link` and `link_error` take: a signature or a node composed of some."""

    is_call = False  # true of a signature, which is one call of one task

    def __init__(self, app: TaskApp | None = None) -> None:
        if app is not None or self.is_call:  # a composed node has that of its first task
            self.app = app
        self.id: str | None = None
        self.options: dict[str, Any] = {}
        self.links: list[Any] = []
        self.link_errors: list[Any] = []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Callback):
            return isinstance(other, dict) and self._view() == other
        if _differ(self, other):
            return False
        return self.to_dict() == other.to_dict()

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    @property
    def own(self) -> bool:
        """Tell whether the node has callbacks, so that its parts cannot stand alone."""
        return bool(self.links or self.link_errors)

    def take_id(self, id: str) -> None:
        """Give the node's result this id. Raises `InvalidArguments` for what is none."""
        if not isinstance(id, str) or not id:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArguments(f"task_id is {id!r}: give a text, or leave it out")
        self.id = id

    def call_back(self, kind: Called, given: Iterable[Any], again: bool = False) -> Self:
        """Add callbacks, not those that are there unless `again`; one given twice is two calls."""
        raise NotImplementedError

    def link(self, callback: Any) -> Self:
        """Run a callback with the value once this node has succeeded."""
        return self.call_back("links", [callback])

    def link_error(self, errback: Any) -> Self:
        """Run a callback once a task of this node has failed, of a group for each that fails."""
        return self.call_back("link_errors", [errback])

    on_error = link_error

    def to_dict(self) -> dict[str, Any]:
        """Return the node as JSON values, which `app.signature` turns into a node again."""
        made = self._kind_dict()
        if self.id is not None:
            made["id"] = self.id
        if self.options:
            made["options"] = {key: to_wire(value) for key, value in self.options.items()}
        if not self.is_call and vars(self).get("immutable"):
            made["immutable"] = True
        if self.links:
            made["link"] = [callback.to_dict() for callback in self.links]
        if self.link_errors:
            made["link_error"] = [errback.to_dict() for errback in self.link_errors]
        return made

    def _kind_dict(self) -> dict[str, Any]:
        """Return the JSON values that only this kind of node has."""
        raise NotImplementedError

    def parts(self) -> Sequence[Any]:
        """Return the nodes directly inside this one; a generator of members is read to its end."""
        return ()

    def peek(self) -> Sequence[Any]:
        """Return the same nodes, but of an unread generator only the first, which stays in it."""
        return self.parts()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copied(())

    def _copied(self, above: tuple[int, ...]) -> Self:
        """Copy the node and all inside it; what stands at two places is copied twice.

        Each place of a signature is a call of its own. `above` has the nodes around this one.
        """
        if id(self) in above:
            raise InvalidArguments("the workflow contains itself")
        above = (*above, id(self))
        made = type(self).__new__(type(self))
        for name, value in self.kept.items():
            made.keep(name, value)
        for name, value in vars(self).items():
            setattr(made, name, value if name == "app" else _copied(value, above))
        return made


def _differ(one: Any, other: Any) -> bool:
    """Tell of calls that surely differ without writing them as JSON values; False says nothing."""
    if not one.is_call or not other.is_call:
        return False
    if one.task != other.task or len(one.args) != len(other.args):
        return True
    return any(
        type(a) in _PLAIN and type(b) in _PLAIN and a != b
        for a, b in zip(one.args, other.args, strict=True)
    )


def _copied(value: Any, above: tuple[int, ...]) -> Any:
    if isinstance(value, Callback):
        return value._copied(above)  # pyright: ignore[reportPrivateUsage]
    if type(value) is list:  # of nodes: arguments are kept as tuples and dicts
        return [_copied(item, above) for item in cast("list[Any]", value)]
    if isinstance(value, Members):
        members = cast("Members[Any]", value)
        return Members(iter([_copied(member, above) for member in members.all()]), lazy=False)
    if isinstance(value, Steps):
        steps = cast("Steps[Any]", value)
        return Steps([_copied(step, above) for step in steps.copied()])
    try:
        return copy.deepcopy(value)
    except RecursionError as error:
        raise EncodeError("the values of a signature nest too deep") from error
    except Exception as error:  # of a value's own, or of a value that belongs to this process
        raise EncodeError(f"a value of a signature cannot be copied: {error}") from error


def first_app(node: Callback) -> TaskApp | None:
    """Return the app of the first part that has one; None for none."""
    apps = (vars(each).get("app") for each in _parts(node))
    return next((app for app in apps if app is not None), None)


def _parts(node: Callback) -> Iterator[Callback]:
    """Yield a node and all nodes inside it; of an unread generator only the first."""
    stack, seen = [node], set[int]()
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            stack += current.peek()


def app_of(node: Callback) -> TaskApp | None:
    """Return the app of the first part that has one; None for a node without any call.

    Raises `ConfigurationError` for calls that belong to no app.
    """
    app = first_app(node)
    if app is not None or not any(each.is_call for each in _parts(node)):
        return app
    raise ConfigurationError(
        f"{node!r} belongs to no app: make it with task.s(...) or app.signature(...)"
    )


def callbacks(option: str, given: Any) -> Iterator[Any]:
    """Yield the nodes that `link` or `link_error` was given. Raises `InvalidArguments`."""
    is_one = isinstance(given, Callback)
    if not is_one and (isinstance(given, str | bytes) or not hasattr(given, "__iter__")):
        raise InvalidArguments(f"{option} is {given!r}: give signatures, as task.s(...)")
    for callback in [given] if is_one else given:
        if not isinstance(callback, Callback):
            raise InvalidArguments(f"{option} has {callback!r}: give signatures, as task.s(...)")
        yield callback


def extend(node: Callback, kind: Called, given: Sequence[Any], again: bool) -> None:
    """Add callbacks to a node itself, not those that are there unless `again`.

    Raises `InvalidArguments` for more than a message may have.
    """
    there: list[Any] = getattr(node, kind)
    made = [each for each in given if again or each not in there]
    count = len(there) + len(made)
    if count > CALLBACKS:
        many = f"{count:,} callbacks of one kind: {CALLBACKS:,} at most"
        raise InvalidArguments(f"{node!r:.200}: {many}")
    there += made


def node_of(given: Any) -> Any:
    """Return a node. Raises `InvalidArguments` for anything else."""
    if not isinstance(given, Callback):
        raise InvalidArguments(f"{given!r} is no signature: write task.s(...)")
    return given


def nodes_in(tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield the nodes in `group(a, b)`, `group([a, b])` and `group(x for x in ...)`."""
    given: Iterable[Any] = tasks
    if len(tasks) == 1 and not isinstance(tasks[0], Callback):
        given = tasks[0]
        given = given if isinstance(given, Iterable) else [given]  # pyright: ignore[reportUnnecessaryIsInstance]
    for node in given:
        yield node_of(node)
