"""Reads parts of AWS's answers that the service always sends, and tells where one is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cloudq.driver import Code
from cloudq_aws.errors import AwsError

CUT = Code.UNREACHABLE
NONE = "the answer is cut or not the service's"


def told(reply: Mapping[str, Any], name: str) -> Any:
    """Return a member that the service always sends, and never empty text. Raises `AwsError`."""
    if reply.get(name) in (None, ""):
        raise cut(f"it lacks {name}")
    return reply[name]


def number(reply: Mapping[str, Any], name: str) -> int:
    """Return a number that the service always sends, as text. Raises `AwsError`."""
    text = str(told(reply, name))
    if not re.fullmatch("[0-9]{1,18}", text):
        raise cut(f"its {name} is {text[:40]!r}")
    return int(text)


def cut(why: str) -> AwsError:
    """Make the error of an answer that cannot be the service's."""
    return AwsError(f"{NONE}: {why}", code=CUT)
