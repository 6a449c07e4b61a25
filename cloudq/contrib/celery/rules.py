"""Rules for Celery's names: each is carried over, ignored with a warning, or refused."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from cloudq.errors import ConfigurationError


class Fate(StrEnum):
    """The ways to treat a setting or an option of Celery's."""

    CARRIED = "carried over"
    IGNORED = "ignored"
    REFUSED = "refused"


class IgnoredByCloudQ(UserWarning):
    """Celery's setting or option has no effect here; each app warns of each name once."""


def as_it_is(value: Any) -> Any:
    """Return the value unchanged."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The fate of one name.

    `to` is cloudq's name for it. `read` turns Celery's value into cloudq's, and raises `ValueError`
    with the reason if it cannot. `fine` lists values that ask for what cloudq does anyway: they
    are accepted without a warning whatever the fate, and so is a mapping of `fine_keys` alone,
    whose values make no difference. `why` is the reason why a name is ignored or
    refused, and names the alternative.
    """

    name: str
    fate: Fate
    to: str = ""
    why: str = ""
    fine: tuple[Any, ...] = ()
    fine_keys: frozenset[str] = frozenset()
    read: Callable[[Any], Any] = as_it_is

    def is_fine(self, value: Any) -> bool:
        """Say if a value asks for what cloudq does anyway."""
        if any(value is fine or value == fine for fine in self.fine):
            return True
        if not issubclass(type(value), Mapping) or not value:
            return False
        return self.fine_keys.issuperset(value)


def carried(
    name: str,
    to: str = "",
    *,
    read: Callable[[Any], Any] = as_it_is,
    fine: tuple[Any, ...] = (),
) -> Rule:
    """Make a rule for a name that cloudq has too, perhaps spelled otherwise."""
    return Rule(name=name, fate=Fate.CARRIED, to=to or name, read=read, fine=fine)


def ignored(why: str, names: str, *, fine: tuple[Any, ...] = ()) -> list[Rule]:
    """Make rules for space-separated names that have no effect here, and can be left out."""
    return [Rule(name=name, fate=Fate.IGNORED, why=why, fine=fine) for name in names.split()]


def refused(why: str, names: str, *, fine: tuple[Any, ...] = (), fine_keys: str = "") -> list[Rule]:
    """Make rules for space-separated names that a program relies on and cloudq cannot provide."""
    keys = frozenset(fine_keys.split())
    return [
        Rule(name=name, fate=Fate.REFUSED, why=why, fine=fine, fine_keys=keys)
        for name in names.split()
    ]


class Table:
    """The rules for one kind of name. `what` is the word for that kind in error messages."""

    def __init__(self, what: str, rules: Iterable[Rule]) -> None:
        self.what = what
        self.rules = tuple(rules)
        self._by_name = {rule.name: rule for rule in self.rules}

    def find(self, name: str) -> Rule | None:
        """Return the rule for a name, None if Celery has no such name."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Return the names that have a rule."""
        return list(self._by_name)

    def apply(
        self, values: Mapping[str, Any], *, of: str, ours: Collection[str], warned: set[str]
    ) -> dict[str, Any]:
        """Return the values under cloudq's names; values without a rule are unchanged.

        `of` names the place in error messages, and `ours` has the names that cloudq knows. Names
        that a warning is given for are added to `warned`, and not warned of again. Raises one
        `ConfigurationError` with the reasons and the alternatives of all refused names.
        """
        made: dict[str, Any] = {}
        wrong: list[str] = []
        for name, value in values.items():
            rule = self.find(name)
            if rule is None:
                made[name] = value
            elif rule.is_fine(value):
                continue
            elif rule.fate is Fate.REFUSED:
                wrong.append(f"{name}={_shown(value)}: {rule.why}")
            elif rule.fate is Fate.IGNORED:
                self._warn(rule, name, of, warned)
            else:
                try:
                    ours_is = rule.read(value)
                except ValueError as error:
                    wrong.append(f"{name}={_shown(value)}: {error}")
                    continue
                if rule.to not in ours:
                    wrong.append(f"{name}: this release has no {self.what} {rule.to!r}")
                else:
                    made[rule.to] = _joined(made.get(rule.to), ours_is)
        if wrong:
            raise ConfigurationError(f"{of}: {'; '.join(wrong)}")
        return made

    def _warn(self, rule: Rule, name: str, of: str, warned: set[str]) -> None:
        text = f"{of}: the {self.what} {name} has no meaning here and is ignored: {rule.why}"
        tell_once(name, text, warned)


def tell_once(name: str, text: str, warned: set[str]) -> None:
    """Warn of what is ignored, unless `warned` has its name already."""
    if name not in warned:
        warned.add(name)
        warnings.warn(text, IgnoredByCloudQ, stacklevel=_callers())


def _callers() -> int:
    """Count the frames from the caller up to the first one outside cloudq."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("cloudq."):
        depth, frame = depth + 1, frame.f_back
    return depth


def _joined(before: Any, value: Any) -> Any:
    """Merge the values of two names with one name here: all of two lists, the lesser number."""
    if isinstance(before, list):
        return list(dict.fromkeys([*cast("list[Any]", before), *value]))
    if before is None:
        return value
    return before | value if isinstance(before, dict) else min(before, value)


def _shown(value: Any) -> str:
    """Return a value as text for a message, or dots if it is long or may hold a password."""
    text = repr(value)
    return "..." if len(text) > 60 or "://" in text else text
