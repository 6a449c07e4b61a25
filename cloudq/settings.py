"""Settings of an app: from the constructor, a config object, the environment, or a TOML file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from zoneinfo import ZoneInfo

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cloudq.driver.adapters import default_backend
from cloudq.driver.loader import installed
from cloudq.errors import DISTRIBUTION, ConfigurationError

Serializer = Literal["json", "msgpack", "yaml", "pickle"]
Compression = Literal["zlib", "bz2", "zstd"]
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
# As long as the hash of HMAC-SHA256 takes in whole.
Key = Annotated[SecretStr, Field(min_length=32)]


class Level(StrEnum):
    """The events that are recorded."""

    NONE = "none"
    FINAL = "final"  # how tasks ended
    TRACKED = "tracked"  # also that they started, and were retried


@cache
def format_names() -> tuple[str, ...]:
    """The message formats that are installed: cloudq's own, then the foreign ones."""
    return tuple(dict.fromkeys(["cloudq", *(entry.name for entry in installed("format"))]))


def _installed_format(name: Any) -> Any:
    known = format_names()
    if name in known:
        return name
    quoted = [repr(each) for each in known]
    expected = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


Protocol = Annotated[str, BeforeValidator(_installed_format)]

# Celery's names for what has a shorter one here.
_CELERY_NAMES = {
    "broker_url": "broker",
    "result_backend": "backend",
    "task_default_retry_delay": "default_retry_delay",
    "worker_concurrency": "worker_processes",
}
_SECRET = frozenset({"signing_keys"})


class Settings(BaseSettings):
    """Every setting, its default and its meaning. Times are in seconds.

    The first source that has a setting wins: the constructor of `CloudQ`, `config_from_object`,
    the environment (`CLOUDQ_BROKER`), the file named by `CLOUDQ_CONFIG` (or `cloudq.toml`), the
    default. Celery's lower-case names are understood where the setting exists there too.
    """

    model_config = SettingsConfigDict(
        env_prefix="CLOUDQ_", extra="forbid", validate_assignment=True
    )

    broker: str = Field(default="sqlite:///cloudq.db", description="URL of the broker")
    backend: str | None = Field(
        default=None,
        description='URL of the result store; "none" for none; left out: the broker, if embedded',
    )
    include: list[str] = Field(default=[], description="modules that define tasks")
    task_default_queue: str = Field(default="default", min_length=1)
    priority_queues: list[str] = Field(
        default=[], description="queues with priorities: NAME-high and NAME-low beside NAME"
    )
    task_always_eager: bool = Field(default=False, description="run tasks at the call, no broker")
    task_eager_propagates: bool = Field(default=False, description="eager tasks raise at the call")
    task_ignore_result: bool = False
    task_serializer: Serializer = Field(default="json", description="notation of what is sent")
    result_serializer: Literal["json"] = Field(
        default="json", description="results are JSON in every store"
    )
    accept_content: list[Serializer] = Field(
        default=["json"], description="serializers read; pickle only where messages are signed"
    )
    task_compression: Compression | None = Field(
        default=None, description="of bodies that it makes smaller"
    )
    signing_keys: dict[KeyId, Key] = Field(
        default={}, description="keys by their ids, 32 characters or more; all are accepted"
    )
    signing_key: str | None = Field(
        default=None, description="id of the key that signs; left out: the first"
    )
    signing_required: bool = Field(
        default=True, description="with keys: refuse what is not signed; false while moving"
    )
    signing_expires: float | None = Field(
        default=None, gt=0, description="a signature counts this long from when it is due"
    )
    signing_apps: list[str] = Field(default=[], description="other apps whose signatures count")
    queue_accept: dict[str, list[Protocol]] = Field(
        default={}, description='protocols read on a queue: {"orders": ["celery"]}'
    )
    queue_produce: dict[str, Protocol] = Field(
        default={}, description='protocol written to a queue: {"orders": "celery"}'
    )
    task_track_started: bool = Field(default=False, description="record STARTED and RETRY too")
    task_events: Level = Field(
        default=Level.NONE,
        description='events recorded: "final": how tasks ended; "tracked": also starts and retries',
    )
    task_events_args: bool = Field(default=True, description="keep arguments with the events")
    task_events_expires: float = Field(
        default=604_800.0, gt=0, description="events are kept this long"
    )
    task_time_limit: float | None = Field(default=None, gt=0)
    task_soft_time_limit: float | None = Field(default=None, gt=0)
    task_routes: Any = Field(
        default=None,
        description="queues of calls that name none: names, globs, expressions, functions",
    )
    task_annotations: Any = Field(
        default=None, description='options of tasks by name, or of all as "*"'
    )
    timezone: str = Field(default="UTC", description="of datetimes without a zone")
    max_retries: int = Field(default=3, ge=0)
    default_retry_delay: float = Field(default=180.0, ge=0)
    result_expires: float = Field(default=86_400.0, gt=0, description="results are kept this long")
    idempotency_expires: float = Field(default=86_400.0, gt=0)
    lease: float = Field(
        default=60.0, ge=1, description="a dead worker's tasks come back after this; kept extended"
    )
    max_deliveries: int = Field(
        default=10, ge=1, description="deliveries of one message before it counts as WorkerLost"
    )
    max_body: int = Field(default=16_777_216, ge=1024, description="largest body decoded, bytes")
    max_depth: int = Field(
        default=1000, ge=1, description="how deep tasks may call each other, against runaways"
    )
    max_fan_out: int = Field(
        default=1_000_000, ge=1, description="how many tasks one call may start, against runaways"
    )
    beat_schedule: Any = Field(
        default=dict[str, Any](),
        description="periodic tasks as Celery has them: names to entries",
    )
    beat_lease: float = Field(
        default=30.0, ge=1, description="when a beat dies, another leads after this at the latest"
    )
    scheduler: str | None = Field(
        default=None, description="URL of the cloud's scheduler, for `cloudq schedules apply`"
    )
    scheduler_eta: float | None = Field(
        default=None,
        ge=0,
        description="calls due later than this wait as one entry of the `scheduler` each; left "
        "out: what a queue cannot delay by itself goes on in hops",
    )
    tracing: bool = Field(
        default=False,
        description=f"OpenTelemetry traces through queues; needs {DISTRIBUTION}[otel]",
    )
    publish_retries: int = Field(
        default=3, ge=0, description="for messages that a busy broker refused"
    )
    worker_processes: int | None = Field(default=None, ge=1, description="left out: one a core")
    worker_threads: int = Field(default=16, ge=1, description="tasks at a time in each process")
    worker_max_tasks_per_child: int | None = Field(default=None, ge=1)
    worker_max_memory_per_child: int | None = Field(
        default=None, ge=1, description="KiB; a process that has more is replaced"
    )
    worker_pool: str = Field(
        default="processes",
        pattern="^(processes|threads|asyncio|solo|gevent)$",
        description="processes, threads, asyncio, solo or gevent",
    )
    worker_autoscale_idle: float = Field(
        default=30.0, gt=0, description="a process that --autoscale needs no more leaves after this"
    )
    worker_poll_wait: float = Field(
        default=20.0, ge=0, description="longest wait of one receive; a warm stop may take as long"
    )
    worker_parked_poll: float = Field(
        default=5.0,
        ge=0.1,
        description="pause between looks for due messages parked in the backend, where the broker "
        "cannot delay",
    )
    worker_grace: float = Field(default=30.0, ge=0, description="for running tasks at shutdown")
    worker_heartbeat: float = Field(
        default=15.0,
        ge=0,
        description="pause between a worker's signs of life in the backend, where it also finds "
        "its commands; 0: none",
    )

    @field_validator("result_serializer", mode="before")
    @classmethod
    def _json_results(cls, name: Any) -> Any:
        if name != "json":
            raise ValueError(
                'results are JSON in every store, so that all who read them can: leave it "json", '
                "and keep what JSON cannot say elsewhere; task_serializer is that of arguments"
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
            raise ValueError(f"signing_key {self.signing_key!r} is not among the signing_keys")
        return self

    @model_validator(mode="after")
    def _waits_in_a_scheduler(self) -> Self:
        if self.scheduler_eta is not None and self.scheduler is None:
            raise ValueError(
                "scheduler_eta needs the setting scheduler, the URL of a cloud's scheduler"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, _config_file())
        return init_settings, env_settings, file

    @property
    def backend_url(self) -> str | None:
        """URL of the result store: the `backend` setting, else what the broker brings along."""
        if self.backend is not None:
            return None if self.backend == "none" else self.backend
        return default_backend(self.broker)


def _config_file() -> Path:
    named = os.environ.get("CLOUDQ_CONFIG")
    if named and not Path(named).is_file():
        raise ConfigurationError(f"CLOUDQ_CONFIG names {named}, and there is no such file")
    return Path(named or "cloudq.toml")


def plain_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with Celery's names turned into ours."""
    return {_CELERY_NAMES.get(name, name): value for name, value in values.items()}


def load(values: Mapping[str, Any]) -> Settings:
    """Settings with `values` above every other source. Raises `ConfigurationError`."""
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, values)) from error
    except ValueError as error:  # a TOML file or a variable that does not parse
        raise ConfigurationError(f"the settings cannot be read: {error}") from error


def from_object(source: object) -> dict[str, Any]:
    """The settings in a mapping, a module, its dotted name, or any object's lower-case names."""
    if isinstance(source, str):
        try:
            source = import_module(source)
        except ModuleNotFoundError as error:
            raise ConfigurationError(f"cannot import the config module: {error}") from error
    if isinstance(source, Mapping):
        return plain_names(cast("Mapping[str, Any]", source))
    known = set(Settings.model_fields) | set(_CELERY_NAMES)
    return plain_names({name: getattr(source, name) for name in dir(source) if name in known})


def _explain(error: ValidationError, values: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for item in error.errors():
        name = ".".join(map(str, item["loc"])) or "settings"
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f" did you mean {close[0]}?" if close else ""
            known = ", ".join(Settings.model_fields)
            origin = _origin(name, values)
            lines.append(f"there is no setting {name!r}{origin}:{hint} known: {known}")
        else:
            origin = _origin(name, values)
            # Of keys the value is nobody's to read, nor that of all settings, which has them.
            shown = _SECRET.isdisjoint(item["loc"]) and item["loc"]
            got = f" (got {item['input']!r})" if shown else ""
            said = item["msg"].removeprefix("Value error, ")
            of_one = f"setting {name!r}{origin}: " if item["loc"] else ""
            lines.append(f"{of_one}{said}{got}")
    return "; ".join(lines)


def _origin(name: str, values: Mapping[str, Any]) -> str:
    """The source of a setting that was not given in code, for an error message."""
    setting = name.partition(".")[0]
    if setting in values:
        return ""
    variable = f"CLOUDQ_{setting.upper()}"
    if any(given.upper() == variable for given in os.environ):
        return f" from {variable}"
    file = _config_file()
    return f" in {file}" if file.is_file() else ""
