"""Settings of an app: from the constructor, a config object, the environment, or a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from cloudq.driver.adapters import default_backend
from cloudq.driver.loader import default_payloads, installed
from cloudq.errors import DISTRIBUTION, ConfigurationError, did_you_mean
from cloudq.settings.choices import COMPRESSIONS, SERIALIZERS, Compression, Level, Serializer
from cloudq.settings.fields import plain, setting, settings_of
from cloudq.settings.sources import (
    CELERY_NAMES,
    WrongSource,
    check_module,
    environment,
    in_file,
    plain_names,
)
from cloudq.text import describe, masked

if TYPE_CHECKING:  # loaded where a value must be checked more closely
    from pydantic import SecretStr


@cache
def format_names() -> tuple[str, ...]:
    """Return the names of the installed message formats, cloudq's own first."""
    return tuple(dict.fromkeys(["cloudq", *(entry.name for entry in installed("format"))]))


class Settings:
    """Every setting, its default and its meaning. Times are in seconds.

    The first source that has a setting wins: the constructor of `CloudQ`, `config_from_object`,
    the environment (`CLOUDQ_BROKER`), the file named by `CLOUDQ_CONFIG` (or `cloudq.toml`), the
    default. Celery's lower-case names are understood where the setting exists there too.
    """

    broker: str = setting(default="sqlite:///cloudq.db", description="URL of the broker")
    backend: str | None = setting(
        default=None,
        description='URL of the result store; "none" turns it off. Unset: an embedded broker also '
        "stores results",
    )
    include: list[str] = setting(default=[], description="modules to import; they define tasks")
    task_default_queue: str = setting(
        default="default", min_length=1, description="queue of calls that no route sends elsewhere"
    )
    priority_queues: list[str] = setting(
        default=[],
        description="queues with priorities: NAME stands for NAME-high, NAME and NAME-low",
    )
    task_always_eager: bool = setting(
        default=False, description="run each task in the calling process, without a broker"
    )
    task_eager_propagates: bool = setting(
        default=False, description="an eager call raises the error of its task"
    )
    task_ignore_result: bool = setting(default=False, description="do not store results of tasks")
    task_serializer: Serializer = setting(
        default="json", choices=SERIALIZERS, description="serializer of the arguments that are sent"
    )
    result_serializer: Literal["json"] = setting(
        default="json", description="serializer of results; only JSON is possible"
    )
    accept_content: list[Serializer] = setting(
        default=["json"],
        choices=SERIALIZERS,
        description="serializers accepted in received messages; pickle needs signed messages",
    )
    task_compression: Compression | None = setting(
        default=None,
        choices=COMPRESSIONS,
        description="compression of message bodies, used if it makes a body smaller",
    )
    signing_keys: dict[str, SecretStr] = setting(
        default={},
        description="keys by id, each of at least 32 characters; a signature by any is accepted",
    )
    signing_key: str | None = setting(
        default=None,
        checked=True,
        description="id of the key that signs new messages. Unset: the first key",
    )
    signing_required: bool = setting(
        default=True,
        description="if there are signing keys, reject unsigned messages; set it to false while "
        "you introduce signing",
    )
    signing_expires: float | None = setting(
        default=None,
        gt=0,
        description="how long a signature is valid after the message is due. Unset: forever",
    )
    signing_apps: list[str] = setting(
        default=[],
        description="names of other apps whose signed or encrypted messages are accepted",
    )
    encryption_keys: dict[str, SecretStr] = setting(
        default={},
        description="keys by id, each base64 of 32 bytes, or the URL of a key in a key service; "
        "any of them opens what is sent and stored",
    )
    encryption_key: str | None = setting(
        default=None,
        checked=True,
        description="id of the key that encrypts. Unset: the first key",
    )
    encryption_required: bool = setting(
        default=True,
        description="if there are encryption keys, reject messages that are not encrypted; set it "
        "to false while you introduce encryption",
    )
    encryption_hides_task: bool = setting(
        default=False,
        description="encrypt the name of a message's task too, so that nobody reads it without "
        "the key",
    )
    queue_accept: dict[str, list[str]] = setting(
        default={}, description='message formats read from a queue: {"orders": ["celery"]}'
    )
    queue_produce: dict[str, str] = setting(
        default={}, description='message format written to a queue: {"orders": "celery"}'
    )
    queue_tasks: dict[str, list[str]] = setting(
        default={}, description='only tasks run from a queue: {"public": ["shop.mail.*"]}'
    )
    queue_limits: dict[str, dict[str, float]] = setting(
        default={},
        checked=True,
        description='limits of messages: {"public": {"bytes": 9999, "depth": 3, "age": 3600}}',
    )
    task_track_started: bool = setting(default=False, description="store STARTED and RETRY too")
    task_track_retries: bool = setting(
        default=False, description="store RETRY too, also of tasks whose start is not stored"
    )
    task_events: Level | None = setting(
        default=None,
        choices=Level,
        description='events to record: "none"; "failed": the failures; "final": the end of each '
        'task; "tracked": also its starts and retries. Unset: the failures, and where requests are '
        "free, all ends",
    )
    task_events_args: bool = setting(default=True, description="events include the arguments")
    task_events_expires: float = setting(default=604_800.0, gt=0, description="an event's lifetime")
    redact: list[str] = setting(
        default=[], description='names of arguments that are never shown: ["*password*", "card_*"]'
    )
    task_time_limit: float | None = setting(
        default=None, gt=0, description="a task that runs longer is stopped, and fails"
    )
    task_soft_time_limit: float | None = setting(
        default=None, gt=0, description="a task that runs longer gets SoftTimeLimitExceeded"
    )
    task_routes: Any = setting(
        default=None, description="queues of tasks, by name, glob, regular expression or function"
    )
    task_annotations: Any = setting(
        default=None, description='options that override those of tasks, by name; "*" is all tasks'
    )
    timezone: str = setting(
        default="UTC", checked=True, description="time zone of datetimes that have none"
    )
    max_retries: int = setting(default=3, ge=0, description="retries, unless a task sets them")
    default_retry_delay: float = setting(
        default=180.0, ge=0, description="wait before a retry, if neither task nor call sets it"
    )
    result_expires: float = setting(default=86_400.0, gt=0, description="how long results are kept")
    idempotency_expires: float = setting(
        default=86_400.0, gt=0, description="how long an idempotency key prevents a second run"
    )
    lease: float = setting(
        default=60.0,
        ge=1,
        description="how long a worker holds a message before it must extend the lease, which it "
        "does; the tasks of a dead worker are delivered again after this",
    )
    max_deliveries: int = setting(
        default=10, ge=1, description="deliveries after which a task fails with WorkerLost"
    )
    max_body: int = setting(
        default=16_777_216, ge=1024, description="largest decompressed message body, in bytes"
    )
    payload_store: str | None = setting(
        default=None,
        description="URL of the store of large arguments and results: s3://, gs://, azblob:// or "
        'file://; "none" turns it off. Unset: beside the file of a SQLite broker',
    )
    payload_store_over: int | None = setting(
        default=None,
        ge=1024,
        description="messages and results of more bytes go to `payload_store`. Unset: those that "
        "the queue or the result store does not take",
    )
    payload_limit: int = setting(
        default=1_073_741_824, ge=1024, description="largest value in `payload_store`, in bytes"
    )
    payload_gone: Literal["fail", "wait"] = setting(
        default="fail",
        choices=("fail", "wait"),
        description="a task whose payload is gone fails, or its message waits",
    )
    payload_expires: float = setting(
        default=1_296_000.0,
        gt=0,
        description="how long a bucket, and `cloudq sweep`, keep payloads",
    )
    max_depth: int = setting(
        default=1000, ge=1, description="longest chain of tasks that call each other"
    )
    max_fan_out: int = setting(default=1_000_000, ge=1, description="most tasks that a call starts")
    beat_schedule: Any = setting(
        default={}, description="periodic tasks in Celery's form, by schedule name"
    )
    beat_lease: float = setting(
        default=30.0, ge=1, description="time in which another beat takes over from a dead one"
    )
    scheduler: str | None = setting(
        default=None, description="URL of the cloud's scheduler, for `cloudq schedules apply`"
    )
    scheduler_eta: float | None = setting(
        default=None,
        checked=True,
        ge=0,
        description="a call due later than this is stored as a one-time schedule of `scheduler`. "
        "Unset: a delay that is too long for the queue is cut into several short ones",
    )
    tracing: bool = setting(
        default=False, description=f"trace calls with OpenTelemetry; needs {DISTRIBUTION}[otel]"
    )
    publish_retries: int = setting(
        default=3, ge=0, description="retries of a message that a busy broker refused"
    )
    bundle_bytes: int = setting(
        default=65_536, ge=1024, description="largest message body of many calls, in bytes"
    )
    worker_processes: int | None = setting(
        default=None, ge=1, le=1000, description="number of processes. Unset: one for each core"
    )
    worker_threads: int = setting(
        default=16, ge=1, le=100_000, description="tasks that run at the same time in each process"
    )
    worker_max_tasks_per_child: int | None = setting(
        default=None, ge=1, description="a process is replaced after this many tasks"
    )
    worker_max_memory_per_child: int | None = setting(
        default=None, ge=1, description="a process that uses more memory is replaced; in KiB"
    )
    worker_pool: str = setting(
        default="processes",
        pattern="^(processes|threads|asyncio|solo|gevent)$",
        description="processes, threads, asyncio, solo or gevent",
    )
    worker_fork: bool = setting(
        default=True,
        description="make processes by forks of one that has loaded the app, unless its import "
        "leaves threads or connections. False: each imports it anew",
    )
    worker_autoscale_idle: float = setting(
        default=30.0, gt=0, description="with --autoscale, a process idle for so long is stopped"
    )
    worker_poll_wait: float | None = setting(
        default=None,
        ge=0,
        description="longest wait of a receive. Unset: 20, and at a terminal 2, for a quick stop",
    )
    worker_prefetch_seconds: float = setting(
        default=1.0,
        ge=0,
        le=60,
        description="hold as much work beyond free slots as was done in so long; 0: none",
    )
    worker_parked_poll: float = setting(
        default=5.0,
        ge=0.1,
        description="if the broker cannot delay, how often the store is searched for what is due",
    )
    worker_grace: float = setting(
        default=30.0, ge=0, description="time that running tasks get to finish at shutdown"
    )
    worker_heartbeat: float = setting(
        default=15.0,
        ge=0,
        description="interval of a worker's heartbeats and looks for commands; 0 turns both off",
    )
    prices: dict[str, float] = setting(
        default={}, description="your prices for `cloudq cost`, in dollars, by name"
    )

    def __init__(self, **values: Any) -> None:
        given = plain_names(values)
        made = plain(DECLARED, given)
        if made is None:
            from cloudq.settings.model import validated

            made = validated(given)
        defaults = {name: field.fresh() for name, field in DECLARED.items() if name not in made}
        self.__dict__.update(defaults, **made, _given=frozenset(made))

    def __getattr__(self, name: str) -> Any:
        """Raise `AttributeError` for what is no setting, with the one that is probably meant."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("update", "setdefault"):
            hint = "settings are changed by app.configure(name=value)"
        else:
            hint = did_you_mean(name, DECLARED, otherwise="the page Settings lists all")
        raise AttributeError(f"there is no setting {name!r}: {hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Change one setting. Raises `ValueError`: pydantic's, or for a name that is none."""
        if name not in DECLARED:
            hint = did_you_mean(name, DECLARED, otherwise=f"known: {', '.join(DECLARED)}")
            raise ValueError(f"there is no setting {name!r}: {hint}")
        values = self.values() | {name: value}  # one may not go with another
        made = plain(DECLARED, values)
        if made is None:
            from cloudq.settings.model import validated

            made = validated(values)
        self.__dict__[name] = made[name]
        self.__dict__["_given"] = self.given | {name}

    def __repr__(self) -> str:
        shown = [f"{name}={masked({name: value})[name]!r}" for name, value in self.values().items()]
        return f"Settings({', '.join(shown)})"

    @property
    def given(self) -> frozenset[str]:
        """The names of the settings that are not left to their defaults."""
        return self.__dict__["_given"]

    def values(self) -> dict[str, Any]:
        """Return all settings, as objects."""
        return {name: self.__dict__[name] for name in DECLARED}

    def as_json(self) -> dict[str, Any]:
        """Return all settings as JSON has them; keys are hidden, functions become texts."""
        from cloudq.settings.model import as_json

        return as_json(self.values())

    def replaced(self, values: Mapping[str, Any]) -> Self:
        """Return a copy in which these values stand, unchecked."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, **values, _given=self.given | values.keys())
        return copy

    @property
    def backend_url(self) -> str | None:
        """URL of the result store: the `backend` setting, else the broker's default."""
        if self.backend is not None:
            return None if self.backend == "none" else self.backend
        return default_backend(self.broker)

    @property
    def payload_url(self) -> str | None:
        """URL of the store of large payloads: the setting, else one beside the broker's file."""
        if self.payload_store is not None:
            return None if self.payload_store == "none" else self.payload_store
        return default_payloads(self.broker)


DECLARED = settings_of(Settings)
"""The settings, each with its default, its meaning and its bounds."""


def load(values: Mapping[str, Any]) -> Settings:
    """Load the settings; `values` override every other source. Raises `ConfigurationError`."""
    try:
        given = in_file() | environment(DECLARED) | plain_names(values)
        return Settings(**given)
    except ValueError as error:
        if type(error).__name__ != "ValidationError":  # a file or a variable that does not parse
            raise WrongSource(f"cannot read the settings: {describe(error)}") from error
        from cloudq.settings.model import explained

        raise explained(error, values) from None


def from_object(source: object) -> dict[str, Any]:
    """Return the settings in a mapping, a module or its dotted name, or an object's attributes."""
    if isinstance(source, str):
        check_module(source, "config_from_object")
        try:
            source = import_module(source)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"cannot import the config module: {error}") from error
    if isinstance(source, Mapping):
        values = cast("Mapping[Any, Any]", source)
        if odd := [name for name in values if not isinstance(name, str)]:
            raise ConfigurationError(f"settings have names, which are texts: {odd[0]!r} is none")
        return plain_names(values)
    known = set(DECLARED) | set(CELERY_NAMES)
    return plain_names({name: getattr(source, name) for name in dir(source) if name in known})
