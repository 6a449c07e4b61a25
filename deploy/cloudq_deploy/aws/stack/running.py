"""Reads the logs of functions, and runs single tasks in them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from botocore.exceptions import ClientError

from cloudq_deploy.aws.plan import Function
from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, code_of

_POLL = 1.0
_REACH = 5.0  # seconds before the newest line in which further lines may still appear


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a function's log; `at` is in epoch seconds."""

    id: str
    at: float
    function: str
    text: str


def lines(
    aws: Aws, functions: Sequence[Function], *, since: float, text: str = "", follow: bool = False
) -> Iterator[Line]:
    """Yield the lines of all functions since an epoch second, oldest first.

    With `text` only lines that contain it; with `follow` also those that come later, for ever.
    """
    seen: dict[str, float] = {}
    start = since
    while True:
        found = [
            line
            for function in functions
            for line in _lines(aws, function, start, text, awaited=follow)
            if line.id not in seen
        ]
        found.sort(key=attrgetter("at"))
        yield from found
        if not follow:
            return
        seen |= {line.id: line.at for line in found}
        start = max([start, *(line.at - _REACH for line in found)])
        seen = {id: at for id, at in seen.items() if at >= start}
        time.sleep(_POLL)


def _lines(
    aws: Aws, function: Function, since: float, text: str, *, awaited: bool
) -> Iterator[Line]:
    """Yield one function's lines. If they are `awaited`, the log may not exist yet."""
    with asking(f"read log {function.log_group}"):
        pages = aws.logs.get_paginator("filter_log_events").paginate(
            logGroupName=function.log_group,
            startTime=int(since * 1000),
            filterPattern=f'"{text}"' if text else "",
        )
        try:
            for page in pages:
                for event in page["events"]:
                    yield Line(
                        id=event.get("eventId", ""),
                        at=event.get("timestamp", 0) / 1000,
                        function=function.name,
                        text=event.get("message", "").rstrip(),
                    )
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
            if awaited:
                return
            raise DeployError(
                f"there is no log {function.log_group}: `cloudq deploy status` shows whether the "
                "stack "
                "exists"
            ) from error


def invoke(
    aws: Aws, function: Function, task: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Have the function run one task now; returns the handler's answer. Raises `DeployError`."""
    event = {"task": task, "args": list(args), "kwargs": dict(kwargs)}
    with asking(f"invoke function {function.name}"):
        try:
            reply = aws.functions.invoke(
                FunctionName=function.name, Payload=json.dumps(event).encode()
            )
        except aws.functions.exceptions.ResourceNotFoundException as error:
            raise DeployError(
                f"there is no function {function.name}: make it with `cloudq deploy apply`; if it "
                "was "
                "deleted by hand, run `destroy`, which keeps the data, and then `apply --adopt`"
            ) from error
        answer: Any = json.loads(reply["Payload"].read() or b"null")
    if reply.get("FunctionError"):
        said = answer.get("errorMessage", answer) if isinstance(answer, dict) else answer  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        raise DeployError(f"function {function.name} failed: {said}")
    return answer
