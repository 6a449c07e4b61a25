"""EventBridge Scheduler: `eventbridge://region?role=ARN&dead=ARN&prefix=&...`.

It sends the messages of schedules, and of calls at distant times, to their SQS queues. Each app
has a schedule group, `cloudq-NAME`, made at the first use; its tag `cloudq:app` names the app.
Options:

    role           ARN of the role that the service takes to send (sqs:SendMessage on the queues);
                   needed to change anything
    dead           ARN of an SQS queue for messages that could not be sent
    retries        how often a message is sent again, 0-185, else 185
    max_age        how long it is sent again, 60-86400 s, else 86400
    prefix         as the broker has it: stands before every queue's name
    group          the schedule group; else the app's own, cloudq-NAME
    endpoint_url, profile, region   as the broker has them

`plan` needs scheduler:ListSchedules, GetSchedule, GetScheduleGroup and ListTagsForResource, and
sqs:GetQueueUrl and GetQueueAttributes; `apply` also scheduler:CreateScheduleGroup, TagResource,
CreateSchedule, UpdateSchedule, DeleteSchedule and iam:PassRole for the role. Calls at distant times
need those of SQS, CreateSchedule and DeleteSchedule on `schedule/cloudq-NAME.eta/*`, iam:PassRole,
and where there is no such group yet CreateScheduleGroup and TagResource. A FIFO queue must have
content-based deduplication. A schedule's runs cost $1 a million beyond the first 14 million of a
month.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from cloudq.driver import Address, Code, OneTimeEntry, is_ordered
from cloudq.driver.billing import SCHEDULE, Meter
from cloudq.driver.schedulers import Fields, Job
from cloudq.errors import ConfigurationError
from cloudq_aws.answers import told
from cloudq_aws.client import Access, access
from cloudq_aws.errors import advice, error_code
from cloudq_aws.messages import key_text
from cloudq_aws.prices import EVENTBRIDGE
from cloudq_aws.queues import Queues

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient

_OPTIONS = ("role", "dead", "retries", "max_age", "prefix", "group")
RETRIES, MAX_AGE = 185, 86_400
_NAME = re.compile(r"[0-9A-Za-z_.-]{1,64}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
_QUEUE = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]+:\d{12}:.+")
_TAG = "cloudq:app"
# Of the message that a schedule sends, in bytes.
_MAX_INPUT = 256 * 1024
# Each of these in a message is replaced: its user guide, "Adding context attributes".
_REPLACED = b"<aws.scheduler."


def open_scheduler(address: Address) -> EventBridge:
    """The driver of an `eventbridge://` URL. Raises `ConfigurationError`."""
    options = address.options
    reach = access(address, region=address.host, options=_OPTIONS)
    for name, pattern, what in (("role", _ROLE, "a role"), ("dead", _QUEUE, "an SQS queue")):
        if name in options and not pattern.fullmatch(options[name]):
            raise ConfigurationError(f"{name}={options[name]} is not the ARN of {what}")
    group = options.get("group")
    if group is not None and not _NAME.fullmatch(group):
        raise ConfigurationError(f"group={group}: up to 64 of the characters 0-9 A-Z a-z - _ .")
    return EventBridge(
        reach,
        role=options.get("role", ""),
        dead=options.get("dead", ""),
        retries=_number(options, "retries", RETRIES, 0, 185),
        max_age=_number(options, "max_age", MAX_AGE, 60, 86_400),
        prefix=options.get("prefix", ""),
        group=group,
    )


class Terms:
    """The service's names and limits: the part of the driver that needs no account."""

    dialect = "eventbridge"
    slot: str | None = "<aws.scheduler.scheduled-time>"
    spread = True
    bounds = True
    group: str | None = None

    def name(self, group: str, entry: str) -> str:
        """Return the entry's own name; each app has its group. Raises `ConfigurationError`."""
        if not _NAME.fullmatch(entry):
            raise ConfigurationError(
                f"schedule {entry!r} ({len(entry)} characters): EventBridge Scheduler takes names "
                "of 1 to 64 characters, of 0-9 A-Z a-z - _ . alone: give another name"
            )
        return entry


class EventBridge(Terms):
    """A `SchedulerDriver` on one account and region, and `OneTimeScheduler`."""

    # It fires within the minute that follows a schedule's time.
    early = 90.0

    def __init__(
        self,
        reach: Access,
        *,
        role: str,
        dead: str,
        retries: int,
        max_age: int,
        prefix: str,
        group: str | None = None,
    ) -> None:
        self.group = group
        self.meter = Meter(EVENTBRIDGE)
        self.client = cast("EventBridgeSchedulerClient", reach.client("scheduler"))
        self._sqs = cast("SQSClient", reach.client("sqs"))
        self._queues = Queues(self._sqs, prefix=prefix)
        self._role = role
        self._dead = dead
        self._retries = retries
        self._max_age = max_age
        self._arns: dict[str, str] = {}

    def owner(self, group: str) -> str | None:
        """Return the app in the group's tag, "" without a tag; None where there is no group."""
        try:
            arn = told(self.client.get_schedule_group(Name=group), "Arn")
            tags = self.client.list_tags_for_resource(ResourceArn=arn).get("Tags", [])
        except self.client.exceptions.ResourceNotFoundException:
            return None
        return next((told(tag, "Value") for tag in tags if told(tag, "Key") == _TAG), "")

    def fields(self, job: Job) -> Fields:
        """Return the job as the service shows it. Raises `ConfigurationError` without a role."""
        self._need_role()
        return flat(self._request(job))

    def current(self, group: str) -> Mapping[str, Fields]:
        """Return the schedules of the group: a request per hundred names, and one per schedule."""
        found: dict[str, Fields] = {}
        try:
            pages = self.client.get_paginator("list_schedules").paginate(GroupName=group)
            names = [told(each, "Name") for page in pages for each in told(page, "Schedules")]
        except self.client.exceptions.ResourceNotFoundException:
            return found  # no group yet
        for name in names:
            schedule = self.client.get_schedule(GroupName=group, Name=name)
            found[name] = flat(cast("dict[str, Any]", schedule))
        return found

    def create(self, group: str, job: Job) -> None:
        """Make a schedule, and the group if there is none."""
        self._need_role()
        self._create(group, job.name, job.owner, self._request(job))

    def _create(self, group: str, name: str, owner: str, request: dict[str, Any]) -> None:
        try:
            made = self.client.create_schedule(GroupName=group, Name=name, **request)
        except self.client.exceptions.ResourceNotFoundException:
            # Somebody else may be quicker.
            with suppress(self.client.exceptions.ConflictException):
                self.client.create_schedule_group(Name=group, Tags=[{"Key": _TAG, "Value": owner}])
            made = self.client.create_schedule(GroupName=group, Name=name, **request)
        told(made, "ScheduleArn")

    def update(self, group: str, job: Job) -> None:
        """Replace a schedule entirely."""
        self._need_role()
        request = self._request(job)
        made = self.client.update_schedule(GroupName=group, Name=job.name, **request)
        told(made, "ScheduleArn")

    def delete(self, group: str, name: str) -> None:
        """Delete a schedule; a missing one is no error."""
        self.forget(group, name)

    # ---- single calls

    def takes(self, body: bytes) -> bool:
        """Tell whether it sends this body unchanged: it is short, and has no placeholder."""
        return len(body) <= _MAX_INPUT and _REPLACED not in body

    def once(self, group: str, entry: OneTimeEntry) -> None:
        """Create a one-time schedule that deletes itself; an existing one is for the same call."""
        self._need_role()
        time = datetime.fromtimestamp(entry.time, UTC)
        request = {
            "ScheduleExpression": f"at({time:%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "Description": entry.description,
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": _target(
                entry.body,
                queue=self._arn(entry.queue),
                role=self._role,
                dead=self._dead,
                retries=self._retries,
                max_age=self._max_age,
                group=(entry.group or entry.name) if is_ordered(entry.queue) else None,
            ),
        }
        with suppress(self.client.exceptions.ConflictException):
            self._create(group, entry.name, entry.owner, request)
            self.meter.count(SCHEDULE, entry.queue, items=1)

    def forget(self, group: str, name: str) -> bool:
        """Delete a schedule; False if there is none (any more)."""
        try:
            self.client.delete_schedule(GroupName=group, Name=name)
        except self.client.exceptions.ResourceNotFoundException:
            return False
        return True

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return advice(error)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self._sqs.close()

    def _need_role(self) -> None:
        if not self._role:
            raise ConfigurationError(
                "eventbridge:// needs role=ARN: the role that EventBridge Scheduler takes to send "
                "to the queues"
            )

    def _request(self, job: Job) -> dict[str, Any]:
        return properties(
            job,
            queue=self._arn(job.queue),
            role=self._role,
            dead=self._dead,
            retries=self._retries,
            max_age=self._max_age,
        )

    def _arn(self, queue: str) -> str:
        """Return the ARN of a queue, looked up once."""
        if queue not in self._arns:
            reply = self._sqs.get_queue_attributes(
                QueueUrl=self._queues.url(queue), AttributeNames=["QueueArn"]
            )
            self._arns[queue] = told(told(reply, "Attributes"), "QueueArn")
        return self._arns[queue]


def properties(
    job: Job,
    *,
    queue: object,
    role: object,
    dead: object,
    retries: int = RETRIES,
    max_age: int = MAX_AGE,
) -> dict[str, Any]:
    """Return a schedule in the form of CreateSchedule and CloudFormation, without name and group.

    `queue`, `role` and `dead` are ARNs, or what stands for them in a template.
    """
    window: dict[str, Any] = {"Mode": "OFF"}
    if job.window:
        window = {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": job.window}
    made: dict[str, Any] = {
        "ScheduleExpression": job.expression,
        "ScheduleExpressionTimezone": job.timezone,
        "State": "ENABLED" if job.enabled else "DISABLED",
        "Description": job.description,
        "FlexibleTimeWindow": window,
        "Target": _target(
            job.body,
            queue=queue,
            role=role,
            dead=dead,
            retries=retries,
            max_age=max_age,
            group=(job.group or job.name) if is_ordered(job.queue) else None,
        ),
    }
    # A start that has passed is refused, and means nothing any more.
    if job.start is not None and job.start > datetime.now(UTC):
        made["StartDate"] = job.start
    if job.end is not None:
        made["EndDate"] = job.end
    return made


def _target(
    body: str,
    *,
    queue: object,
    role: object,
    dead: object,
    retries: int,
    max_age: int,
    group: str | None,
) -> dict[str, Any]:
    """The target of a schedule; `group` is the message's in a FIFO queue."""
    made: dict[str, Any] = {
        "Arn": queue,
        "RoleArn": role,
        "Input": body,
        "RetryPolicy": {"MaximumEventAgeInSeconds": max_age, "MaximumRetryAttempts": retries},
    }
    if dead:
        made["DeadLetterConfig"] = {"Arn": dead}
    if group is not None:
        made["SqsParameters"] = {"MessageGroupId": key_text(group)}
    return made


def flat(schedule: Mapping[str, Any]) -> Fields:
    """Return the parts of a schedule that `apply` sets, each as text."""
    target = told(schedule, "Target")
    window = schedule.get("FlexibleTimeWindow", {})
    retry = target.get("RetryPolicy", {})
    start: datetime | None = schedule.get("StartDate")
    if start is not None and start <= datetime.now(UTC):
        start = None
    end: datetime | None = schedule.get("EndDate")
    parts = {
        "expression": told(schedule, "ScheduleExpression"),
        "timezone": schedule.get("ScheduleExpressionTimezone", "UTC"),
        "state": schedule.get("State", "ENABLED"),
        "start": start.astimezone(UTC).isoformat() if start else None,
        "end": end.astimezone(UTC).isoformat() if end else None,
        "window": window.get("MaximumWindowInMinutes"),
        "queue": told(target, "Arn"),
        "group": target.get("SqsParameters", {}).get("MessageGroupId"),
        "role": told(target, "RoleArn"),
        "message": target.get("Input", ""),
        "retries": retry.get("MaximumRetryAttempts", 185),
        "max_age": retry.get("MaximumEventAgeInSeconds", 86_400),
        "dead": target.get("DeadLetterConfig", {}).get("Arn"),
        "description": schedule.get("Description", ""),
    }
    return {name: str(value) for name, value in parts.items() if value is not None}


def _number(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = options.get(name, str(default))
    if not text.isdigit() or not least <= int(text) <= most:
        raise ConfigurationError(f"{name}={text} is not a number from {least} to {most}")
    return int(text)
