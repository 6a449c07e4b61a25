"""The type hints of a function, each by itself, and whether one has a model in it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    TypeVar,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from cloudq.driver.log import Log
from cloudq.messages.model_classes import is_model_class, secret_classes

log = Log("cloudq.app")


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    """Return a function's signature, also where its hints name what does not exist."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def hints_of(name: str, function: Callable[..., object]) -> Mapping[str, Any]:
    """Return the type hints of a task's function.

    A hint that cannot be resolved, for its name is imported for type checkers only, is left out,
    and a warning names it.
    """
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # whatever a name in a hint means here
        return _one_by_one(name, function)


def _one_by_one(name: str, function: Callable[..., object]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    lost: dict[str, str] = {}
    places = getattr(inspect.unwrap(function), "__globals__", {})
    for parameter, hint in _annotations(function).items():
        holder = SimpleNamespace(__annotations__={parameter: hint})
        try:
            found |= get_type_hints(holder, globalns=places, include_extras=True)
        except Exception as error:
            lost[parameter] = str(error)
    for parameter, why in lost.items():
        what = "result" if parameter == "return" else f"parameter {parameter!r}"
        log.warning(
            "task %s: the hint of its %s is not used, for it cannot be resolved here: %s. "
            "Values stay as they arrive; import what it names outside of TYPE_CHECKING",
            name,
            what,
            why,
        )
    return found


def _annotations(function: Callable[..., object]) -> Mapping[str, Any]:
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        return get_annotations(function, format=Format.FORWARDREF)
    return getattr(function, "__annotations__", {})


def carries_model(hint: object) -> bool:
    """Say if a hint has a model, dataclass, named tuple, typed dict, enum, secret or annotation."""
    return _carries(hint, frozenset())


def _carries(hint: object, above: frozenset[int]) -> bool:
    if id(hint) in above:  # an alias that contains itself
        return False
    if isinstance(hint, type) and not get_args(hint):
        kind = cast("type[object]", hint)
        return (
            is_model_class(kind)
            or issubclass(kind, (Enum, *secret_classes()))
            or is_dataclass(kind)
            or _is_checkable(kind)
        )
    if get_origin(hint) is Annotated or isinstance(hint, Enum):  # a member in a Literal
        return True
    # `type X = ...` and NewType have the hint that they stand for.
    named = getattr(hint, "__value__", None) or getattr(hint, "__supertype__", None)
    bounds = (hint.__bound__, *hint.__constraints__) if isinstance(hint, TypeVar) else ()
    parts = (named, get_origin(hint), *get_args(hint), *bounds)
    inside = [part for part in parts if part is not None]
    return any(_carries(part, above | {id(hint)}) for part in inside)


def _is_checkable(kind: type[object]) -> bool:
    if hasattr(kind, "_fields") and issubclass(kind, tuple):  # a named tuple
        return True
    # Pydantic can read typing.TypedDict from Python 3.12 on; before, the value stays a dict.
    return is_typed_dict(kind) and (sys.version_info >= (3, 12) or not is_typeddict(kind))


def of_result(hint: Any) -> Any:
    """Return the hint of a task's value, where its function returns what is awaited for it."""
    origin, inside = get_origin(hint), get_args(hint)
    if inside and isinstance(origin, type) and issubclass(origin, Awaitable):
        return inside[-1]
    return hint


def is_typed_dict(kind: object) -> bool:
    """Say if a type is a typed dict, of `typing` or of `typing_extensions`."""
    return isinstance(kind, type) and hasattr(kind, "__required_keys__") and issubclass(kind, dict)


def of_each(hint: Any) -> Any:
    """Return the hint in `*args` or `**kwargs` if pydantic can check it, else `Parameter.empty`.

    `Unpack` has a typed dict for all keywords, or a tuple for all positions; `P.args` and the like
    are for type checkers.
    """
    if unpacked(hint):
        (inside,) = get_args(hint) if get_origin(hint) is Unpack else (tuple[get_args(hint)],)
        known = get_origin(inside) is tuple or is_typed_dict(inside)
        return inside if known else inspect.Parameter.empty
    return inspect.Parameter.empty if hasattr(hint, "__origin__") and _is_spec(hint) else hint


def unpacked(hint: Any) -> bool:
    """Say if a hint is of all values of `*args` or `**kwargs` together."""
    return get_origin(hint) is Unpack or getattr(hint, "__unpacked__", False)


def _is_spec(hint: Any) -> bool:
    return type(hint).__name__ in ("ParamSpecArgs", "ParamSpecKwargs")
