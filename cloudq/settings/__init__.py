"""Settings of an app: from the constructor, a config object, the environment, or a TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, Self, cast
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cloudq.amounts import CENTURY
from cloudq.driver.adapters import default_backend
from cloudq.driver.loader import installed
from cloudq.errors import DISTRIBUTION, ConfigurationError
from cloudq.settings.sources import (
    CELERY_NAMES,
    config_file,
    environment,
    in_file,
    plain_names,
    variable_of,
)
from cloudq.text import describe, masked

Serializer = Literal["json", "msgpack", "yaml", "pickle"]
Compression = Literal["zlib", "bz2", "zstd"]
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
# HMAC-SHA256 needs a key that is as long as its output.
Key = Annotated[SecretStr, Field(min_length=32)]


class Level(StrEnum):
    """The events of a task that are recorded."""

    NONE = "none"
    FINAL = "final"  # how tasks ended
    TRACKED = "tracked"  # also that they started, and were retried


@cache
def format_names() -> tuple[str, ...]:
    """Return the names of the installed message formats, cloudq's own first."""
    return tuple(dict.fromkeys(["cloudq", *(entry.name for entry in installed("format"))]))


def _installed_format(name: Any) -> Any:
    known = format_names()
    if name in known:
        return name
    quoted = [repr(each) for each in known]
    expected = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


Protocol = Annotated[str, BeforeValidator(_installed_format)]

_NUMBERS = (int, float, int | None, float | None)
_MOST = 10**15
_SECRET = frozenset({"signing_keys", "signing_key"})


class Settings(BaseModel):
    """Every setting, its default and its meaning. Times are in seconds.

    The first source that has a setting wins: the constructor of `CloudQ`, `config_from_object`,
    the environment (`CLOUDQ_BROKER`), the file named by `CLOUDQ_CONFIG` (or `cloudq.toml`), the
    default. Celery's lower-case names are understood where the setting exists there too.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, hide_input_in_errors=True)

    broker: str = Field(default="sqlite:///cloudq.db", description="URL of the broker")
    backend: str | None = Field(
        default=None,
        description='URL of the result store; "none" turns it off. Unset: an embedded broker also '
        "stores results",
    )
    include: list[str] = Field(default=[], description="modules to import; they define tasks")
    task_default_queue: str = Field(
        default="default", min_length=1, description="queue of calls that no route sends elsewhere"
    )
    priority_queues: list[str] = Field(
        default=[],
        description="queues with priorities: NAME stands for NAME-high, NAME and NAME-low",
    )
    task_always_eager: bool = Field(
        default=False, description="run each task in the calling process, without a broker"
    )
    task_eager_propagates: bool = Field(
        default=False, description="an eager call raises the error of its task"
    )
    task_ignore_result: bool = Field(default=False, description="do not store results of tasks")
    task_serializer: Serializer = Field(
        default="json", description="serializer of the arguments that are sent"
    )
    result_serializer: Literal["json"] = Field(
        default="json", description="serializer of results; only JSON is possible"
    )
    accept_content: list[Serializer] = Field(
        default=["json"],
        description="serializers accepted in received messages; pickle needs signed messages",
    )
    task_compression: Compression | None = Field(
        default=None, description="compression of message bodies, used if it makes a body smaller"
    )
    signing_keys: dict[KeyId, Key] = Field(
        default={},
        description="keys by id, each of at least 32 characters; a signature by any is accepted",
    )
    signing_key: str | None = Field(
        default=None, description="id of the key that signs new messages. Unset: the first key"
    )
    signing_required: bool = Field(
        default=True,
        description="if there are signing keys, reject unsigned messages; set it to false while "
        "you introduce signing",
    )
    signing_expires: float | None = Field(
        default=None,
        gt=0,
        description="how long a signature is valid after the message is due. Unset: forever",
    )
    signing_apps: list[str] = Field(
        default=[], description="names of other apps whose signed messages are accepted"
    )
    queue_accept: dict[str, list[Protocol]] = Field(
        default={}, description='message formats read from a queue: {"orders": ["celery"]}'
    )
    queue_produce: dict[str, Protocol] = Field(
        default={}, description='message format written to a queue: {"orders": "celery"}'
    )
    task_track_started: bool = Field(default=False, description="store STARTED and RETRY too")
    task_events: Level = Field(
        default=Level.NONE,
        description='events to record: "none"; "final": the end of each task; "tracked": also its '
        "starts and retries",
    )
    task_events_args: bool = Field(default=True, description="events include the arguments")
    task_events_expires: float = Field(
        default=604_800.0, gt=0, description="how long events are kept"
    )
    task_time_limit: float | None = Field(
        default=None, gt=0, description="a task that runs longer is stopped, and fails"
    )
    task_soft_time_limit: float | None = Field(
        default=None, gt=0, description="a task that runs longer gets SoftTimeLimitExceeded"
    )
    task_routes: Any = Field(
        default=None, description="queues of tasks, by name, glob, regular expression or function"
    )
    task_annotations: Any = Field(
        default=None, description='options that override those of tasks, by name; "*" is all tasks'
    )
    timezone: str = Field(default="UTC", description="time zone of datetimes that have none")
    max_retries: int = Field(default=3, ge=0, description="retries, unless a task sets them")
    default_retry_delay: float = Field(
        default=180.0, ge=0, description="wait before a retry, if neither task nor call sets it"
    )
    result_expires: float = Field(default=86_400.0, gt=0, description="how long results are kept")
    idempotency_expires: float = Field(
        default=86_400.0, gt=0, description="how long an idempotency key prevents a second run"
    )
    lease: float = Field(
        default=60.0,
        ge=1,
        description="how long a worker holds a message before it must extend the lease, which it "
        "does; the tasks of a dead worker are delivered again after this",
    )
    max_deliveries: int = Field(
        default=10,
        ge=1,
        description="deliveries of a message, after which its task fails with WorkerLost",
    )
    max_body: int = Field(
        default=16_777_216, ge=1024, description="largest decompressed message body, in bytes"
    )
    max_depth: int = Field(
        default=1000, ge=1, description="longest chain of tasks that call each other"
    )
    max_fan_out: int = Field(
        default=1_000_000, ge=1, description="most tasks that one call may start"
    )
    beat_schedule: Any = Field(
        default=dict[str, Any](), description="periodic tasks in Celery's form, by schedule name"
    )
    beat_lease: float = Field(
        default=30.0,
        ge=1,
        description="time within which another beat takes over from one that died",
    )
    scheduler: str | None = Field(
        default=None, description="URL of the cloud's scheduler, for `cloudq schedules apply`"
    )
    scheduler_eta: float | None = Field(
        default=None,
        ge=0,
        description="a call due later than this is stored as a one-time schedule of `scheduler`. "
        "Unset: a delay that is too long for the queue is cut into several short ones",
    )
    tracing: bool = Field(
        default=False, description=f"trace calls with OpenTelemetry; needs {DISTRIBUTION}[otel]"
    )
    publish_retries: int = Field(
        default=3, ge=0, description="retries of a message that a busy broker refused"
    )
    worker_processes: int | None = Field(
        default=None, ge=1, le=1000, description="number of processes. Unset: one for each core"
    )
    worker_threads: int = Field(
        default=16, ge=1, le=100_000, description="tasks that run at the same time in each process"
    )
    worker_max_tasks_per_child: int | None = Field(
        default=None, ge=1, description="a process is replaced after this many tasks"
    )
    worker_max_memory_per_child: int | None = Field(
        default=None, ge=1, description="a process that uses more memory is replaced; in KiB"
    )
    worker_pool: str = Field(
        default="processes",
        pattern="^(processes|threads|asyncio|solo|gevent)$",
        description="processes, threads, asyncio, solo or gevent",
    )
    worker_fork: bool = Field(
        default=True,
        description="make processes by forks of one that has loaded the app, unless its import "
        "leaves threads or connections. False: each imports it anew",
    )
    worker_autoscale_idle: float = Field(
        default=30.0,
        gt=0,
        description="with --autoscale, a process that is not needed for this long is stopped",
    )
    worker_poll_wait: float = Field(
        default=20.0,
        ge=0,
        description="longest wait of one receive; a warm shutdown may take as long",
    )
    worker_parked_poll: float = Field(
        default=5.0,
        ge=0.1,
        description="interval at which the result store is searched for delayed messages that are "
        "due, if the broker cannot delay",
    )
    worker_grace: float = Field(
        default=30.0, ge=0, description="time that running tasks get to finish at shutdown"
    )
    worker_heartbeat: float = Field(
        default=15.0,
        ge=0,
        description="interval of a worker's heartbeats, and of its looks for commands, in the "
        "result store; 0 turns both off",
    )

    @field_validator("*", mode="wrap")
    @classmethod
    def _numbers(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Refuse True and False, and what no service takes: times without end, huge counts."""
        if cls.model_fields[str(info.field_name)].annotation not in _NUMBERS:
            return handler(value)
        if isinstance(value, bool):
            raise ValueError("it must be a number")
        made = handler(value)
        if isinstance(made, float) and made > CENTURY:
            raise ValueError("it must be a number of seconds, a century at most")
        if isinstance(made, int) and made > _MOST:
            raise ValueError(f"it must be {_MOST:,} at most")
        return made

    @field_validator("result_serializer", mode="before")
    @classmethod
    def _json_results(cls, name: Any) -> Any:
        if name != "json":
            raise ValueError(
                'results are always stored as JSON: leave it "json", or unset. task_serializer '
                "sets the serializer of arguments"
            )
        return name

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            why = f"there is no time zone {name!r}: use one such as Europe/Vienna"
            raise ValueError(why) from error
        return name

    @model_validator(mode="before")
    @classmethod
    def _celery_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        return plain_names(values)

    @model_validator(mode="after")
    def _signs_with_a_key(self) -> Self:
        if self.signing_key is not None and self.signing_key not in self.signing_keys:
            known = ", ".join(map(repr, self.signing_keys)) or "none"
            raise ValueError(
                f"signing_key is not the id of one of the signing_keys: their ids are {known}"
            )
        return self

    @model_validator(mode="after")
    def _waits_in_a_scheduler(self) -> Self:
        if self.scheduler_eta is not None and self.scheduler is None:
            raise ValueError(
                "scheduler_eta needs a scheduler: set `scheduler` to the URL of a cloud's scheduler"
            )
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked({str(name): value})[str(name)]) for name, value in self]

    @property
    def backend_url(self) -> str | None:
        """URL of the result store: the `backend` setting, else the broker's default."""
        if self.backend is not None:
            return None if self.backend == "none" else self.backend
        return default_backend(self.broker)


def load(values: Mapping[str, Any]) -> Settings:
    """Load the settings; `values` override every other source. Raises `ConfigurationError`."""
    try:
        sources = in_file() | environment(Settings.model_fields) | plain_names(values)
        return Settings(**sources)
    except ValidationError as error:
        quoted = any(not _SECRET.isdisjoint(item["loc"]) for item in error.errors())
        raise ConfigurationError(_explain(error, values)) from (None if quoted else error)
    except ValueError as error:  # a TOML file or a variable that does not parse
        raise ConfigurationError(f"cannot read the settings: {describe(error)}") from error


def from_object(source: object) -> dict[str, Any]:
    """Return the settings in a mapping, a module or its dotted name, or an object's attributes."""
    if isinstance(source, str):
        try:
            source = import_module(source)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"cannot import the config module: {error}") from error
    if isinstance(source, Mapping):
        return plain_names(cast("Mapping[str, Any]", source))
    known = set(Settings.model_fields) | set(CELERY_NAMES)
    return plain_names({name: getattr(source, name) for name in dir(source) if name in known})


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for item in error.errors():
        is_secret = not _SECRET.isdisjoint(item["loc"])
        name = ".".join(map(str, item["loc"][: 1 if is_secret else None])) or "settings"
        if item["type"] == "extra_forbidden":
            import difflib

            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            known = f"known: {', '.join(Settings.model_fields)}"
            hint = f"did you mean {close[0]}?" if close else known
            origin = _origin(name, values)
            lines.append(f"there is no setting {name!r}{origin}: {hint}")
        else:
            origin = _origin(name, values)
            # Keys are never shown, nor their ids, which may be keys, nor all settings at once.
            got = f" (got {masked(item['input'])!r})" if item["loc"] and not is_secret else ""
            said = item["msg"].removeprefix("Value error, ")
            of_one = f"setting {name!r}{origin}: " if item["loc"] else ""
            lines.append(f"{of_one}{said}{got}")
    return "; ".join(lines)


def _origin(name: str, values: Mapping[str, Any]) -> str:
    """Name the source of a setting that was not given in code, for an error message."""
    setting = name.partition(".")[0]
    if setting in values:
        return ""
    if variable := variable_of(setting):
        return f" from {variable}"
    file = config_file()
    return f" in {file}" if file.is_file() else ""
