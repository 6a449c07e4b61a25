"""The plan of an app on Google Cloud, as plain values: every resource and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cloudq.driver.schedulers import Job

Metric = Literal["age", "dead", "errors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The topic and subscription of a queue, and those of its dead letters. Times in seconds.

    `topic`, `dead_topic` and the subscriptions are names in Pub/Sub. Messages are pushed to `url`;
    it is None while the function's address is unknown.
    """

    name: str
    topic: str
    subscription: str
    dead_topic: str
    dead_subscription: str
    function: str
    fifo: bool
    ack_deadline: int
    max_attempts: int
    backoff: tuple[int, int]
    exactly_once: bool = False
    filter: str = ""
    url: str | None = None
    retention: int = 31 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A Cloud Run function that runs the tasks of some queues. Memory in MB, timeout in seconds.

    An instance runs `concurrency` messages at a time.
    """

    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    runtime: str
    memory: int
    cpu: str | None
    timeout: int
    concurrency: int
    min_instances: int
    max_instances: int
    env: Mapping[str, str]
    max_depth: int
    entry_point: str = "handler"
    ingress: str = "ALLOW_INTERNAL_ONLY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A Firestore database and the collection that holds everything, with TTL on `expires`."""

    database: str
    collection: str
    ttl: str = "expires"
    unindexed: tuple[str, ...] = ("fields", "expires")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """The bucket of large payloads, and what their keys begin with: "" or a folder and a slash.

    They are deleted when they are `days` old.
    """

    bucket: str
    prefix: str
    days: int

    @property
    def url(self) -> str:
        """Return the URL of the payload store."""
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A schedule that Cloud Scheduler cannot run, with the reason."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alert: `metric` of a subscription or a function is above `threshold`."""

    name: str
    metric: Metric
    of: str
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All resources of one stack. `entry` is the app's `module:attribute`.

    `runtime_account` and `push_account` are ids of service accounts: functions run as the first,
    and Pub/Sub calls them as the second. `log_retention` is in days. `delays` is the queue of
    Cloud Tasks that the broker's URL names; a deployment does not make it. `encryption_keys` are
    whole names of keys in Cloud KMS, which it does not make either.
    """

    app: str
    stack: str
    project: str
    location: str
    entry: str
    queues: tuple[Queue, ...]
    functions: tuple[Function, ...]
    store: Store | None
    jobs: tuple[Job, ...]
    refused: tuple[Refused, ...]
    alerts: tuple[Alert, ...]
    runtime_account: str
    push_account: str
    bucket: str
    log_retention: int
    retries: int = 5
    alarm_channels: tuple[str, ...] = ()
    build_account: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    delays: str = ""
    broker: str = ""
    backend: str = "none"
    payloads: Payloads | None = None
    encryption_keys: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {"cloud": "google", **asdict(self)}

    def email(self, account: str) -> str:
        """The e-mail address of one of the plan's service accounts."""
        return f"{account}@{self.project}.iam.gserviceaccount.com"

    def fed(self, function: Function) -> Sequence[Queue]:
        """List the queues whose messages the function gets."""
        return [queue for queue in self.queues if queue.name in function.queues]
