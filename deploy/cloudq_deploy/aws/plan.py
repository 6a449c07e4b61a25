"""The plan of an app on AWS, as plain values: every resource and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

UNDELIVERED = "schedules-undelivered"
"""The queue for messages that EventBridge Scheduler could not send, without the prefix."""

Metric = Literal["age", "dead", "errors", "throttles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue with its dead-letter queue. Times are in seconds; `full_name` is the name in SQS.

    With `by_content` a FIFO queue drops repeated bodies of messages without a key of their own.
    """

    name: str
    full_name: str
    dead_name: str
    fifo: bool
    visibility: int
    retention: int
    max_receive_count: int
    kms_key: str | None = None
    by_content: bool = False

    @property
    def encryption(self) -> str:
        """The encryption of messages at rest."""
        return self.kms_key or "SSE-SQS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A Lambda function that runs the tasks of some queues. Memory in MB, timeout in seconds.

    `recursive_loop` is allowed because retries and workflows send to the queue that the function
    reads; `max_depth` limits them instead. `log_retention` is in days.
    """

    name: str
    role: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    runtime: str
    architecture: str
    package: Literal["zip", "image"]
    memory: int
    timeout: int
    env: Mapping[str, str]
    reserved_concurrency: int | None
    provisioned: int
    tracing: str
    layers: tuple[str, ...]
    log_group: str
    log_retention: int
    max_depth: int
    recursive_loop: str = "Allow"
    handler: str = "cloudq_function.handler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """An event source mapping, which hands a queue's messages to a function."""

    queue: str
    function: str
    batch_size: int
    window: int
    max_concurrency: int | None
    report: str = "ReportBatchItemFailures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The result table: billed per request, with TTL on `expires`."""

    name: str
    ttl: str = "expires"
    billing: str = "PAY_PER_REQUEST"
    kms_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionKey:
    """A key of KMS that encrypts messages, as `key/ID` or `alias/NAME`.

    `region` and `account` are None for the plan's own.
    """

    name: str
    region: str | None = None
    account: str | None = None

    @property
    def by_alias(self) -> bool:
        """Tell whether the key is known by an alias, which others may turn to another key."""
        return self.name.startswith("alias/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """The bucket of large payloads, and what their keys begin with: "" or a folder and a slash.

    They are deleted when they are `days` old. The bucket may have more in it, and stays.
    """

    bucket: str
    prefix: str
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An entry of EventBridge Scheduler that sends a message to a queue.

    `expression` is in Scheduler's own notation; `input` is the message's body, `group` its message
    group, `task` the name of the task. A run may be up to `window` minutes late.
    """

    name: str
    expression: str
    queue: str
    input: str
    timezone: str = "UTC"
    enabled: bool = True
    group: str | None = None
    description: str = ""
    start: datetime | None = None
    end: datetime | None = None
    window: int = 0
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """The parts that all schedules share.

    They are the schedules' group, the role with which the service sends, and the queue for
    messages that it could not send. `one_time_group` is the group of one-time schedules, if the app
    has them: the first call makes it, and it counts as data.
    """

    group: str
    role: str
    dead_name: str
    kms_key: str | None = None
    one_time_group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """An alarm: `metric` of a queue (by full name) or a function is above `threshold`."""

    name: str
    metric: Metric
    of: str
    threshold: float
    topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All resources of one stack. `entry` is the app's `module:attribute`.

    `beat` has the times of the schedules that a beat must send, by their names. No role has rights
    beyond the policy whose ARN is `permissions_boundary`.
    """

    app: str
    stack: str
    region: str
    entry: str
    queues: tuple[Queue, ...]
    functions: tuple[Function, ...]
    mappings: tuple[Feed, ...]
    table: Table | None
    alarms: tuple[Alarm, ...]
    schedules: tuple[Schedule, ...] = ()
    scheduling: Scheduling | None = None
    beat: Mapping[str, str] = field(default_factory=dict[str, str])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    broker: str = ""
    backend: str = "none"
    payloads: Payloads | None = None
    payload_store: str | None = None
    encryption_keys: tuple[EncryptionKey, ...] = ()
    extras: tuple[str, ...] = ()
    permissions_boundary: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    def queue(self, name: str) -> Queue:
        """Find a queue by the name that tasks use."""
        return next(queue for queue in self.queues if queue.name == name)

    def fed(self, function: Function) -> Sequence[Queue]:
        """List the queues whose messages the function gets."""
        return [queue for queue in self.queues if queue.name in function.queues]
