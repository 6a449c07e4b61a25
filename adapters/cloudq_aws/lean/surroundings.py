"""Tells where frequent calls need no botocore: in a plain Lambda, where nobody else uses it.

botocore reads variables, files of the user, and the hooks of whoever traces it. Where any of these
could change a request, it makes all requests.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

# The variables of AWS that change no request, or each as it is done here; and the beginnings of
# those that Lambda sets for other programs.
_KNOWN = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECURITY_TOKEN",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV",
    }
)
_KNOWN_STARTS = ("AWS_LAMBDA_", "AWS_XRAY_")
# Others that botocore, its libraries, or a tracer ask for.
_OTHERS = frozenset({"REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE", "AWS_LAMBDA_EXEC_WRAPPER"})
_OTHERS_ENDS = ("_PROXY",)
# The program's own finders of modules are these; a tracer has one that waits for botocore.
_FINDERS = ("_frozen_importlib", "six", "importlib", "_distutils_hack", "__editable__")
_LOGGER = logging.getLogger("botocore")
_METHODS = ("request", "putrequest", "getresponse")


class Keys(NamedTuple):
    """Credentials of AWS."""

    access_key: str
    secret_key: str
    token: str | None


def keys_here() -> Keys | None:
    """Return the credentials of this Lambda; None where botocore is to look for them."""
    env = os.environ
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    # In botocore's order.
    token = env.get("AWS_SECURITY_TOKEN") or env.get("AWS_SESSION_TOKEN") or None
    if not (key and secret and "AWS_LAMBDA_RUNTIME_API" in env and is_alone()):
        return None
    texts = f"{key}{secret}{token or ''}"
    is_plain = texts.isascii() and texts.isprintable() and not any(map(_is_odd, env))
    if not is_plain or any(map(_is_of_tracer, sys.meta_path)) or _has_files():
        return None
    return Keys(key, secret, token)


def is_alone() -> bool:
    """Tell whether nobody has loaded botocore, wants its log, or listens to requests of HTTP."""
    if "botocore" in sys.modules or _LOGGER.isEnabledFor(logging.DEBUG):
        return False
    http = sys.modules.get("http.client")
    kind: Any = getattr(http, "HTTPConnection", None)
    return kind is None or all(_is_own(getattr(kind, name, None)) for name in _METHODS)


def _is_own(method: Any) -> bool:
    # A tracer's wrapper (wrapt's) says that its class and its module are those of what it wraps.
    return type(method) is FunctionType and method.__globals__["__name__"] == "http.client"


def _is_odd(name: str) -> bool:
    if name in _OTHERS or (name.upper().endswith(_OTHERS_ENDS) and name.upper() != "NO_PROXY"):
        return True
    is_aws = name.startswith(("AWS_", "BOTO"))
    return is_aws and name not in _KNOWN and not name.startswith(_KNOWN_STARTS)


def _is_of_tracer(finder: Any) -> bool:
    kind = finder if isinstance(finder, type) else type(finder)
    return not kind.__module__.startswith(_FINDERS)


def _has_files() -> bool:
    """Tell whether there are files of the user that botocore reads."""
    try:
        return (Path.home() / ".aws").exists()
    except (OSError, RuntimeError):  # no home
        return True
