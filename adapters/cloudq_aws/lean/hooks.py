"""Knows the hooks of botocore, and tells where one is at work that a short call would pass over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_
from types import FunctionType
from typing import Any

import botocore.endpoint
from botocore.auth import SigV4Auth
from botocore.client import BaseClient
from botocore.endpoint import Endpoint
from botocore.httpsession import URLLib3Session
from botocore.signers import RequestSigner
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

# Handlers that change nothing about a call that goes well, or change each in the same way.
_QUIET: Mapping[str, frozenset[str]] = {
    "provide-client-params": frozenset(),
    "before-parameter-build": frozenset(
        {
            "botocore.handlers.generate_idempotent_uuid",
            "botocore.handlers._handle_request_validation_mode_member",
        }
    ),
    "before-endpoint-resolution": frozenset(),
    "before-call": frozenset(
        {
            "botocore.handlers.add_recursion_detection_header",
            "botocore.handlers.inject_api_version_header_if_needed",
        }
    ),
    "request-created": frozenset(
        {
            "botocore.signers.RequestSigner.handler",
            "botocore.retries.standard.MaxAttemptsSeeder.seed_max_attempts",
            "botocore.handlers.add_retry_headers",
            "botocore.useragent.UserAgentString.rebuild_and_replace_user_agent_handler",
        }
    ),
    "choose-signer": frozenset(
        {
            "botocore.handlers.set_operation_specific_signer",
            "botocore.handlers._set_auth_scheme_preference_signer",
        }
    ),
    "before-sign": frozenset(),
    "before-send": frozenset(),
    "before-parse": frozenset({"cloudq_aws.checks._check_body"}),
    "response-received": frozenset(),
    "needs-retry": frozenset({"botocore.retries.standard.RetryHandler.needs_retry"}),
    "after-call": frozenset(
        {
            "botocore.handlers._handle_sqs_compatible_error",
            "cloudq_aws.checks._check_outcome",
        }
    ),
    "after-call-error": frozenset(),
}
# Handlers that are to be told of each call that went well.
_TOLD: Mapping[str, frozenset[str]] = {
    "needs-retry": frozenset(
        {
            "cloudq_aws.retries.Retries._needs_retry",
            "cloudq_aws.lost_receives.LostReceives._tried",
        }
    ),
    "after-call": frozenset(
        {
            "botocore.retries.standard.RetryQuotaChecker.release_retry_quota",
            "cloudq_aws.metering.meter_sqs.<locals>.answered",
            "cloudq_aws.metering.meter_dynamodb.<locals>.answered",
        }
    ),
    # These may give other parameters.
    "provide-client-params": frozenset(
        {"cloudq_aws.metering._keep", "cloudq_aws.metering._asking"}
    ),
}

# Methods in whose place tracers and tests of users put their own.
_SEAMS: tuple[tuple[type, str], ...] = (
    (BaseClient, "_make_api_call"),
    (Endpoint, "make_request"),
    (Endpoint, "_send_request"),
    (Endpoint, "create_request"),
    (Endpoint, "prepare_request"),
    (Endpoint, "_get_response"),
    (Endpoint, "_do_get_response"),
    (Endpoint, "_send"),
    (URLLib3Session, "send"),
    (RequestSigner, "sign"),
    (SigV4Auth, "add_auth"),
    (HTTPConnectionPool, "urlopen"),
    (HTTPConnection, "request"),
    (HTTPConnection, "getresponse"),
)
_DEBUG = 10


def _methods() -> list[object]:
    return [getattr(owner, name, None) for owner, name in _SEAMS]


def _is_own(method: object) -> bool:
    """Tell whether a method is the library's, and not another around it."""
    # A tracer's wrapper (wrapt's) says that its class and its module are those of what it wraps.
    if type(method) is not FunctionType:
        return False
    return method.__globals__["__name__"].startswith(("botocore.", "urllib3."))


_OWN = _methods()
_ARE_OWN = all(map(_is_own, _OWN))


def is_watched() -> bool:
    """Tell whether somebody else's method is in the way of requests, or botocore logs them."""
    are_own = _ARE_OWN and all(map(is_, _methods(), _OWN))  # a wrapper equals what it wraps
    return not are_own or botocore.endpoint.logger.isEnabledFor(_DEBUG)


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one operation: what to tell of calls that went well, if all are known.

    `given` are asked for the parameters of each call. `stamp` is another object as soon as any
    hook of the client comes or goes.
    """

    stamp: object
    retries: tuple[Callable[..., object], ...]
    after: tuple[Callable[..., object], ...]
    given: tuple[Callable[..., Any], ...] = ()


def stamp_of(client: Any) -> object:
    """Return what changes when a hook of a client comes or goes; None if there is no such thing."""
    emitter = getattr(client.meta.events, "_emitter", None)
    return getattr(emitter, "_lookup_cache", None)


def hooks_of(client: Any, operation: str) -> Hooks | None:
    """Return the hooks of an operation; None if there is one that is not known here."""
    stamp = stamp_of(client)
    if stamp is None:
        return None
    service = client.meta.service_model.service_id.hyphenize()
    handlers = client.meta.events._emitter._handlers
    told: dict[str, list[Callable[..., object]]] = {name: [] for name in _TOLD}
    for event, quiet in _QUIET.items():
        for handler in handlers.prefix_search(f"{event}.{service}.{operation}"):
            name = _name(handler)
            if name in _TOLD.get(event, ()):
                told[event].append(handler)
            elif name not in quiet:
                return None
    return Hooks(
        stamp,
        tuple(told["needs-retry"]),
        tuple(told["after-call"]),
        tuple(told["provide-client-params"]),
    )


def _name(handler: object) -> str:
    function = getattr(handler, "__func__", handler)
    if not isinstance(function, FunctionType):
        return ""
    return f"{function.__globals__['__name__']}.{function.__qualname__}"
