"""The roles of the function app's identity, each granted on one resource."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cloudq_deploy.azure.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A built-in role of Azure for the identity, on a resource by its name in the plan."""

    role: str
    kind: Literal["queue", "table", "account", "key"]
    on: str
    why: str


def grants(plan: Plan) -> Iterator[Grant]:
    """Yield all grants of a plan, each once."""
    for queue in plan.queues:
        for role, why in (
            ("Azure Service Bus Data Sender", "retries and calls"),
            ("Azure Service Bus Data Receiver", "the trigger, and its scaling"),
        ):
            yield Grant(role=role, kind="queue", on=queue.name, why=why)
    if plan.table is not None:
        yield Grant(
            role="Storage Table Data Contributor", kind="table", on=plan.table, why="results"
        )
    for key in plan.encryption_keys:
        yield Grant(
            role="Key Vault Crypto User",
            kind="key",
            on=f"{key.group}/{key.vault}/{key.name}",
            why="encrypted messages",
        )
    # The host makes containers there for its keys, leases of timers, and the zip. Large payloads
    # are in one of their own.
    yield Grant(
        role="Storage Blob Data Owner", kind="account", on=plan.account, why="the Functions host"
    )
