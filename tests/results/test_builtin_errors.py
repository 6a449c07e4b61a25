"""Every exception of the interpreter comes back in its own class, with what its class keeps."""

from __future__ import annotations

import builtins
import os
import pathlib
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest

from tests.results.test_errors_come_back import came_back
from tests.support.bench import Bench

_KINDS: list[type[Exception]] = list(
    dict.fromkeys(
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )
)
_OF_ANY: list[tuple[Any, ...]] = [
    ("x", [ValueError(1)]),
    (),
    ("x",),
    (1,),
    ("x", "y"),
    (None,),
    ((1, 2),),
    (object(),),
]
_OF_OS: list[tuple[Any, ...]] = [
    (2, "x", "f"),
    (2, "x", "f", None),
    (2, "x", "f", None, "g"),
    (2, "x", b"f", None, b"g"),
    (2, "x", 5),
    (2, "x", None, None, "g"),
    (11, "x", 7),
    (2, "x", pathlib.Path("f")),
]
_FIELDS = (
    *("args", "errno", "strerror", "filename", "filename2", "characters_written", "name", "path"),
    *("value", "msg", "lineno", "offset", "text", "end_lineno", "end_offset"),
    *("encoding", "object", "start", "end", "reason"),
)


def _made(kind: type[Exception]) -> list[Exception]:
    made: list[Exception] = []
    for args in [*_OF_ANY, *(_OF_OS if issubclass(kind, OSError) else ())]:
        try:
            made.append(kind(*args))
        except (TypeError, ValueError):  # it takes others
            continue
    return made


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_a_builtin_error_comes_back_in_its_class(app: Bench, kind: type[Exception]) -> None:
    for error in _made(kind):
        found = came_back(app, error)
        assert (type(found), str(found)) == (type(error), str(error))


def _raised(function: Callable[[], Any]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def _unwritable() -> bytes:
    return "a\udcff".encode()


_RAISED: list[Exception] = [
    _raised(lambda: os.rename("/nope", "/tmp/x")),
    _raised(lambda: os.rename(b"/nope", b"/tmp/x")),
    _raised(lambda: os.replace("/nope", "/tmp/x")),
    _raised(lambda: os.symlink("/tmp", "/tmp")),
    _raised(lambda: os.listdir(999)),
    _raised(_unwritable),
    _raised(b"a\xff".decode),
    UnicodeTranslateError("a\udcff", 1, 2, "bad"),
    _raised(lambda: compile("a b", "f", "exec")),
    _raised(lambda: compile("if 1:\n  a\n b", "f", "exec")),
    _raised(lambda: __import__("nope.of")),
    _raised(lambda: exec("from os import nope")),
    _raised(lambda: exec("nope")),
    _raised(lambda: exec("''.nope")),
    ImportError("x", name="a", path="b"),
    StopIteration(5),
    BlockingIOError(11, "x", 7),
    URLError("down", "a.txt"),
]


@pytest.mark.parametrize("error", _RAISED, ids=lambda error: type(error).__name__)
def test_the_fields_of_a_builtin_error_come_back(app: Bench, error: Exception) -> None:
    found = came_back(app, error)
    assert type(found) is type(error)
    kept = {name: getattr(error, name) for name in _FIELDS if hasattr(error, name)}
    assert {name: getattr(found, name) for name in kept} == kept


def test_a_long_text_that_cannot_be_decoded_comes_back_up_to_its_fault(app: Bench) -> None:
    found = came_back(app, UnicodeDecodeError("utf-8", b"a\xff" * 100_000, 1, 2, "bad"))
    assert (type(found), found.object) == (UnicodeDecodeError, b"a\xff")


def test_a_missing_key_that_cannot_be_sent_is_a_key_error(app: Bench) -> None:
    error = KeyError(Bench)
    assert str(came_back(app, error)) == str(error)


class Missing(FileNotFoundError):
    """It takes a path alone, and has the fields of its class."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "no", path)


class Garbled(UnicodeDecodeError):
    def __init__(self, reason: str) -> None:
        super().__init__("utf-8", b"a", 0, 1, reason)


def test_an_error_with_a_constructor_of_its_own_keeps_the_fields_of_its_class(app: Bench) -> None:
    found = came_back(app, Missing("p"))
    assert (type(found), found.errno, found.filename) == (Missing, 2, "p")
    assert type(came_back(app, Garbled("bad"))) is Garbled


def test_a_group_has_the_errors_of_two_files(app: Bench) -> None:
    found = came_back(app, ExceptionGroup("g", [OSError(2, "x", "f", None, "g")]))
    assert (type(found.exceptions[0]), found.exceptions[0].filename2) == (FileNotFoundError, "g")
