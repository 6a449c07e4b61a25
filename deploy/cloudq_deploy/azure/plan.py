"""What an app needs on Azure, as plain values: made by `planning`, drawn by `terraform`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue of Service Bus; its dead letters are part of it. `lock` in seconds.

    `function` is the trigger's name, `always_ready` how many instances wait for it.
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
    """A schedule that no timer can run, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionApp:
    """The app whose triggers run the tasks, on Flex Consumption. Memory in MB, timeout in s.

    `concurrency` messages and `sessions` groups run in an instance at a time.
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
    """A metric of Service Bus, for one queue, is above `threshold`."""

    name: str
    metric: Literal["DeadletteredMessages"]
    of: str
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything of one stack. `entry` is the app's `module:attribute`, `log_retention` in days."""

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

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {"cloud": "azure", **asdict(self)}
