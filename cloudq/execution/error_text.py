"""Exceptions as text: what a record keeps of the error that ended a task."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace

from cloudq.driver.ends import Died
from cloudq.errors import MaxRetriesExceeded, Retry
from cloudq.execution.error_state import made_of, state_text, with_tuples
from cloudq.messages.values import dump_value
from cloudq.results.record import Record
from cloudq.tasks.secrecy import hidden_value
from cloudq.text import hidden

_LONGEST = 32_000
_LONGEST_REASON = 1000
_DEEPEST = 3  # of groups in groups, whose texts would double at each depth
_MOST = 50


def with_error(record: Record, error: BaseException) -> Record:
    """Add an error to a record: its type, text, arguments and traceback."""
    return replace(
        record,
        error_type=name_of(error),
        error=error_text(error),
        error_args=_dumped(error),
        error_state=state_text(error, _members(error)),
        traceback=utf8(hidden("".join(traceback.format_exception(error))))[-_LONGEST:],
    )


def name_of(error: BaseException) -> str:
    """Return the qualified name of the class of an exception."""
    kind = type(error)
    name = kind.__qualname__
    return utf8(name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}")


def error_text(error: BaseException) -> str:
    """Return the text of an error, as long as a record may have it."""
    return _text(error)[:_LONGEST]


def reason_of(error: BaseException) -> str:
    """Return the name and the text of an error, as long as a reason may be."""
    try:
        return utf8(f"{type(error).__qualname__}: {_text(error)}"[:_LONGEST_REASON])
    except Died:
        raise
    except BaseException:  # of the user's own metaclass
        return "an exception that cannot be described"


def spent(cause: BaseException, task: str) -> BaseException:
    """Return the error of a call that was tried too often: its cause, if its retry named one."""
    no_cause = isinstance(cause, Retry)
    return MaxRetriesExceeded(f"{task} may not be retried again") if no_cause else cause


def utf8(text: str) -> str:
    """Escape lone surrogates (odd file names have them), which no store takes."""
    return text.encode(errors="backslashreplace").decode()


def said(value: object) -> str:
    """Return a value as the text that a record has, without the secrets of the call."""
    return utf8(hidden(str(value)))


def _text(error: BaseException) -> str:
    try:
        return said(error)
    except Died:
        raise
    except BaseException as broken:  # the user's own __str__
        return f"<its __str__ raised {type(broken).__name__}>"


def _members(error: BaseException, depth: int = 0) -> list[dict[str, str | None]] | None:
    """Return what a record keeps of the exceptions in a group; None if they are too many."""
    if not issubclass(type(error), ExceptionGroup):
        return None
    inside: Sequence[Exception] = getattr(error, "exceptions", ())
    if depth == _DEEPEST or len(inside) > _MOST:
        return None
    return [
        {
            "error_type": name_of(each),
            "error": error_text(each),
            "error_args": _dumped(each),
            "error_state": state_text(each, _members(each, depth + 1)),
        }
        for each in inside
    ]


def _dumped(error: BaseException) -> str | None:
    """Write exception arguments as JSON text; None if they are not plain and short enough."""
    try:
        text = dump_value([with_tuples(hidden_value(arg)) for arg in made_of(error)])
    except Died:
        raise
    except BaseException:  # the arguments are the user's own objects, whose methods run here
        return None
    return text if len(text) <= _LONGEST else None


def line_of(text: str) -> str:
    """Return a reason as one printable line, as long as a dead letter may have it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text[:1000])
