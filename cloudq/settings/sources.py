"""Reads settings from the environment and from a TOML file, each value by the type it should have.

Lists in the environment are names with commas between them, or JSON; tables are JSON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from cloudq.driver.log import Log
from cloudq.errors import ConfigurationError
from cloudq.settings.fields import Setting
from cloudq.text import describe, masked, one_line

PREFIX = "CLOUDQ_"
# Variables that are no settings: the command's app, the file of settings, the test kit's patience.
_OTHERS = frozenset({"CLOUDQ_APP", "CLOUDQ_CONFIG", "CLOUDQ_PATIENCE"})

log = Log("cloudq.settings")

CELERY_NAMES: Mapping[str, str] = {
    "broker_url": "broker",
    "result_backend": "backend",
    "task_default_retry_delay": "default_retry_delay",
    "worker_concurrency": "worker_processes",
}
"""Celery's names of settings that have shorter names here."""

EXAMPLES: Mapping[str, str] = {
    "include": "shop.mail,shop.orders",
    "priority_queues": "orders,mail",
    "accept_content": "json,msgpack",
    "redact": "*password*,card_*",
    "signing_apps": "shop,billing",
    "signing_keys": '{"2026-11": "a key of 32 characters, or of more"}',
    "encryption_keys": '{"2026-11": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}',
    "queue_accept": '{"orders": ["celery"]}',
    "queue_produce": '{"orders": "celery"}',
    "queue_tasks": '{"orders": ["shop.orders.*"]}',
    "queue_limits": '{"orders": {"bytes": 10000, "depth": 3, "age": 3600}}',
    "prices": '{"NAME": 0.4}',
    "task_routes": '{"shop.mail.*": "mail"}',
    "task_annotations": '{"shop.mail.send": {"rate_limit": "10/s"}}',
    "beat_schedule": '{"nightly": {"task": "shop.report", "schedule": 86400}}',
}
"""The value of each variable that is a list or a table, as its error message shows it."""

# A value of these may be another text: the dotted name of a function.
_TEXTS = frozenset({"task_routes"})
_SECRET = frozenset({"signing_keys", "encryption_keys"})
# A name that needs quotes or spaces is written as JSON.
_NAME = r"[^\s,;\[\]{}\"']+"
_SHOWN = 60


class WrongSource(ConfigurationError):
    """Raised for a setting of a variable or a file that cannot be: the program is right."""


def plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace Celery's names of settings by those of cloudq."""
    return {CELERY_NAMES.get(name, name): value for name, value in values.items()}


def check_module(name: str, source: str) -> None:
    """Raise `ConfigurationError` for a text that cannot be the dotted name of a module."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(
            f"{source}: {name!r} is no module's name: give one such as shop.mail"
        )


# ---- the environment


def environment(fields: Mapping[str, Setting]) -> dict[str, Any]:
    """Return the settings in the variables `CLOUDQ_...`, in upper or lower case.

    An empty list or table counts as not given. Raises `ConfigurationError`, which names the
    variable.
    """
    given = {
        name.upper().removeprefix(PREFIX).lower(): text
        for name, text in os.environ.items()
        if name.upper().startswith(PREFIX)
    }
    found: dict[str, Any] = {}
    for name, text in (plain_names(given) | given).items():  # our name stands above Celery's
        field = fields.get(name)
        value = _value(name, field.kind, text) if field is not None else None
        if value is not None:
            found[name] = value
    for variable, meant in unknown_variables(fields).items():
        if meant is not None:
            _tell(variable, meant)
    return found


def unknown_variables(fields: Mapping[str, Setting]) -> dict[str, str | None]:
    """Return the variables `CLOUDQ_...` that nothing reads, each with the one that is meant."""
    known = {f"{PREFIX}{name.upper()}" for name in (*fields, *CELERY_NAMES)} | _OTHERS
    unknown = [name for name in os.environ if name.upper().startswith(PREFIX)]
    unknown = [name for name in unknown if name.upper() not in known]
    return {name: _closest(name.upper(), known) for name in unknown}


def _closest(name: str, known: Collection[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, n=1, cutoff=0.85)), None)


@cache
def _tell(variable: str, meant: str) -> None:
    """Warn of a variable, once in a process."""
    log.warning("the variable %s is not read: is %s meant?", one_line(variable), meant)


def variable_of(setting: str) -> str | None:
    """Return the name of the variable that gives a setting; None if none does."""
    names = (setting, *(theirs for theirs, ours in CELERY_NAMES.items() if ours == setting))
    variables = [f"{PREFIX}{name.upper()}" for name in names]
    present = {given.upper() for given in os.environ}
    return next((variable for variable in variables if variable in present), None)


def _value(name: str, kind: str, text: str) -> Any:
    """Return the value of a variable, as the settings take it."""
    if kind not in ("list", "dict", "Any"):
        return text
    text = text.strip()
    if not text:
        return None
    if kind == "list":
        return _list(name, text)
    if name in _TEXTS and text[0] not in "[{":
        return text
    return _table(name, text, lists=kind == "Any")


def _list(setting: str, text: str) -> list[str]:
    """Read names with commas between them, or a JSON list of texts."""
    found = _json(text)
    if _is_list(found):
        if all(isinstance(each, str) for each in found):
            return [str(each) for each in found]
    elif found is None and text != "null":
        names = [name for name in map(str.strip, text.split(",")) if name]
        if names and all(map(re.compile(_NAME).fullmatch, names)):
            return names
    raise _unread(setting, text, "names with commas between them or a JSON list of texts")


def _table(setting: str, text: str, *, lists: bool) -> Any:
    """Read a JSON object, or with `lists` a JSON list."""
    found = _json(text)
    if _is_mapping(found) or (lists and _is_list(found)):
        return found
    raise _unread(setting, text, "a JSON object")


def _json(text: str) -> object:
    """Return the value of a JSON text; None also for what is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _unread(setting: str, text: str, wanted: str) -> WrongSource:
    got = ""
    if setting not in _SECRET:  # a key is never shown
        shown = one_line(masked(text))
        got = f" (got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'})"
    return WrongSource(
        f"{PREFIX}{setting.upper()} has to be {wanted}, for example {EXAMPLES[setting]}{got}"
    )


# ---- the file


def config_file() -> Path:
    """Return the path of the TOML file, which need not exist. Raises `ConfigurationError`."""
    named = os.environ.get(f"{PREFIX}CONFIG")
    if named and not Path(named).is_file():
        raise WrongSource(f"CLOUDQ_CONFIG names {named}, which is not a file: correct the path")
    return Path(named or "cloudq.toml")


def in_file() -> dict[str, Any]:
    """Return the settings in the TOML file. Raises `ConfigurationError`, `OSError`."""
    path = config_file()
    if not path.is_file():
        return {}
    import tomllib

    try:
        with path.open("rb") as file:
            return plain_names(tomllib.load(file))
    except ValueError as error:  # also of a text that is not UTF-8
        said = f"cannot read the settings: {describe(error)}, in {path}, which has to be TOML"
        raise WrongSource(said) from error
