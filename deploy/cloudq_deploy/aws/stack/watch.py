"""Follows a stack while it changes: its events, and its final status."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from cloudq_deploy.aws.stack.access import Aws, DeployError, asking, message_of, naps

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import StackEventTypeDef

_PATIENCE = 3600.0
# Reasons of resources that stopped because another failed; the first failure has the real one.
_FOLLOWING = ("Resource creation cancelled", "Resource update cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event in a stack's history."""

    id: str
    at: datetime
    status: str
    name: str
    kind: str
    reason: str

    @property
    def failed(self) -> bool:
        """Tell whether a resource failed."""
        return self.status.endswith("_FAILED")

    @property
    def of_stack(self) -> bool:
        """Tell whether it is an event of the stack itself."""
        return self.kind == "AWS::CloudFormation::Stack"


def seen(aws: Aws, stack: str) -> set[str]:
    """List the ids of all events up to now."""
    return {event.id for event in _events(aws, stack, set())}


def follow(
    aws: Aws, stack: str, known: set[str], tell: Callable[[Event], None]
) -> tuple[str, str | None]:
    """Call `tell` with each new event until the stack stops changing.

    Returns its final status, and the first failure. `stack` may be the stack's id, which finds a
    deleted stack too. Raises `DeployError` after an hour.
    """
    why: str | None = None
    deadline = time.monotonic() + _PATIENCE
    for nap in naps():
        if time.monotonic() > deadline:
            break
        status = _status(aws, stack)
        newest_first = list(_events(aws, stack, known))
        for event in reversed(newest_first):
            known.add(event.id)
            tell(event)
            if why is None and event.failed and not event.reason.startswith(_FOLLOWING):
                why = f"{event.name} ({event.kind}): {event.reason or event.status}"
        if not status.endswith("_IN_PROGRESS"):
            return status, why
        time.sleep(nap)
    raise DeployError(
        f"stack {stack} is still changing after {_PATIENCE:g} s: see `cloudq deploy status`"
    )


def _status(aws: Aws, stack: str) -> str:
    with asking(f"follow stack {stack}"):
        try:
            [found] = aws.cloudformation.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            if "does not exist" in message_of(error):
                return "DELETE_COMPLETE"
            raise
        return found["StackStatus"]


def _events(aws: Aws, stack: str, known: set[str]) -> Iterator[Event]:
    """Yield events, newest first, down to a known one."""
    with asking(f"read the events of stack {stack}"):
        pages = aws.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        try:
            for page in pages:
                for found in page["StackEvents"]:
                    if found["EventId"] in known:
                        return
                    yield _event(found)
        except ClientError as error:
            if "does not exist" not in message_of(error):
                raise


def _event(found: StackEventTypeDef) -> Event:
    return Event(
        id=found["EventId"],
        at=found["Timestamp"],
        status=found.get("ResourceStatus", ""),
        name=found.get("LogicalResourceId", ""),
        kind=found.get("ResourceType", ""),
        reason=found.get("ResourceStatusReason", ""),
    )
