"""Reads settings from environment variables: lists as names or as JSON, tables as JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeGuard, get_args, get_origin

import orjson
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from cloudq.errors import ConfigurationError
from cloudq.text import masked, one_line

PREFIX = "CLOUDQ_"

EXAMPLES: Mapping[str, str] = {
    "include": "shop.mail,shop.orders",
    "priority_queues": "orders,mail",
    "accept_content": "json,msgpack",
    "signing_apps": "shop,billing",
    "signing_keys": '{"2026-11": "a key of 32 characters, or of more"}',
    "queue_accept": '{"orders": ["celery"]}',
    "queue_produce": '{"orders": "celery"}',
    "task_routes": '{"shop.mail.*": "mail"}',
    "task_annotations": '{"shop.mail.send": {"rate_limit": "10/s"}}',
    "beat_schedule": '{"nightly": {"task": "shop.report", "schedule": 86400}}',
}
"""The value of each variable that is a list or a table, as its error message shows it."""

# A value of these may be another text: the dotted name of a function.
_TEXTS = frozenset({"task_routes"})
_SECRET = frozenset({"signing_keys"})
# A name that needs quotes or spaces is written as JSON.
_NAME = re.compile(r"[^\s,;\[\]{}\"']+")
_LISTS = (list, tuple, set, frozenset)
_SHOWN = 60


class Environment(EnvSettingsSource):
    """The settings in the variables `CLOUDQ_...`. An empty list or table counts as not given."""

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        """Return the value of a variable. Raises `ConfigurationError`, which names it."""
        kind = _kind(field.annotation)
        if kind is None or not isinstance(value, str):
            return super().prepare_field_value(field_name, field, value, value_is_complex)
        text = value.strip()
        if not text:
            return None
        if kind is list:
            return _list(field_name, text)
        if field_name in _TEXTS and text[0] not in "[{":
            return text
        return _table(field_name, text, lists=kind is object)


def variable_of(setting: str) -> str | None:
    """Return the name of the variable that gives a setting; None if none does."""
    variable = f"{PREFIX}{setting.upper()}"
    return variable if any(given.upper() == variable for given in os.environ) else None


def _kind(annotation: Any) -> type[Any] | None:
    """Return `list`, `dict`, or `object` for any Python value; None for what is one value."""
    if annotation is Any:
        return object
    origin = get_origin(annotation) or annotation
    if origin in _LISTS:
        return list
    if origin in (dict, Mapping):
        return dict
    kinds = {_kind(each) for each in get_args(annotation) if each is not type(None)}
    return kinds.pop() if len(kinds) == 1 and origin not in _LISTS else None


def _list(setting: str, text: str) -> list[str]:
    """Read names with commas between them, or a JSON list of texts."""
    found = _json(text)
    if _is_list(found):
        if all(isinstance(each, str) for each in found):
            return [str(each) for each in found]
    elif found is None and text != "null":
        names = [name for name in map(str.strip, text.split(",")) if name]
        if names and all(map(_NAME.fullmatch, names)):
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


def _is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _unread(setting: str, text: str, wanted: str) -> ConfigurationError:
    got = ""
    if setting not in _SECRET:  # a key is never shown
        shown = one_line(masked(text))
        got = f" (got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'})"
    return ConfigurationError(
        f"{PREFIX}{setting.upper()} has to be {wanted}, for example {EXAMPLES[setting]}{got}"
    )
