"""Celery's `app.conf`: settings by attribute and by key, changed in place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, cast

from cloudq.contrib.celery.rules import Fate
from cloudq.contrib.celery.settings_table import KEPT, SETTINGS, modern
from cloudq.errors import ConfigurationError
from cloudq.settings import DECLARED, Settings

_OWN = ("_settings", "_given", "_update")


class Conf:
    """The settings of an app, under Celery's names and cloudq's.

    Values are read from `cloudq.settings.Settings`. `given` has the values as the program gave
    them, including the ignored ones and the program's own.
    """

    def __init__(
        self,
        settings: Settings,
        given: Mapping[str, Any],
        update: Callable[[Mapping[str, Any]], Conf],
    ) -> None:
        set_own = super().__setattr__
        set_own("_settings", settings)
        set_own("_given", given)
        set_own("_update", update)

    def settings(self) -> Settings:
        """Return the same values as plain settings of cloudq."""
        return self._settings

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # while it is made, or copied
            raise AttributeError(name)
        if hasattr(self._settings, name):
            return getattr(self._settings, name)
        plain = modern(name)
        rule = SETTINGS.find(plain)
        if rule is not None and rule.fate is Fate.CARRIED and hasattr(self._settings, rule.to):
            return getattr(self._settings, rule.to)
        if plain in self._given:
            return self._given[plain]
        if name in self._given:
            return self._given[name]
        if plain in KEPT:
            return {}
        raise AttributeError(f"there is no setting {name!r}" + (f": {rule.why}" if rule else ""))

    def __setattr__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise KeyError(name) from error

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and hasattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default if there is none of this name."""
        return getattr(self, name, default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a setting; if there is none of this name, set it to the default first."""
        if name not in self:
            self.update({name: default})
        return getattr(self, name)

    def update(self, *sources: Mapping[str, Any] | Iterable[tuple[str, Any]], **named: Any) -> None:
        """Change settings, overriding all others. `ConfigurationError` means that none changed."""
        values: dict[str, Any] = {}
        for source in sources:
            values.update(source)
        changed = self._update(values | named)
        super().__setattr__("_settings", changed.settings())


def read_source(source: object, namespace: str | None, *, silent: bool) -> dict[str, Any]:
    """Read settings from a mapping, a module, an object, or the dotted name of one.

    With a namespace, only names that begin with it are read (`CELERY_...`), and the prefix is
    dropped. Without one, all of a mapping is read, and of a module or an object the names that
    are known settings. Names may be upper or lower case.
    Raises `ConfigurationError` for a name that cannot be imported, unless `silent`.
    """
    if isinstance(source, str):
        try:
            source = _named(source)
        except (ImportError, AttributeError) as error:
            if silent:
                return {}
            raise ConfigurationError(f"cannot import the settings {source!r}: {error}") from error
    if isinstance(source, Mapping):
        entries = dict(cast("Mapping[str, Any]", source))
    else:
        entries = {name: getattr(source, name) for name in dir(source) if name[0] != "_"}
        if namespace is None:  # a module also has names that are not settings
            entries = {name: value for name, value in entries.items() if is_setting(name)}
    if namespace is None:
        return {_plain(name): value for name, value in entries.items()}
    prefix = f"{namespace.upper().rstrip('_')}_"
    return {
        _plain(name, prefix): value
        for name, value in entries.items()
        if name.upper().startswith(prefix)
    }


def is_setting(name: str) -> bool:
    """Say if Celery or cloudq has a setting of this name, old names included."""
    plain = modern(name)
    return plain in KEPT or plain in DECLARED or SETTINGS.find(plain) is not None


def check_name(name: str) -> None:
    """Raise `ConfigurationError` for a name that looks like a misspelled setting.

    Anything else may be a setting of the program's own, as in Celery.
    """
    if is_setting(name):
        return
    known = [*SETTINGS.names(), *DECLARED, *KEPT]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.88)
    if close:
        raise ConfigurationError(f"there is no setting {name!r}: did you mean {close[0]}?")


def _plain(name: str, prefix: str = "") -> str:
    """Return the name used in the tables; the program's own names are unchanged."""
    bare = name[len(prefix) :]
    if prefix:
        return modern(bare) if is_setting(bare) or not is_setting(name) else modern(name)
    return modern(name) if is_setting(name) else name


def _named(path: str) -> object:
    """Import a module, or an attribute of one: `module`, `module:name` or `module.name`."""
    module, colon, attribute = path.partition(":")
    if colon:
        return getattr(import_module(module), attribute)
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        above, dot, last = path.rpartition(".")
        if not dot or error.name != path:
            raise
        return getattr(import_module(above), last)
