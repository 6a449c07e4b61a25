"""The shape of an action: a plan with its number for the confirmation, and the deed itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from cloudq.app import CloudQ
from cloudq.dashboard.pages.rows import LetterRow, TaskRow
from cloudq.dashboard.questions import Thing
from cloudq.dashboard.visit import Visit
from cloudq.operations.audit import Actor

Told = Callable[[int], None]
"""Is told how many of the things have been handled so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The outcome of an action, in words; `failed` are sentences about what was not done.

    `link` leads to what came of it.
    """

    text: str
    failed: Sequence[str] = ()
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An action that waits for its confirmation.

    `question` is asked, `button` has the number in it. `scope` says of how many the number is.
    `run` carries it out; with `long` it is told of its progress. `things` are those that it changes
    where they were chosen: no others are when it is confirmed.
    """

    question: str
    button: str
    number: int | None
    run: Callable[[Actor, Told], Done]
    scope: str = ""
    things: Set[Thing] | None = None
    details: Sequence[str] = ()
    letters: Sequence[LetterRow] = ()
    tasks: Sequence[TaskRow] = ()
    danger: bool = False
    long: bool = False
    nothing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Action:
    """An action by its name in the path; `plan` reads the form. Raises `CloudQError`."""

    name: str
    plan: Callable[[CloudQ, Visit], Plan]
    fields: Sequence[str]
    back: str = "/"
