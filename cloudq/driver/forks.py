"""Tells objects that their process was forked, so that they open anew what cannot be shared.

A forked process has copies of its parent's connections, and of locks that a thread held which is
not there any more. Neither may be used.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_Told = Callable[[Any], None]

# The parent's connections, which it goes on using: to close or to finalize one would end it there.
_left: list[object] = []

_inherited: set[str] = set()

HOLD = 1.0
"""The seconds that a hold may wait for its lock."""

# The process has one list, as it has one list of hooks. It keeps nothing alive.
_renewed: WeakKeyDictionary[Any, _Told] = WeakKeyDictionary()
_held: WeakKeyDictionary[Any, tuple[Callable[[Any], bool], _Told]] = WeakKeyDictionary()


class _Holding(threading.local):
    """The holds of the fork that this thread is making."""

    def __init__(self) -> None:
        self.let_go: list[tuple[_Told, Any]] = []


_holding = _Holding()


def is_inherited(module: str) -> bool:
    """Tell whether a process from which this one was forked had imported a module."""
    return module in _inherited


def renew_after_fork(owner: T, renew: Callable[[T], None]) -> None:
    """Have `renew(owner)` called in each process that is forked from this one."""
    _renewed[owner] = renew


def hold_while_forking(owner: T, hold: Callable[[T], bool], let_go: Callable[[T], None]) -> None:
    """Have `hold(owner)` called before each fork, and if it says True `let_go(owner)` after it.

    `let_go` is called in the parent alone. A hold must not wait for long: it delays the fork.
    """
    _held[owner] = hold, let_go


def leave_to_parent(connection: object) -> None:
    """Keep a connection that the parent goes on using: closing it here would end it there."""
    _left.append(connection)


class Whole:
    """Blocks of code that a fork waits for, so that no child has half of one. Many run at a time.

    An import is such a block: its lock would stay held in a child, which then waits for it for
    ever. A fork waits for `most` seconds, and then no longer.
    """

    def __init__(self, most: float = 30.0) -> None:
        self._most = most
        self._renew()
        hold_while_forking(self, Whole._hold, Whole._let_go)
        renew_after_fork(self, Whole._renew)

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] = self._inside.get(me, 1) - 1
            if not self._inside[me]:
                del self._inside[me]
            self._changed.notify_all()

    def _renew(self) -> None:
        self._inside: dict[int, int] = {}
        self._changed = threading.Condition()

    def _hold(self) -> bool:
        """Wait for the blocks of other threads, and keep new ones out."""
        if not self._changed.acquire(timeout=self._most):
            return False
        me = threading.get_ident()
        self._changed.wait_for(lambda: self._inside.keys() <= {me}, self._most)
        return True

    def _let_go(self) -> None:
        self._changed.release()


_IMPORTING = Whole()


def imported(module: str) -> Any:
    """Import a module that few processes need, when it is needed; no fork cuts that short."""
    with _IMPORTING:
        return import_module(module)


class _Driver(Protocol):
    def close(self) -> None: ...


D = TypeVar("D", bound=_Driver)


class Trying:
    """Something that is tried with a driver; `ended` is told of its end, and of what was raised."""

    __slots__ = ("_ended", "_name", "_verb")

    def __init__(
        self, ended: Callable[[str, str, BaseException | None], None], verb: str, name: str
    ) -> None:
        self._ended, self._verb, self._name = ended, verb, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._ended(self._verb, self._name, error)


class Driven(Generic[D]):
    """Has an open driver; in a process that was forked from the driver's, another of its own.

    With no `reopen` the driver is kept there too. Safe to use from many threads.
    """

    def __init__(self, driver: D, reopen: Callable[[], D] | None = None) -> None:
        self._driver: D | None = driver
        self._powers: dict[type[Any], tuple[object, Any]] = {}
        self._reopen = reopen
        self._opening = threading.Lock()
        renew_after_fork(self, Driven[Any]._drop)

    def trying(self, verb: str, name: str) -> Trying:
        """Return the surroundings of a request, whose errors become those of cloudq."""
        return Trying(self.ended, verb, name)

    def ended(self, verb: str, name: str, error: BaseException | None) -> None:
        """Note how a request ended, and raise an error of cloudq in place of the driver's."""

    @property
    def driver(self) -> D:
        """The driver of this process."""
        driver = self._driver
        return self._reopened() if driver is None else driver

    @driver.setter
    def driver(self, driver: D) -> None:
        self._driver, self._reopen = driver, None

    def power(self, kind: type[T]) -> T | None:
        """Return the driver if it has an optional power. That is looked at once: it takes 20 us."""
        driver = self.driver
        known, found = self._powers.get(kind, (None, None))
        if known is not driver:
            found = driver if isinstance(driver, kind) else None
            self._powers[kind] = driver, found
        return found

    @property
    def opened(self) -> D | None:
        """The driver of this process if it is open."""
        return self._driver

    def close(self) -> None:
        """Close the driver."""
        if self._driver is not None:
            self._driver.close()

    def _reopened(self) -> D:
        with self._opening:
            if self._driver is None:
                assert self._reopen is not None  # else the driver was kept
                self._driver = self._reopen()
            return self._driver

    def _drop(self) -> None:
        self._opening = threading.Lock()
        if self._reopen is not None:
            leave_to_parent(self._driver)
            self._driver = None


def _before() -> None:
    for owner, (hold, let_go) in list(_held.items()):
        if hold(owner):
            _holding.let_go.append((let_go, owner))


def _in_parent() -> None:
    while _holding.let_go:
        let_go, owner = _holding.let_go.pop()
        let_go(owner)


def _in_child() -> None:
    _inherited.update(sys.modules)
    _holding.let_go.clear()
    for owner, renew in list(_renewed.items()):
        renew(owner)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


def _under_uwsgi(uwsgi: Any) -> None:
    """Have uWSGI call what Python calls after a fork: it forks by itself, without Python's hooks.

    What the program has set there is called too. `uwsgidecorators` replaces what is set when it is
    imported, and has a list of functions instead: so it is imported now.
    """
    before: Callable[[], object] | None = getattr(uwsgi, "post_fork_hook", None)
    spooler: object = getattr(uwsgi, "spooler", None)
    try:
        decorators = import_module("uwsgidecorators")
    except Exception:  # it is not installed, or there is no master process
        decorators = None

    def hook() -> None:
        _in_child()
        if before is not None and decorators is None:
            before()

    if decorators is None:
        uwsgi.post_fork_hook = hook
        return
    decorators.postfork(hook)
    if before is not None and before is not decorators.postfork_chain_hook:
        decorators.postfork(before)
    if spooler is not None:
        uwsgi.spooler = spooler


if "uwsgi" in sys.modules:  # it is there in a process of uWSGI's alone
    _under_uwsgi(sys.modules["uwsgi"])
