"""What becomes of a name that Celery has: carried over, ignored with a warning, or refused."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from cloudq.errors import ConfigurationError


class Fate(StrEnum):
    """What becomes of a setting or an option of Celery's."""

    CARRIED = "carried over"
    IGNORED = "ignored"
    REFUSED = "refused"


class IgnoredByCloudQ(UserWarning):
    """A setting or an option of Celery's has no meaning here; each is warned of once an app."""


def as_it_is(value: Any) -> Any:
    """The value, unchanged."""
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The fate of one name.

    `to` is cloudq's own name of it and `read` turns Celery's value into ours, raising `ValueError`
    with the reason for one that cannot be. `fine` are values that say what happens here anyway:
    they are taken without a word whatever the fate. `why` is the reason of a fate other than
    carried over, and names the alternative.
    """

    name: str
    fate: Fate
    to: str = ""
    why: str = ""
    fine: tuple[Any, ...] = ()
    read: Callable[[Any], Any] = as_it_is


def carried(
    name: str,
    to: str = "",
    *,
    read: Callable[[Any], Any] = as_it_is,
    fine: tuple[Any, ...] = (),
) -> Rule:
    """A rule for what exists here too, perhaps by another name."""
    return Rule(name=name, fate=Fate.CARRIED, to=to or name, read=read, fine=fine)


def ignored(why: str, names: str, *, fine: tuple[Any, ...] = ()) -> list[Rule]:
    """Rules for names, as words, that have no meaning here: leaving them out changes nothing."""
    return [Rule(name=name, fate=Fate.IGNORED, why=why, fine=fine) for name in names.split()]


def refused(why: str, names: str, *, fine: tuple[Any, ...] = ()) -> list[Rule]:
    """Rules for names, as words, that a program relies on and would not get."""
    return [Rule(name=name, fate=Fate.REFUSED, why=why, fine=fine) for name in names.split()]


class Table:
    """The rules for one kind of names. `what` is that kind, as messages call it."""

    def __init__(self, what: str, rules: Iterable[Rule]) -> None:
        self.what = what
        self.rules = tuple(rules)
        self._by_name = {rule.name: rule for rule in self.rules}

    def find(self, name: str) -> Rule | None:
        """The rule for a name, None for one that Celery does not have."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """The names that have a rule."""
        return list(self._by_name)

    def apply(
        self, values: Mapping[str, Any], *, of: str, ours: Collection[str], warned: set[str]
    ) -> dict[str, Any]:
        """The values under cloudq's names; those that no rule knows are left as they are.

        `of` names the place in messages, `ours` are the names that cloudq has, `warned` those
        that were warned of before and grows. Raises `ConfigurationError` with the reason and the
        alternative, all refusals in one.
        """
        made: dict[str, Any] = {}
        wrong: list[str] = []
        for name, value in values.items():
            rule = self.find(name)
            if rule is None:
                made[name] = value
            elif any(value is fine or value == fine for fine in rule.fine):
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
        if name in warned:
            return
        warned.add(name)
        text = f"{of}: the {self.what} {name} has no meaning here and is ignored: {rule.why}"
        warnings.warn(text, IgnoredByCloudQ, stacklevel=_callers())


def _callers() -> int:
    """How many calls above the one that asks the program's own line is."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("cloudq."):
        depth, frame = depth + 1, frame.f_back
    return depth


def _joined(before: Any, value: Any) -> Any:
    """The value of two names that are one here: all modules, the fewer retries."""
    if isinstance(before, list):
        return list(dict.fromkeys([*cast("list[Any]", before), *value]))
    return value if before is None else min(before, value)


def _shown(value: Any) -> str:
    """A value for a message; what is long, or may hold a password, is not shown."""
    text = repr(value)
    return "..." if len(text) > 60 or "://" in text else text
