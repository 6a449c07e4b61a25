"""The classes of signatures under Celery's names, which make nodes of cloudq."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cloudq.app.shared_task import APPS
from cloudq.errors import ConfigurationError
from cloudq.tasks import signature as core
from cloudq.tasks.signature_json import from_dict

R = TypeVar("R")


class _Kind(type):
    """Makes nodes of one kind, and counts each of them as an instance."""

    kind: type[Any]

    def __call__(cls, *args: Any, app: Any = None, **options: Any) -> Any:
        made = cls.kind(*args, **options)
        made.app = app
        return made

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.kind)


class _Call(_Kind):
    def __call__(
        cls,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more: Any,
    ) -> Any:
        if isinstance(task, Mapping):
            return read(task, app)
        name = task if isinstance(task, str) else task.name
        app = app or getattr(task, "app", None) or current()
        given = {**(options or {}), **more}
        return core.Signature[Any](
            name, args or (), kwargs or {}, given, immutable=immutable, app=app
        )


def current() -> Any:
    """Return the current app, None if there is none."""
    try:
        return APPS.current()
    except ConfigurationError:
        return None


def read(made: Any, app: Any = None) -> Any:
    """Read a node from a dictionary, for an app or for the current one."""
    return from_dict(made, app or current())


class Signature(core.Signature[Any], metaclass=_Call):
    """One call of one task, or a node composed of some."""

    kind = core.Node
    from_dict = staticmethod(read)


class chain(core.chain[R], metaclass=_Kind):  # noqa: N801 (Celery's name)
    """Nodes that run one after the other."""

    kind = core.chain
    from_dict = staticmethod(read)


class group(core.group[R], metaclass=_Kind):  # noqa: N801
    """Nodes that run at the same time."""

    kind = core.group
    from_dict = staticmethod(read)


class chord(core.chord[R], metaclass=_Kind):  # noqa: N801
    """A group and a body, which gets the list of the members' values."""

    kind = core.chord
    from_dict = staticmethod(read)


class Chunks(core.group[R]):
    """The calls of `task.chunks`, which are a group already."""

    def group(self) -> Chunks[R]:
        """Return the group."""
        return self


def _pickled(node: Any) -> tuple[Any, ...]:
    return read, (node.to_dict(),)


for kind in (core.Signature, core.chain, core.group, core.chord, Chunks):
    copyreg.pickle(kind, _pickled)
