"""What an app needs on Google Cloud, as plain values: made by `planning`, drawn by `terraform`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cloudq.driver.schedulers import Job

Metric = Literal["age", "dead", "errors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Topic and subscription of a queue, and the pair for its dead letters. Times in seconds.

    `topic` and `dead_topic` are names in Pub/Sub, and so are the subscriptions. `url` is where
    messages are pushed to, None where it is not known before the function is there.
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

    `concurrency` messages run in an instance at a time.
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
class Refused:
    """A schedule that Cloud Scheduler cannot run, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """`metric` of a subscription or a function is above `threshold`."""

    name: str
    metric: Metric
    of: str
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything of one stack. `entry` is the app's `module:attribute`.

    `runtime_account` and `push_account` are ids of service accounts: what functions run as, and
    in whose name Pub/Sub calls them. `log_retention` is in days. `delays` is the queue of Cloud
    Tasks that the broker's URL names, which is made by other means.
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

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {"cloud": "google", **asdict(self)}

    def email(self, account: str) -> str:
        """The address of one of the plan's service accounts."""
        return f"{account}@{self.project}.iam.gserviceaccount.com"

    def fed(self, function: Function) -> Sequence[Queue]:
        """The queues whose messages the function gets."""
        return [queue for queue in self.queues if queue.name in function.queues]
