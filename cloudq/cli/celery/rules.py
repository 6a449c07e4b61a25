"""Rules for Celery's commands and options: each is carried over, ignored, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Fate(StrEnum):
    """The ways to treat a command or an option of Celery's."""

    CARRIED = "carried over"
    IGNORED = "ignored"
    REFUSED = "refused"


class By(StrEnum):
    """The means that carry an option over."""

    OPTION = "option"
    SETTING = "setting"
    # This process does it before the command begins.
    PROCESS = "process"


def as_it_is(text: str) -> str:
    """Return the text unchanged."""
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of Celery's; `to` are cloudq's words for it, of which the last may be options.

    Commands with `own` are done by this package; of those with `why` none is. `most` is the number
    of its words that are no options, None for any number.
    """

    name: str
    to: Sequence[str] = ()
    own: bool = False
    why: str = ""
    most: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The fate of one option.

    `to` is the option, the setting or the step that carries it. `read` turns Celery's value into
    cloudq's, and raises `ValueError` with the reason if it cannot. `fine` lists values, "" for an
    option without one, that ask for what happens anyway: they are taken without a word.
    `variables` are the environment's, which say the same.
    """

    names: Sequence[str]
    takes: bool
    fate: Fate
    to: str = ""
    by: By = By.OPTION
    why: str = ""
    fine: Sequence[str] = ()
    read: Callable[[str], object] = as_it_is
    variables: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The long name, by which messages speak of it."""
        return next((name for name in self.names if name.startswith("--")), self.names[0])


def option(
    names: str,
    to: str,
    *,
    read: Callable[[str], object] = as_it_is,
    fine: Sequence[str] = (),
) -> Rule:
    """Make a rule for an option with a value that an option of cloudq's carries."""
    return Rule(names=names.split(), takes=True, fate=Fate.CARRIED, to=to, read=read, fine=fine)


def flag(names: str, to: str) -> Rule:
    """Make a rule for an option without a value that an option of cloudq's carries."""
    return Rule(names=names.split(), takes=False, fate=Fate.CARRIED, to=to)


def setting(names: str, to: str, *, read: Callable[[str], object], takes: bool = True) -> Rule:
    """Make a rule for an option that a setting carries, above the app's own."""
    return Rule(
        names=names.split(), takes=takes, fate=Fate.CARRIED, to=to, by=By.SETTING, read=read
    )


def step(names: str, to: str, *, takes: bool = True) -> Rule:
    """Make a rule for an option that this process obeys before the command begins."""
    return Rule(names=names.split(), takes=takes, fate=Fate.CARRIED, to=to, by=By.PROCESS)


def ignored(names: str, why: str, *, takes: bool, fine: Sequence[str] = ()) -> Rule:
    """Make a rule for an option that has no meaning here, and can be left out."""
    return Rule(names=names.split(), takes=takes, fate=Fate.IGNORED, why=why, fine=fine)


def refused(names: str, why: str, *, takes: bool, fine: Sequence[str] = ()) -> Rule:
    """Make a rule for an option that a program relies on and cloudq cannot provide."""
    return Rule(names=names.split(), takes=takes, fate=Fate.REFUSED, why=why, fine=fine)


def also_in(rule: Rule, variables: str) -> Rule:
    """Return the rule for an option that these variables of the environment give too."""
    return replace(rule, variables=variables.split())
