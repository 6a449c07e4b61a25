"""Google's Cloud Scheduler: `cloudscheduler://project/location?prefix=&retries=&endpoint=HOST:PORT`.

It publishes a schedule's message to its queue's topic. Jobs of one app are named
`cloudq-APP-SCHEDULE`; Cloud Scheduler has no groups and no labels. Options:

    retries     how often a run is published again, 0-5, else 5
    prefix      as the broker has it: stands before every queue's name
    emulator    HOST:PORT of a local stand-in

`plan` needs cloudscheduler.jobs.list; `apply` also jobs.create, update, delete, pause and enable
(`roles/cloudscheduler.admin`). Google's own service agent publishes. Three jobs of an account are
free, each more costs $0.10 a month.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from google.api_core import exceptions as sdk
from google.cloud.scheduler_v1 import CloudSchedulerClient
from google.cloud.scheduler_v1 import Job as CloudJob
from google.cloud.scheduler_v1.types import PubsubTarget, RetryConfig
from google.protobuf.field_mask_pb2 import FieldMask

from cloudq.driver import Address, Code
from cloudq.driver.schedulers import Fields, Job
from cloudq.errors import ConfigurationError
from cloudq_gcp.calls import TIMEOUT
from cloudq_gcp.client import Channel, access, client
from cloudq_gcp.errors import error_code, incomplete, listed, named
from cloudq_gcp.queues import Queues

_LOCATION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,500}")
# Of a job's message; the service's own limit of its size.
_MASK = FieldMask(paths=["description", "schedule", "time_zone", "pubsub_target", "retry_config"])


def open_scheduler(address: Address) -> CloudScheduler:
    """The driver of a `cloudscheduler://` URL. Raises `ConfigurationError`."""
    reach = access(
        address, options=("prefix", "retries"), emulator_variable="CLOUD_SCHEDULER_EMULATOR_HOST"
    )
    location = address.path.strip("/")
    if not _LOCATION.fullmatch(location):
        raise ConfigurationError(
            f"{address.url} names no location: write cloudscheduler://project/europe-west1"
        )
    retries = address.options.get("retries", "5")
    if retries not in {"0", "1", "2", "3", "4", "5"}:
        raise ConfigurationError(f"retries={retries} is not a number from 0 to 5")
    host = reach.emulator or reach.endpoint or CloudSchedulerClient.DEFAULT_ENDPOINT
    return CloudScheduler(
        reach.channel(host, plain=bool(reach.emulator)),
        host,
        parent=f"projects/{reach.project}/locations/{location}",
        queues=Queues(project=reach.project, prefix=address.options.get("prefix", "")),
        retries=int(retries),
    )


class CloudScheduler:
    """A `SchedulerDriver` on one project and location."""

    dialect: str = "unix-cron"
    slot: str | None = None
    spread: bool = False
    bounds: bool = False
    group: str | None = None

    def __init__(
        self, channel: Channel, host: str, *, parent: str, queues: Queues, retries: int
    ) -> None:
        self._channel = channel
        self._client = client(CloudSchedulerClient, channel, host)
        self._parent = parent
        self._queues = queues
        self._retries = retries

    def name(self, group: str, entry: str) -> str:
        """The group and the entry's name. Raises `ConfigurationError`.

        A dot is no letter of a name there, and becomes an underscore.
        """
        name = f"{group}-{entry}".replace(".", "_")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"schedule {entry!r}: Cloud Scheduler takes names of the characters 0-9 A-Z a-z - "
                "_: give another name="
            )
        return name

    def owner(self, group: str) -> str | None:
        """None: there are no groups; the description of each job names its owner."""
        return None

    def fields(self, job: Job) -> Fields:
        """Return the job as the service stores it."""
        return _flat(self._job(job), enabled=job.enabled)

    def current(self, group: str) -> Mapping[str, Fields]:
        """The jobs whose names begin with the group's; a request for each 500 of the location."""
        start = self.name(group, "")
        pager = self._client.list_jobs(
            request={"parent": self._parent, "page_size": 500}, retry=None, timeout=TIMEOUT
        )
        found: dict[str, Fields] = {}
        for job in listed(pager, "jobs"):
            name = named(job, "job").name.rpartition("/")[2]
            if name.startswith(start):
                if not (job.schedule and job.pubsub_target.topic_name):
                    raise incomplete(f"the times or the topic of {name}")
                found[name] = _flat(job, enabled=job.state != CloudJob.State.PAUSED)
        return found

    def create(self, group: str, job: Job) -> None:
        """Make a job, paused if it is not enabled."""
        made = self._client.create_job(
            parent=self._parent, job=self._job(job), retry=None, timeout=TIMEOUT
        )
        named(made, "job")
        if not job.enabled:
            self._client.pause_job(name=self._full(job.name), retry=None, timeout=TIMEOUT)

    def update(self, group: str, job: Job) -> None:
        """Replace the content of a job, and pause or resume it."""
        made = self._client.update_job(
            job=self._job(job), update_mask=_MASK, retry=None, timeout=TIMEOUT
        )
        named(made, "job")
        turn = self._client.resume_job if job.enabled else self._client.pause_job
        # It may be so already.
        with suppress(sdk.FailedPrecondition):
            turn(name=self._full(job.name), retry=None, timeout=TIMEOUT)

    def delete(self, group: str, name: str) -> None:
        """Delete a job; one that is gone is as good."""
        with suppress(sdk.NotFound):
            self._client.delete_job(name=self._full(name), retry=None, timeout=TIMEOUT)

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _full(self, name: str) -> str:
        return f"{self._parent}/jobs/{name}"

    def _job(self, job: Job) -> CloudJob:
        return CloudJob(
            name=self._full(job.name),
            description=job.description,
            schedule=job.expression,
            time_zone=job.timezone,
            pubsub_target=PubsubTarget(
                topic_name=self._queues.topic(job.queue), data=job.body.encode()
            ),
            retry_config=RetryConfig(retry_count=self._retries),
        )


def _flat(job: CloudJob, *, enabled: bool) -> Fields:
    """The parts of a job that `apply` decides, each as text."""
    return {
        "expression": job.schedule,
        "timezone": job.time_zone,
        "state": "ENABLED" if enabled else "PAUSED",
        "queue": job.pubsub_target.topic_name,
        "message": job.pubsub_target.data.decode(errors="replace"),
        "retries": str(job.retry_config.retry_count),
        "description": job.description,
    }
