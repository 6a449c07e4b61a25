"""The arguments of a call as they are given: a list or tuple, and a mapping by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from cloudq.errors import InvalidArguments

T = TypeVar("T")


async def in_thread(delay: Callable[..., T], args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
    """Send a call in a thread of its own, so that no event loop waits for it."""
    from asyncio import to_thread

    def sent() -> T:
        try:
            return delay(*args, **kwargs)
        except StopIteration as error:  # of the user's code, which no future takes
            raise RuntimeError("the call was not sent: StopIteration was raised") from error

    return await to_thread(sent)


def call_arguments(args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return both, None as none. Raises `InvalidArguments` for anything that is no arguments."""
    if kwargs is not None and not hasattr(args, "__iter__") and not hasattr(kwargs, "__iter__"):
        raise InvalidArguments(
            f"two arguments where one list of them belongs: write [{args!r:.50}, {kwargs!r:.50}]"
        )
    return positional(args), by_name(kwargs)


def positional(args: Any) -> Sequence[Any]:
    """Return positional arguments. Raises `InvalidArguments`: a text, say, is a single one."""
    if args is None:
        return ()
    if issubclass(type(args), list | tuple):
        return args
    raise InvalidArguments(
        f"arguments must be a list or tuple, and not {_article(args)}: a single one is written "
        "[value], and `delay(1, 2)` takes them one by one"
    )


def by_name(kwargs: Any) -> Mapping[str, Any]:
    """Return keyword arguments. Raises `InvalidArguments` if they are not a mapping by name."""
    if kwargs is None:
        return {}
    if not issubclass(type(kwargs), Mapping):
        raise InvalidArguments(
            f"keyword arguments must be a mapping, and not {_article(kwargs)}: all positional ones "
            "go into one list, as in apply_async([1, 2])"
        )
    is_plain = True
    for name in kwargs:
        if type(name) is str:
            continue
        if not isinstance(name, str):
            raise InvalidArguments(f"keyword arguments have {name!r}: each name must be a text")
        is_plain = False  # a member of a StrEnum, say
    return kwargs if is_plain else {str.__str__(key): value for key, value in kwargs.items()}


def _article(given: Any) -> str:
    name = type(given).__qualname__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def id_text(given: Any) -> str:
    """Return the id of a task, a UUID as its text. Raises `InvalidArguments` for what is none."""
    if isinstance(given, str):
        return given
    if isinstance(given, UUID):
        return str(given)
    raise InvalidArguments(f"the id of a task is {given!r:.100}: give a text, as result.id")


def each_of(given: Iterable[T], what: str) -> Iterator[T]:
    """Go through many values that were given. Raises `InvalidArguments` if they are not many."""
    try:
        return iter(given)
    except TypeError as error:
        raise InvalidArguments(f"{what}, and not {given!r:.100}") from error
