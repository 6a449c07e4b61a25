"""Celery's `app.conf`: settings by attribute and by key, changed in place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any, cast

from cloudq.contrib.celery.rules import Fate, Rule
from cloudq.contrib.celery.settings_table import KEPT, SETTINGS, modern
from cloudq.errors import ConfigurationError
from cloudq.settings import DECLARED, Settings
from cloudq.text import masked

_OWN = ("_settings", "_given", "_update")
_SECRET = re.compile("password|secret|token|_key|signing", re.IGNORECASE)

# Celery's defaults of settings that are ignored here, for programs that read them.
DEFAULTS: Mapping[str, Any] = {
    "beat_max_loop_interval": 0,
    "beat_schedule_filename": "celerybeat-schedule",
    "beat_scheduler": "celery.beat:PersistentScheduler",
    "beat_sync_every": 0,
    "broker_connection_max_retries": 100,
    "broker_connection_retry": True,
    "broker_connection_timeout": 4,
    "broker_heartbeat": 120,
    "broker_pool_limit": 10,
    "result_cache_max": -1,
    "result_chord_join_timeout": 3.0,
    "result_chord_retry_interval": 1.0,
    "result_extended": False,
    "task_create_missing_queues": True,
    "task_default_delivery_mode": 2,
    "task_default_queue_type": "classic",
    "task_remote_tracebacks": False,
    "worker_hijack_root_logger": True,
    "worker_lost_wait": 10.0,
    "worker_proc_alive_timeout": 4.0,
    "worker_redirect_stdouts": True,
    "worker_redirect_stdouts_level": "WARNING",
    "worker_soft_shutdown_timeout": 0.0,
}

# Settings that are given in several forms, and are read as they were given.
_AS_GIVEN = frozenset({"timezone", "result_expires", "task_time_limit", "task_soft_time_limit"})

# Celery's defaults of settings that are carried over, where cloudq has its own form of the same.
_UNSET: Mapping[str, Any] = {"timezone": None, "result_expires": timedelta(days=1)}


def _pool(name: str) -> str:
    return "prefork" if name == "processes" else name


def _sends_events(level: str | None) -> bool:
    return level not in (None, "none")


def _policy(retries: int) -> dict[str, Any]:
    return {"max_retries": retries}


# Make the form that Celery has of a value here.
_IN_CELERY: Mapping[str, Callable[[Any], Any]] = {
    "task_publish_retry": bool,
    "task_publish_retry_policy": _policy,
    "worker_pool": _pool,
    "worker_send_task_events": _sends_events,
}


class Conf:
    """The settings of an app, under Celery's names and cloudq's.

    Values are read from `cloudq.settings.Settings`, and have Celery's form. `given` has the values
    as the program gave them, including the ignored ones and the program's own.
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
        plain = modern(name)
        rule = SETTINGS.find(plain)
        if rule is not None and rule.fate is Fate.CARRIED and hasattr(self._settings, rule.to):
            return self._carried(rule)
        if hasattr(self._settings, name):
            return getattr(self._settings, name)
        if plain in self._given:
            return self._given[plain]
        if name in self._given:
            return self._given[name]
        if plain in KEPT:
            return {}
        if rule is not None and rule.fate is not Fate.CARRIED:  # what cloudq does anyway
            return rule.fine[0] if rule.fine else DEFAULTS.get(plain)
        raise AttributeError(f"there is no setting {name!r}" + (f": {rule.why}" if rule else ""))

    def _carried(self, rule: Rule) -> Any:
        """Return a setting that has another value here in the form that Celery has it in."""
        value = getattr(self._settings, rule.to)
        if rule.name in _AS_GIVEN and rule.name in self._given:
            given = self._given[rule.name]
            return given if rule.read(given) == value else value
        if rule.name in _UNSET and rule.to not in self._settings.given:
            return _UNSET[rule.name]
        return _IN_CELERY[rule.name](value) if rule.name in _IN_CELERY else value

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

    def keys(self) -> list[str]:
        """Return the names of all settings: Celery's, cloudq's, and the program's own."""
        return sorted({*SETTINGS.names(), *DECLARED, *KEPT, *self._given})

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def values(self) -> list[Any]:
        """Return the values of all settings."""
        return [self.get(name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """Return the names and the values of all settings."""
        return [(name, self.get(name)) for name in self.keys()]

    def without_defaults(self) -> dict[str, Any]:
        """Return the settings that the program has given."""
        return dict(self._given)

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return settings by name, with the secrets masked in those that are texts."""
        found = dict(self.items()) if with_defaults else self.without_defaults()
        if not censored:
            return found
        hidden = {name for name in found if _SECRET.search(name)}
        shown = {name: masked(v) if isinstance(v, str) else v for name, v in found.items()}
        return {name: "********" if name in hidden else value for name, value in shown.items()}

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return the settings as lines of text."""
        found = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {value!r}" for name, value in sorted(found.items()))

    def get_by_parts(self, *parts: str) -> Any:
        """Return the setting whose name consists of these words."""
        return self["_".join(part for part in parts if part)]

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
    prefix = "" if namespace is None else f"{namespace.upper().rstrip('_')}_"
    if isinstance(source, Mapping):
        entries = cast("Mapping[str, Any]", source)
        names = [name for name in entries if name.upper().startswith(prefix)]
        return {_plain(name, prefix): entries[name] for name in names}
    # Of a module only what is a setting is read: its other names may be expensive, or raise.
    names = [name for name in dir(source) if name[0] != "_" and name.upper().startswith(prefix)]
    names = names if prefix else list(filter(is_setting, names))
    return {_plain(name, prefix): getattr(source, name) for name in names}


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


def check_beat_schedule(schedule: object) -> None:
    """Raise `ConfigurationError` for an entry that counts from the start of a beat."""
    entries: Mapping[str, Any] = schedule if isinstance(schedule, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]
    for name, entry in entries.items():
        if isinstance(entry, Mapping) and cast("Mapping[str, Any]", entry).get("relative"):
            raise ConfigurationError(
                f"beat_schedule: entry {name!r}: relative=True counts from the start of a beat, "
                "and several may run: give start="
            )


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
