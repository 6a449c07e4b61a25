"""The names of Celery's signatures that nodes have beside their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain as together
from typing import Any, NoReturn, Self, Unpack

from cloudq.errors import ConfigurationError, UnknownTask
from cloudq.messages.message import new_id
from cloudq.results.groups import GroupResult
from cloudq.tasks.call_options import CallOptions
from cloudq.tasks.callback import app_of, first_app


class CeleryNames:
    """The names that programs know from Celery, of signatures."""

    app: Any
    id: str | None
    subtask_type: str | None
    options: dict[str, Any]

    def as_node(self) -> Any:
        """Return this node, of which this file knows only the names."""
        return self

    def _call(self) -> dict[str, Any]:
        """Return the name that Celery gives to the kind of node, and its parts as arguments."""
        node, name = self.as_node(), f"celery.{self.subtask_type}"
        immutable = vars(self).get("immutable", False)
        parts: dict[str, Any] = {"tasks": node.tasks}
        if self.subtask_type == "chord":
            parts = {"header": parts["tasks"], "body": node.body, "kwargs": {}}
        return {"task": name, "args": (), "kwargs": parts, "immutable": immutable}

    def __getattr__(self, name: str) -> Any:
        # Of a composed signature; a single one has attributes of these names.
        if name in ("task", "args", "kwargs", "immutable") and self.subtask_type is not None:
            return self.as_node()[name]
        if name == "app":
            return first_app(self.as_node())
        if name == "tasks" and self.subtask_type == "chord":
            return self.as_node().header.tasks
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def type(self) -> Any:
        """The task, None where it is not registered."""
        node = self.as_node()
        return None if node.app is None else node.app.tasks.get(node["task"])

    def stamp(self, visitor: Any = None, **stamps: Any) -> NoReturn:
        """Refuse, with the reason."""
        raise ConfigurationError(
            "there are no stamps: set(headers={...}) gives a call headers, which its task finds in "
            "self.request.headers"
        )

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.as_node()["task"]

    def run_here(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the task's function here, as a call of the task does. Raises `UnknownTask`."""
        node = self.as_node().clone(args, kwargs)
        if (task := self.type) is None:
            raise UnknownTask(f"no task is named {node.task!r} in this process")
        return task(*node.args, **node.kwargs)

    def apply(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool = False,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Run the whole node in this process, without a queue; `throw` raises its failure here."""
        node: Any = self.as_node()
        app = app_of(node)
        node = node.clone(**options) if options else node
        if app is None:
            return node.empty_result()
        made = app.start_eagerly(node, args or (), kwargs or {})
        if throw:
            made.get()
        return made

    def start_with(self, /, *args: Any, **options: Any) -> Any:
        """Start the node with options for its first tasks; a chord takes a body here, as in Celery.

        `delay` is for keyword arguments. Raises `InvalidArguments` for an unknown option.
        """
        node: Any = self.as_node()
        if self.subtask_type == "chord":
            body = options.pop("body", None)
            if args and getattr(args[0], "subtask_type", self) is not self:
                body, args = args[0], args[1:]
            node = node if body is None else type(node)(node.header, body)
        return node.apply_async(args, **options)

    def __invert__(self) -> Any:
        """Start the node and wait for its value: `~task.s(1)`."""
        return self.as_node().delay().get()

    def __ior__(self, other: Any) -> Any:
        return self.as_node() | other

    def __ror__(self, other: NoReturn) -> Any:
        """Refuse what is no node: `|` of dictionaries would make one of both."""
        return NotImplemented

    def set_immutable(self, immutable: bool) -> None:
        """Let the node take no value of earlier tasks, or take it again."""
        self.as_node().set(immutable=immutable)

    def told(self, immutable: bool | None, options: dict[str, Any]) -> Self:
        """Keep what was set of a composed node, whose parts may stand at other places too."""
        self.options |= options
        if immutable is not None and self.subtask_type == "chain":
            vars(self)["immutable"] = immutable
        elif immutable is not None:  # of a group and a header its members, as in Celery
            for node in self.as_node().first():
                node.set(immutable=immutable)
        return self

    @property
    def takes_none(self) -> bool:
        """Tell whether a chain takes no value of earlier tasks."""
        return vars(self).get("immutable", False) and self.subtask_type is not None

    def pass_on(self) -> None:
        """Give the options of a composed node, however they were set, to its first tasks."""
        given, self.options = self.for_first, {}
        for node in self.as_node().first() if given else ():
            node.set(**given)

    @property
    def for_first(self) -> dict[str, Any]:
        """The options that a composed node gives to the calls that start it."""
        return {"immutable": True, **self.options} if self.takes_none else self.options

    def bare(self) -> Any:
        """Return a chain without its options, whose steps it shares; any other node itself."""
        if self.subtask_type != "chain" or self.as_node().own or not self.for_first:
            return self
        made = type(self)()
        made.as_node().steps = self.as_node().steps
        return made

    def with_mine(self, made: Any) -> Any:
        """Give what begins with the steps of this chain its options; of any other node nothing."""
        if self.bare() is self:
            return made
        if made.subtask_type != "chain":
            return made.clone(**self.for_first)
        return made.told(self.takes_none or None, self.options)

    def opened(self) -> list[Any]:
        """Return the steps of a chain, to stand in another: a copy of the first has its options."""
        given, steps = self.for_first, self.as_node().steps.copied()
        return [steps[0].clone(**given), *steps[1:]] if given and steps else steps

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a copy with other arguments and options."""
        made = self.as_node().clone()
        for name, value in {"args": args, "kwargs": kwargs, "options": options}.items():
            if value is not None:
                made[name] = value
        return made

    def flatten_links(self) -> list[Any]:
        """Return this node and all callbacks after it, those of callbacks too."""
        linked = (callback.flatten_links() for callback in self.as_node().links)
        return [self, *together.from_iterable(linked)]

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the text of the call with these arguments before its own."""
        return repr(self.as_node().clone(args, kwargs))

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Delay each member of a group by a step more than the one before it, in seconds."""
        for member, countdown in zip(
            self.as_node().tasks, _delays(start, stop, step), strict=False
        ):
            member.set(countdown=countdown)
        return self

    def freeze(self, _id: str | None = None, **more: Any) -> Any:
        """Give every task and group of the node an id, and return the result that it will have.

        A node that is sent afterwards has these ids.
        """
        node = self.as_node()
        if _id is not None:
            node.take_id(_id)
        return ids_given(node, None)


def ids_given(node: Any, parent: Any) -> Any:
    """Give a node and what is in it their ids; its result, which stands after `parent`."""
    if node.subtask_type is None:
        node.id = node.options.get("task_id") or node.id or new_id()
        node.options["task_id"] = node.id
        made = node.app.AsyncResult(node.id)
        made.parent = parent
        return made
    if node.subtask_type == "chain":
        node.tasks = [step.clone() for step in node.tasks]
        for step in node.tasks:
            parent = ids_given(step, parent)
        node.id = None if parent is None else parent.id
        return parent
    node.id = node.id or new_id()
    members = node.header.tasks if node.subtask_type == "chord" else node.tasks
    members[:] = [member.clone() for member in members]
    header = GroupResult[Any](node.id, [ids_given(each, None) for each in members], parent=parent)
    return ids_given(node.body, header) if node.subtask_type == "chord" else header


def _delays(start: float, stop: float | None, step: float) -> Iterator[float]:
    """Yield delays that grow by a step, up to `stop`, where they begin anew."""
    at = start
    while True:
        yield at
        at += step
        if stop is not None and at >= stop:
            at = stop
