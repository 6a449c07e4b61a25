"""Writes and reads the JSON of a message in other notations, and pickled arguments."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from cloudq.driver.ends import pass_ends
from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.json_text import json_text
from cloudq.messages.optional import library
from cloudq.messages.size import check_tree
from cloudq.messages.values import (
    MAX_DEPTH,
    check_depth,
    is_object,
    plain_numbers,
    to_wire,
)
from cloudq.text import describe

PICKLE = "pickle"
_PICKLED = "$pickle"
# The message itself and the containers of its arguments are levels too.
_DEEPEST = MAX_DEPTH + 8
# What YAML takes for the end of a line, or for its beginning; PyYAML escapes it only with the rest.
_YAML_BREAKS = rb"\xc2\x85|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf"
# The reader takes some 10 microseconds for each; lists and objects count twice.
_MOST_EVENTS = 100_000
# Scalars of YAML 1.1 for which a reader makes numbers: of how many characters they are looked at,
# which are whole numbers beyond 64 bits, how many of those there may be, and how long one is.
_HUGE = 19
_YAML_HUGE = r"[-+]?(?:[0-9_]+|0x[0-9a-fA-F_]+|0b[01_]+)"
_MOST_HUGE = 500
_YAML_BASE_60 = r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
_LONG = 100
# What PyYAML raises for a value that has not the form of its tag, `!!bool 1` or `!!timestamp x`.
_MISREAD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
_YAML_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_AS_THEY_ARE = (str, int, float, bool, type(None))


def written(name: str, plain: bytes) -> bytes:
    """Write a message's JSON in the notation of a serializer.

    Raises `ConfigurationError`, `EncodeError`.
    """
    return _WRITE[name](plain)


def plain_json(name: str, data: bytes) -> bytes:
    """Read the JSON that `written` was given. Raises `DecodeError`."""
    return _READ[name](data)


def _msgpack_write(plain: bytes) -> bytes:
    return library("msgpack", extra="msgpack").packb(orjson.loads(plain))


def load_msgpack(data: bytes) -> Any:
    """Read values in msgpack. Raises `DecodeError`."""
    msgpack: Any = library("msgpack", extra="msgpack")
    try:
        made = msgpack.unpackb(data, strict_map_key=True)
    except Exception as error:  # the library has no root of its own for its errors
        raise DecodeError(f"malformed msgpack: {error}") from error
    check_tree(made)
    return made


def _yaml_write(plain: bytes) -> bytes:
    yaml: Any = library("yaml", extra="yaml")
    raw = re.search(_YAML_BREAKS, plain) is None
    data = yaml.safe_dump(orjson.loads(plain), allow_unicode=raw, sort_keys=False).encode()
    if len(data) > _MOST_EVENTS:
        try:
            _check_yaml(yaml, _yaml_loader(yaml), data)
        except DecodeError as error:
            raise EncodeError(f"cannot be sent as YAML: {error}") from error
    return data


def _yaml_loader(yaml: Any) -> Any:
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(data: bytes) -> Any:
    """Read values in YAML, which may not refer to each other. Raises `DecodeError`."""
    yaml: Any = library("yaml", extra="yaml")
    loader = _yaml_loader(yaml)
    try:
        _check_yaml(yaml, loader, data)
        return yaml.load(data, Loader=loader)
    except (yaml.YAMLError, *_MISREAD) as error:
        raise DecodeError(f"malformed yaml: {describe(error).splitlines()[0]}") from error


def _check_yaml(yaml: Any, loader: Any, data: bytes) -> None:
    """Refuse the few lines of YAML that would keep a parser busy for minutes.

    Aliases of aliases expand beyond any memory, and nested brackets cost the square of their
    depth. Numbers in base 60 cost the square of their length, and whole numbers beyond 64 bits
    can share a hash, which costs the square of their number where they are keys.
    """
    depth = huge = 0
    for count, event in enumerate(yaml.parse(data, Loader=loader)):
        if count > _MOST_EVENTS:
            raise DecodeError(f"oversized: YAML of more than {_MOST_EVENTS:,} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise DecodeError("malformed yaml: aliases are not accepted")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) >= _HUGE:
            huge += _is_huge(event)
            if huge > _MOST_HUGE:
                raise DecodeError(f"malformed yaml: more than {_MOST_HUGE} numbers beyond 64 bits")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise DecodeError(f"malformed yaml: deeper than {_DEEPEST} levels")


def _is_huge(event: Any) -> bool:
    """Tell whether a scalar is a whole number beyond 64 bits. Raises `DecodeError`."""
    is_number = event.tag in _YAML_NUMBERS
    if not (is_number or event.implicit[0]):
        return False
    if len(event.value) > _LONG and (is_number or re.fullmatch(_YAML_BASE_60, event.value)):
        raise DecodeError("malformed yaml: a number that is too long")
    return re.fullmatch(_YAML_HUGE, event.value) is not None


def _json_of(load: Callable[[bytes], Any]) -> Callable[[bytes], bytes]:
    def read(data: bytes) -> bytes:
        made = load(data)
        check_depth(made, _DEEPEST, what="undecodable: the values")
        try:
            return json_text(plain_numbers(made))
        except EncodeError as error:
            raise DecodeError(f"a message holds what JSON cannot say: {error}") from error

    return read


def pickled(value: object) -> Any:
    """Turn a value of a call whose serializer is pickle into JSON. Raises `EncodeError`."""
    if type(value) in _AS_THEY_ARE:
        return to_wire(value)
    import pickle

    try:
        data = pickle.dumps(value, protocol=4)
    except Exception as error:  # whatever the value's own methods raise
        raise EncodeError(f"a {type(value).__qualname__} cannot be pickled: {error}") from error
    return {_PICKLED: base64.b64encode(data).decode()}


def unpickled(value: Any, otherwise: Callable[[Any], Any]) -> Any:
    """Restore the value that `pickled` wrote. Runs code: only for signed, accepted messages.

    Raises `DecodeError`, or whatever the value's own class raises.
    """
    if not is_object(value) or list(value) != [_PICKLED]:
        return otherwise(value)
    import pickle

    try:
        return pickle.loads(base64.b64decode(value[_PICKLED], validate=True))
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as error:
        raise DecodeError(f"malformed pickle: {error}") from error
    except Exception:
        raise
    except BaseException as error:  # of a class's own, or the panic of a library in Rust
        pass_ends(error)
        raise DecodeError(f"an argument cannot be unpickled: {describe(error)}") from error


def _same(data: bytes) -> bytes:
    return data


_WRITE: Mapping[str, Callable[[bytes], bytes]] = {
    "json": _same,
    "msgpack": _msgpack_write,
    "yaml": _yaml_write,
    PICKLE: _same,  # its arguments are
}
_READ: Mapping[str, Callable[[bytes], bytes]] = {
    "json": _same,
    "msgpack": _json_of(load_msgpack),
    "yaml": _json_of(load_yaml),
    PICKLE: _same,
}
SERIALIZERS = tuple(_WRITE)
