"""Signatures as dictionaries, in the form that programs know from Celery."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Self

from cloudq.errors import InvalidArguments

_CALLBACKS = {"link": "links", "link_error": "link_errors"}


class LiveOptions(dict[str, Any]):
    """The options of a signature, its id and its callbacks among them; a change is the node's."""

    def __init__(self, node: AsDict, made: dict[str, Any]) -> None:
        super().__init__(made)
        self._node = node

    def _pass_on(self) -> None:
        self._node["options"] = self

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._pass_on()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._pass_on()

    def update(self, *given: Any, **more: Any) -> None:
        super().update(*given, **more)
        self._pass_on()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        found = super().pop(key, *default)
        self._pass_on()
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle as a plain dictionary."""
        return dict, (dict(self),)


class AsDict(dict[str, Any]):
    """A dictionary of `task`, `args`, `kwargs`, `options`, `subtask_type` and `immutable`.

    Nothing is stored twice: what is read is made of the attributes, and what is set changes them.
    Other keys are the program's own.
    """

    id: str | None
    options: dict[str, Any]
    subtask_type: str | None = None

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made.keep("task", "")  # the json module writes an empty one as {}
        return made

    def keep(self, key: str, value: Any) -> None:
        """Store a key of the program's own."""
        super().__setitem__(key, value)

    @property
    def kept(self) -> dict[str, Any]:
        """The keys of the program's own."""
        if super().__len__() == 1:
            return {}
        return {name: value for name, value in super().items() if name != "task"}

    def set_immutable(self, immutable: bool) -> None:
        """Let the node take no value of earlier tasks, or take it again."""
        raise NotImplementedError

    def _call(self) -> dict[str, Any]:
        """Return the task and the arguments; of a composed signature its parts."""
        raise NotImplementedError

    def _view(self) -> dict[str, Any]:
        made = {"immutable": False, **self._call(), "subtask_type": self.subtask_type}
        view = {name: made[name] for name in ("task", "args", "kwargs")}
        view["options"] = self._all_options()
        view |= {name: made[name] for name in ("subtask_type", "immutable")}
        return {**view, **self.kept}

    def _all_options(self) -> dict[str, Any]:
        """Return the options, the id and the callbacks among them."""
        more = {"task_id": self.id} if self.id is not None else {}
        more |= {name: found for name, own in _CALLBACKS.items() if (found := getattr(self, own))}
        return LiveOptions(self, {**self.options, **more}) if more else self.options

    def __getitem__(self, key: str) -> Any:
        return self._view()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "options":
            options = dict(value)
            self.id = options.pop("task_id", None)
            for name, own in _CALLBACKS.items():
                found: Any = options.pop(name, None) or []
                setattr(self, own, found if isinstance(found, list) else list(found))
            self.options = options
        elif key == "args":
            self._take("args", tuple(value))
        elif key in ("task", "kwargs", "immutable"):
            self._take(key, value)
        elif key != "subtask_type":
            self.keep(key, value)

    def _take(self, key: str, value: Any) -> None:
        """Set a part. Raises `InvalidArguments` for those that a composed signature has not."""
        if self.subtask_type is not None and key != "immutable":
            raise InvalidArguments(f"a {self.subtask_type} has no {key} to set: make it anew")
        if self.subtask_type is not None:
            self.set_immutable(bool(value))
        else:
            setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        if key in self._view() and key not in self.kept:
            raise InvalidArguments(f"a signature always has {key}: set another value")
        super().__delitem__(key)

    def __contains__(self, key: object) -> bool:
        return key in self._view()

    def __iter__(self) -> Iterator[str]:
        return iter(self._view())

    def __len__(self) -> int:
        return len(self._view())

    def __bool__(self) -> bool:
        return True

    def get(self, key: str, default: Any = None) -> Any:
        return self._view().get(key, default)

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        return self._view().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self._view().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        return self._view().items()

    def update(self, *given: Any, **more: Any) -> None:
        for key, value in dict(*given, **more).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self and default:
            return default[0]
        found = self[key]
        del self[key]
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the attributes, of which the dictionary is made, and the program's own keys."""
        kind = type(self)
        return kind.__new__, (kind,), vars(self), None, iter(self.kept.items())

    def copy(self) -> Any:
        """Return a copy of the signature."""
        return self.__deepcopy__({})

    def __copy__(self) -> Any:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise NotImplementedError
