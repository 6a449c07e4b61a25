"""Validates arguments and results by pydantic, for tasks whose hints carry models."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Field, PydanticUserError, Strict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation

from cloudq.errors import (
    CloudQError,
    ConfigurationError,
    DecodeError,
    EncodeError,
    InvalidArguments,
)
from cloudq.messages.hiding import is_items
from cloudq.messages.json_text import is_list, is_object
from cloudq.messages.model_classes import is_secret
from cloudq.messages.payload_places import NotStored
from cloudq.messages.values import dump_value, from_wire, load_value, to_wire
from cloudq.tasks import typed_dicts
from cloudq.tasks.came_back import came_back, classes_of


def adapter(task: str, name: str, hint: Any) -> TypeAdapter[Any]:
    """Make what validates values of a hint. Raises `ConfigurationError`."""
    try:
        return TypeAdapter(as_it_travels(hint))
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise _uncheckable(task, name, error) from error


def validated(task: str, name: str, of: TypeAdapter[Any], value: Any) -> Any:
    """Validate an argument. Raises `InvalidArguments`, `ConfigurationError`."""
    try:
        return typed_dicts.validated(of, value)
    except ValidationError as error:
        raise _invalid(task, name, error) from error
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise _uncheckable(task, name, error) from error


def restored(task: str, name: str, of: TypeAdapter[Any], value: Any) -> Any:
    """Validate an argument that was read from a message. Raises `InvalidArguments`."""
    try:
        return _read(of, value)
    except ValidationError as error:
        raise _invalid(task, name, error) from error


def check_comes_back(task: str, name: str, of: TypeAdapter[Any], value: Any) -> None:
    """Raise `EncodeError` for an argument that its receiver would not read as it is."""
    try:
        read = _read(of, from_wire(to_wire(value)))
    except ValidationError as error:
        place, why = _first(name, error)
        raise EncodeError(
            f"{task}: {place} would arrive as what its own type refuses: {why}"
        ) from error
    except NotStored:
        raise
    except CloudQError as error:
        raise EncodeError(f"{task}: {name}: {error}") from error
    if not came_back(value, read, classes_of(of)):
        raise EncodeError(f"{task}: {name} {_changed(value, read)}")


def restored_result(task: str, of: TypeAdapter[Any], value: Any) -> Any:
    """Validate a result that was read from the store. Raises `DecodeError`."""
    try:
        return _read(of, value)
    except ValidationError as error:
        raise DecodeError(f"the result of {task} does not fit its type: {error}") from error


def written_result(task: str, of: TypeAdapter[Any], value: Any) -> str:
    """Write a result as JSON text. Raises `EncodeError` for one that would not come back."""
    text = dump_value(value)
    _check_result(task, of, value, load_value(text))
    return text


def restored_results(task: str, of: TypeAdapter[Any], values: Any) -> list[Any]:
    """Validate each of many results that were read from the store. Raises `DecodeError`."""
    if not is_list(values):
        raise DecodeError(_no_list(task, values))
    read = enumerate(values, 1)
    return [restored_result(_numbered(task, n), of, value) for n, value in read]


def written_results(task: str, of: TypeAdapter[Any], values: Any) -> str:
    """Write many results as JSON text. Raises `EncodeError` for one that would not come back."""
    if not issubclass(type(values), list | tuple):
        raise EncodeError(_no_list(task, values))
    text = dump_value(values)
    pairs = zip(values, load_value(text), strict=True)
    for number, (value, plain) in enumerate(pairs, 1):
        _check_result(_numbered(task, number), of, value, plain)
    return text


def _numbered(task: str, number: int) -> str:
    return f"{task} for item {number}"


def _no_list(task: str, values: object) -> str:
    return f"the result of {task} for many items is no list: {values!r:.100}"


def _check_result(task: str, of: TypeAdapter[Any], value: Any, plain: Any) -> None:
    """Raise `EncodeError` for a result that would not come back of what was written, `plain`."""
    try:
        read = restored_result(task, of, plain)
    except DecodeError as error:
        raise EncodeError(str(error)) from error
    try:
        whole = of.validate_python(value)
    except ValidationError:  # plain already, as a strict type would be read
        return
    if (closed := typed_dicts.closed_of(of)) is not None:
        try:
            closed.validate_python(value)
        except ValidationError as error:
            place, why = _first("it", error)
            raise EncodeError(f"the result of {task}: {place}: {why}") from error
    if not came_back(whole, read, classes_of(of)):
        raise EncodeError(f"the result of {task} {_changed(whole, read)}")


def as_it_travels(hint: Any) -> Any:
    """Return a hint for the containers that a message has, where it names any iterable.

    Pydantic makes an iterator of an `Iterable`, and knows no `Collection`.
    """
    origin, inside = get_origin(hint) or hint, get_args(hint)
    if origin is Iterable or origin is Collection:
        (item,) = inside or (Any,)
        sets: Any = Annotated[set[item], Strict()], Annotated[frozenset[item], Strict()]
        either: Any = Union[(*sets, list[item])]
        return Annotated[either, Field(union_mode="left_to_right")]
    if origin is Union or origin is UnionType:
        return Union[tuple(map(as_it_travels, inside))]  # noqa: UP007
    return hint


def _read(of: TypeAdapter[Any], value: Any) -> Any:
    """Validate what was read from JSON.

    A strict type refuses the list that its tuple has become, and the value of its enum. So what
    is refused is taken as a lax type would, if it would be written just so. A class that extends
    pydantic's `SecretStr` is made of the text alone. Raises `ValidationError`.
    """
    try:
        return of.validate_python(value)
    except ValidationError as error:
        is_of_secret = any(is_secret(item["input"]) for item in error.errors())
        for given in (value, _revealed(value)) if is_of_secret else (value,):
            try:
                made = of.validate_python(given, strict=False)
                if to_wire(made) == to_wire(value):
                    return made
            except (ValidationError, EncodeError):
                pass
        raise error


def _revealed(value: Any) -> Any:
    """Return a value that was read from JSON with the contents of its secrets in their places."""
    if is_secret(value):
        return value.get_secret_value()
    if is_object(value):
        return {key: _revealed(item) for key, item in value.items()}
    if is_items(value):
        kind: Any = type(value)
        return kind(map(_revealed, value))
    return value


def _invalid(task: str, name: str, error: ValidationError) -> InvalidArguments:
    place, why = _first(name, error)
    return InvalidArguments(f"{task}: {place}: {why}")


def _uncheckable(
    task: str, name: str, error: PydanticUserError | PydanticUndefinedAnnotation
) -> ConfigurationError:
    return ConfigurationError(
        f"{task}: pydantic cannot check the type hint of {name!r}: {error.message}"
    )


def _first(name: str, error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    return ".".join([name, *map(str, first["loc"])]), first["msg"]


def _changed(value: object, read: object) -> str:
    what = type(value).__qualname__
    if type(value) is not type(read):
        return f"is a {what} that would arrive as a {type(read).__qualname__}"
    return (
        f"is a {what} that would not arrive as it is: its own validation changes it, its hint "
        "names another type that fits too, or it has attributes that are not sent"
    )
