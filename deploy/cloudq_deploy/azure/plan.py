"""The plan of an app on Azure, as plain values: every resource and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue of Service Bus, which has its own dead letters. `lock` is in seconds.

    `function` is the trigger's name; `always_ready` instances wait for its messages.
    """

    name: str
    full_name: str
    function: str
    fifo: bool
    lock: int
    max_delivery_count: int
    tasks: tuple[str, ...]
    always_ready: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer trigger that sends a schedule's call. `expression` has six fields, in UTC."""

    name: str
    entry: str
    expression: str
    queue: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A schedule that no timer can run, with the reason."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionApp:
    """The function app whose triggers run the tasks, on Flex Consumption.

    Memory is in MB, timeout in seconds. An instance runs `concurrency` messages, or `sessions`
    groups of `.fifo` queues, at a time.
    """

    name: str
    python: str
    memory: int
    timeout: int
    concurrency: int
    sessions: int
    max_instances: int
    env: Mapping[str, str]
    max_depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert: a metric of Service Bus, for one queue, is above `threshold`."""

    name: str
    metric: Literal["DeadletteredMessages"]
    of: str
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """The container of large payloads, and what their names begin with: "" or a folder and a slash.

    They are deleted when they are `days` old.
    """

    container: str
    prefix: str
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """A key that encrypts messages, in a vault that a deployment does not make."""

    vault: str
    group: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All resources of one stack. `entry` is the app's `module:attribute`.

    `log_retention` is in days.
    """

    app: str
    stack: str
    location: str
    entry: str
    resource_group: str
    namespace: str
    premium: bool
    queues: tuple[Queue, ...]
    function_app: FunctionApp
    timers: tuple[Timer, ...]
    refused: tuple[Refused, ...]
    account: str
    replication: str
    table: str | None
    identity: str
    alerts: tuple[Alert, ...]
    log_retention: int
    action_group: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    broker: str = ""
    backend: str = "none"
    payloads: Payloads | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def payload_store(self) -> str | None:
        """Return the URL of the payload store."""
        if self.payloads is None:
            return None
        return f"azblob://{self.account}/{self.payloads.container}/{self.payloads.prefix}".rstrip(
            "/"
        )

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {"cloud": "azure", **asdict(self)}
