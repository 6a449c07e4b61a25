"""Translates values of Celery's settings to cloudq's; `ValueError` has the reason against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

from cloudq.errors import ConfigurationError, EncodeError
from cloudq.messages.json_text import json_text

STORES = "dynamodb://, firestore://, aztables:// or sqlite://"
_BROKERS = "sqs://, pubsub://, servicebus:// or sqlite://"
_FOREIGN_BROKERS = (
    "amqp",
    "pyamqp",
    "librabbitmq",
    "redis",
    "rediss",
    "sentinel",
    "valkey",
    "filesystem",
    "kafka",
    "confluentkafka",
    "mongodb",
    "zookeeper",
    "consul",
    "etcd",
    "gcpubsub",
    "azureservicebus",
    "azurestoragequeues",
    "sqlalchemy",
    "sqla",
)


def broker(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str) or ";" in value:
        raise ValueError(
            f"one broker, by its URL ({_BROKERS}): a cloud's queue needs no other to fail over to"
        )
    scheme = value.partition(":")[0].partition("+")[0].lower()
    if scheme in _FOREIGN_BROKERS:
        raise ValueError(f"there is no broker for {scheme}://: the URL is {_BROKERS}")
    return value


def backend(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"a store is given by its URL: {STORES}")
    scheme = value.partition(":")[0].partition("+")[0].lower()
    if scheme == "disabled":
        return "none"
    if value.lower().startswith("cache+memory:"):  # what Celery's tests have
        return "memory://"
    if scheme in ("rpc", "amqp"):
        raise ValueError(f"results lie in a store and never in a queue of the caller: {STORES}")
    if scheme in _FOREIGN_STORES:
        raise ValueError(f"there is no store for {scheme}: the URL is {STORES}")
    return value


_FOREIGN_STORES = (
    "db",
    "database",
    "redis",
    "rediss",
    "sentinel",
    "cache",
    "django-db",
    "django-cache",
    "mongodb",
    "file",
    "filesystem",
    "s3",
    "gs",
    "elasticsearch",
    "cassandra",
    "couchbase",
    "couchdb",
    "cosmosdbsql",
    "azureblockblob",
    "arangodb",
    "consul",
)


def seconds(value: Any) -> Any:
    """Return a duration in seconds, given as a number or a `timedelta`."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def from_now(value: Any) -> Any:
    """Return a time from now on in seconds; a past one, as programs that compute it have, is 0."""
    given = seconds(value)
    return max(given, 0) if isinstance(given, int | float) else given


def expiry(value: Any) -> Any:
    if value is None or seconds(value) == 0:
        raise ValueError("every result expires here: give a long time, as timedelta(days=365)")
    return seconds(value)


def zone(value: Any) -> str:
    return "UTC" if value is None else str(value)


def modules(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


_POOLS = {
    "prefork": "processes",
    "processes": "processes",
    "threads": "threads",
    "solo": "solo",
    "gevent": "gevent",
    "asyncio": "asyncio",
}


def pool(value: Any) -> str:
    if value not in _POOLS:
        raise ValueError(f"the pools are {', '.join(_POOLS)}; for eventlet take gevent or asyncio")
    return _POOLS[value]


def serializers(value: Any) -> list[str]:
    names = [value] if isinstance(value, str) else list(cast("Sequence[str]", value))
    return [serializer(name) for name in names]


def serializer(value: Any) -> str:
    return str(value).removeprefix("application/x-").removeprefix("application/")


def result_serializer(value: Any) -> str:
    if serializer(value) != "json":
        raise ValueError(
            "results are always stored as JSON: leave it out; arguments may use another serializer"
        )
    return "json"


_COMPRESSIONS = {"gzip": "zlib", "zlib": "zlib", "bzip2": "bz2", "bz2": "bz2", "zstd": "zstd"}


def compression(value: Any) -> str | None:
    if value is None:
        return None
    name = str(value).removeprefix("application/x-").removeprefix("application/")
    if name not in _COMPRESSIONS:
        raise ValueError("the compressions are zlib (gzip), bzip2 and zstd")
    return _COMPRESSIONS[name]


def events(value: Any) -> str:
    return "tracked" if value else "none"


def publish_retry(value: Any) -> int:
    return 3 if value else 0


def publish_policy(value: Any) -> int:
    policy = cast("Mapping[str, Any]", value if isinstance(value, Mapping) else {})
    most = policy.get("max_retries", 3)
    if not isinstance(most, int):
        raise ValueError("give max_retries: for ever is not possible, the pauses are the broker's")
    return most


def publish_policy_of(value: Any) -> Any:
    """Read the retry policy of a publish; the broker decides which errors to retry."""
    if not isinstance(value, Mapping):
        return value
    policy = dict(cast("Mapping[str, Any]", value))
    if policy.get("max_retries", 0) is None:
        raise ValueError("give max_retries: a call is not tried for ever")
    for name in ("retry_errors", "errback", "interval"):
        if policy.pop(name, None) is not None:
            raise ValueError(f"{name} is not possible: what a busy broker refused is sent again")
    return policy


def routes(value: Any) -> Any:
    """Read routes without their exchanges, since a call is routed to a queue only."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value)
        return {pattern: _route(pattern, route) for pattern, route in entries.items()}
    if isinstance(value, list | tuple):
        given = cast("Sequence[Any]", value)
        if len(given) == 2 and isinstance(given[1], Mapping) and not isinstance(given[0], Mapping):
            return (given[0], _route(*given))
        return [routes(entry) for entry in given]
    return _router(value)


def _router(value: Any) -> Any:
    """Return a router, a function or an object with `route_for_task`, whose routes are read."""
    method: Any = getattr(value, "route_for_task", None)
    if method is None and not callable(value):
        return value

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        if method is not None:
            made = method(name, args, kwargs)
        else:
            made = value(name, args, kwargs, options, task=task)
        try:
            return _route(name, made)
        except ValueError as error:
            raise ConfigurationError(f"task_routes: {error}") from error

    return route


def _route(pattern: Any, route: Any) -> Any:
    if not isinstance(route, Mapping):
        return route
    options = dict(cast("Mapping[str, Any]", route))
    foreign = [name for name in ("exchange", "routing_key", "exchange_type") if name in options]
    if foreign and "queue" not in options:
        raise ValueError(
            f"the route of {pattern} has {foreign[0]} and no queue: there are no exchanges, name "
            "the queue"
        )
    for name in foreign:
        del options[name]
    return options


_JSON_HEADERS = "celery-json"
"""The header that names those whose values are no texts, and are sent as JSON."""


OWN_TEXTS = frozenset({"celery-argsrepr", "celery-kwargsrepr"})
"""The headers that carry the texts of a call's arguments; a task finds them in no headers."""


def headers(value: Any) -> dict[str, str]:
    """Return headers as texts. Raises `ValueError` for a value that is no JSON."""
    given: Mapping[str, Any] = value
    made = {name: each for name, each in given.items() if isinstance(each, str)}
    others = {name: each for name, each in given.items() if not isinstance(each, str)}
    if not others:
        return made
    try:
        texts = {name: json_text(each).decode() for name, each in others.items()}
    except EncodeError as error:
        raise ValueError(f"a header's value is text or JSON: {error}") from error
    return {**made, **texts, _JSON_HEADERS: json_text(sorted(texts)).decode()}


def read_headers(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return headers with the types that they were given."""
    named = given.get(_JSON_HEADERS)
    if not isinstance(named, str):
        return given
    made = {name: value for name, value in given.items() if name != _JSON_HEADERS}
    try:
        return {**made, **{name: json.loads(made[name]) for name in json.loads(named)}}
    except (KeyError, TypeError, ValueError):  # another program wrote it
        return given
