"""The app of tests in which the user's logging, or a class of the user's, raises in the worker."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloudq import CloudQ
from cloudq.driver import BrokerDriver
from cloudq.signals import task_received
from cloudq.testing.kit.wrapping import wrapped

app = CloudQ("drills", signing_keys={"k": "0123456789abcdef0123456789abcdef"})
app.configure(accept_content=["json", "pickle"])


class Panic(BaseException):
    """The panic of a library in Rust."""


class Panics:
    """An argument that cannot be unpickled."""

    def __getstate__(self) -> dict[str, int]:
        return {"state": 1}

    def __setstate__(self, state: dict[str, int]) -> None:
        raise Panic("index out of bounds")


class Raises(logging.Handler):
    """A handler that raises for each record of cloudq's."""

    def emit(self, record: logging.LogRecord) -> None:
        raise _error()


class Refuses(logging.Filter):
    """A filter that raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise _error()


class Spoils(logging.Formatter):
    """A formatter that raises."""

    def format(self, record: logging.LogRecord) -> str:
        raise _error()


def _error() -> BaseException:
    kind: type[BaseException] = {"RuntimeError": RuntimeError, "SystemExit": SystemExit}.get(
        os.environ["RAISES"].partition(":")[2], Panic
    )
    return kind("no room for records")


def _flaky(call: Callable[..., Any]) -> Callable[..., Any]:
    turns = itertools.count()

    def flaky(*args: Any, **named: Any) -> Any:
        if next(turns) % 2 == 0:
            raise Panic("as planned")
        return call(*args, **named)

    return flaky


def _handler(kind: str) -> logging.Handler:
    if kind == "handler":
        return Raises(logging.WARNING)
    made = logging.StreamHandler()
    made.setLevel(logging.WARNING)
    if kind == "filter":
        made.addFilter(Refuses())
    else:
        made.setFormatter(Spoils())
    return made


if "RAISES" in os.environ:
    for name in ("", "cloudq"):
        logging.getLogger(name).addHandler(_handler(os.environ["RAISES"].partition(":")[0]))

if "PANICS" in os.environ:
    known = app.runtime.services

    def open_flaky(url: str) -> BrokerDriver:
        """Open a broker of which every second call of some kinds panics."""
        driver: Any = known.open_broker(url)
        calls = {name: _flaky(getattr(driver, name)) for name in os.environ["PANICS"].split()}
        return wrapped(driver, calls)

    app.runtime.services = replace(known, open_broker=open_flaky)

if "HEARS" in os.environ:

    @task_received.connect(weak=False)
    def hear(**named: Any) -> None: ...


@app.task
def double(number: int) -> int:
    return number * 2


@app.task
def fail(number: int) -> int:
    raise ValueError(number)


@app.task
def show(value: object) -> str:
    return type(value).__name__


@app.task
def log_and_fail() -> None:
    logging.getLogger("shop").warning("the task's own record")
