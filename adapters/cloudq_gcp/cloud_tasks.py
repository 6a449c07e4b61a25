"""Delayed messages in Cloud Tasks: each is a task that publishes it to Pub/Sub at its time.

The task's request goes to the REST address of the topic's publish, with an access token of the
service account that the URL's `account` names; so no program of ours has to run. That account
needs `roles/pubsub.publisher` on the topics; who delays needs `roles/cloudtasks.enqueuer`,
`roles/iam.serviceAccountUser` on the account, and to list or take back also
`roles/cloudtasks.viewer`, `roles/cloudtasks.taskDeleter` and `cloudtasks.tasks.fullView`.

A task is repeated for as long as its queue's `retry_config` says, and then forgotten: the queue
that `create` makes never gives up, within the 31 days that Cloud Tasks keeps a task. It may run
one twice, as all delivery here is at least once. All queues of an app can share one.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import base64
import heapq
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, cast

from google.api_core import exceptions as sdk
from google.cloud.tasks_v2 import CloudTasksClient
from google.cloud.tasks_v2.types import (
    CreateTaskRequest,
    DeleteTaskRequest,
    HttpMethod,
    HttpRequest,
    ListTasksRequest,
    OAuthToken,
    Queue,
    RetryConfig,
    Task,
)

from cloudq.driver import Code, Failure, Outgoing, Scheduled
from cloudq.errors import ConfigurationError
from cloudq_gcp.calls import TIMEOUT, at_once, routed
from cloudq_gcp.client import Access, Channel, client
from cloudq_gcp.errors import error_code, incomplete, listed, named
from cloudq_gcp.messages import ID, key_text, refused

# Cloud Tasks takes 30 days from its own now; the clocks may differ.
MAX_DELAY = 30 * 86_400.0 - 300.0
# Of a whole task, the message's body in base64 included.
_MAX_TASK = 100_000
_PAGE = 1_000
_SCOPE = "https://www.googleapis.com/auth/pubsub"
_PUBLISHING = timedelta(seconds=30)

_TASK = re.compile(r"[A-Za-z0-9_-]{1,500}")
_QUEUE = re.compile(r"[a-z]+-[a-z]+[0-9]+/[A-Za-z0-9-]{1,100}")


class CloudTasks:
    """One queue of Cloud Tasks. Safe to use from many threads.

    `url` is where Pub/Sub answers REST; `account` whose token a task carries, "" for none.
    """

    def __init__(self, channel: Channel, host: str, *, queue: str, url: str, account: str) -> None:
        self._channel = channel
        self._client = client(CloudTasksClient, channel, host)
        self._queue = queue
        self._url = url
        self._account = account

    @staticmethod
    def of(reach: Access, options: Mapping[str, str]) -> CloudTasks | None:
        """Read Cloud Tasks' options in a URL; None without. Raises `ConfigurationError`."""
        named, account = options.get("tasks", ""), options.get("account", "")
        stand_in = options.get("tasks_endpoint", "")
        if not named:
            if account or stand_in:
                raise ConfigurationError("account= and tasks_endpoint= need tasks=LOCATION/QUEUE")
            return None
        if not _QUEUE.fullmatch(named):
            raise ConfigurationError(
                f"tasks={named} is not LOCATION/QUEUE, such as europe-west1/cloudq"
            )
        if reach.emulator and not stand_in:
            raise ConfigurationError("tasks= with an emulator needs tasks_endpoint=HOST:PORT")
        if not reach.emulator and not account:
            raise ConfigurationError(
                "tasks= needs account=NAME@PROJECT.iam.gserviceaccount.com: the service account"
                " that publishes delayed messages"
            )
        location, name = named.split("/")
        host = stand_in or CloudTasksClient.DEFAULT_ENDPOINT
        published = reach.endpoint or "pubsub.googleapis.com"
        return CloudTasks(
            reach.channel(host, plain=bool(stand_in)),
            host,
            queue=f"projects/{reach.project}/locations/{location}/queues/{name}",
            url=f"http://{reach.emulator}" if reach.emulator else f"https://{published}",
            account=account,
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    # ---- messages

    def add(self, topic: str, messages: Sequence[Outgoing]) -> list[str | Failure]:
        """Make a task of each message; its handle, or why it was refused."""
        tasks = [self._task(topic, message) for message in messages]
        answers: dict[int, str | Failure] = {}
        for place, message in enumerate(messages):
            if wrong := refused(place, message) or _too_large(place, tasks[place]):
                answers[place] = wrong
        good = [place for place in range(len(tasks)) if place not in answers]
        requests = [CreateTaskRequest(parent=self._queue, task=tasks[place]) for place in good]
        replies = at_once(
            self._client.transport.create_task, requests, routed("parent", self._queue)
        )
        made = [
            each if isinstance(each, Exception) or _is_whole(each) else _lacking()
            for each in replies
        ]
        errors = [answer for answer in made if isinstance(answer, Exception)]
        if len(errors) == len(tasks):
            _raise_first(errors)
        for place, answer in zip(good, made, strict=True):
            failed = isinstance(answer, Exception)
            answers[place] = _refusal(place, answer) if failed else _handle(answer)
        return [answers[place] for place in range(len(tasks))]

    def _task(self, topic: str, message: Outgoing) -> Task:
        published: dict[str, Any] = {
            "data": base64.b64encode(message.body).decode(),
            "attributes": {ID: message.id},
        }
        if message.group:
            published["orderingKey"] = key_text(message.group)
        request = HttpRequest(
            url=self._publish_url(topic),
            http_method=HttpMethod.POST,
            headers={"Content-Type": "application/json"},
            body=json.dumps({"messages": [published]}, separators=(",", ":")).encode(),
        )
        if self._account:
            request.oauth_token = OAuthToken(service_account_email=self._account, scope=_SCOPE)
        due = datetime.fromtimestamp(time.time() + min(message.delay, MAX_DELAY), UTC)
        return Task(http_request=request, schedule_time=due, dispatch_deadline=_PUBLISHING)

    def _publish_url(self, topic: str) -> str:
        return f"{self._url}/v1/{topic}:publish"

    def remove(self, handles: Sequence[str]) -> list[Failure]:
        """Delete tasks. One that is about to run can do so all the same."""
        good = [place for place, handle in enumerate(handles) if _TASK.fullmatch(_id(handle))]
        requests = [
            DeleteTaskRequest(name=f"{self._queue}/tasks/{_id(handles[place])}") for place in good
        ]
        answers = at_once(self._client.transport.delete_task, requests, routed("name", self._queue))
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if len(errors) == len(handles) and not any(isinstance(e, sdk.NotFound) for e in errors):
            _raise_first(errors)
        strange = set(range(len(handles))) - set(good)
        failed = [
            Failure(index=place, code=Code.NOT_FOUND, reason="not the handle of a task")
            for place in sorted(strange)
        ]
        for place, answer in zip(good, answers, strict=True):
            if isinstance(answer, Exception):
                failed.append(_refusal(place, answer))
        return sorted(failed, key=attrgetter("index"))

    def waiting(self, topic: str, count: int, after: str | None) -> list[Scheduled]:
        """The tasks of a topic in the order of their time. Each call reads the whole list."""
        read = (_scheduled(task) for task in self._tasks(topic, Task.View.FULL))
        found = (message for message in read if message is not None)
        start = _place(after) if after is not None else (0.0, "")
        later = (message for message in found if _place(message.handle) > start)
        return heapq.nsmallest(count, later, key=lambda message: _place(message.handle))

    def clear(self, topic: str) -> None:
        """Delete all tasks of a topic, if there is a queue that has any."""
        with suppress(sdk.NotFound):
            self.remove([_handle(task) for task in self._tasks(topic, Task.View.BASIC)])

    def _tasks(self, topic: str, view: Task.View) -> Iterator[Task]:
        request = ListTasksRequest(parent=self._queue, response_view=view, page_size=_PAGE)
        url = self._publish_url(topic)
        pager = self._client.list_tasks(request=request, retry=None, timeout=TIMEOUT)
        for task in listed(pager, "tasks"):
            if not _is_whole(task):
                raise _lacking()
            if task.http_request.url == url:
                yield task

    # ---- the queue itself

    def create(self) -> None:
        """Make the queue of Cloud Tasks. An existing one is left as it is."""
        retries = RetryConfig(
            max_attempts=-1, min_backoff=timedelta(seconds=1), max_backoff=timedelta(minutes=5)
        )
        queue = Queue(name=self._queue, retry_config=retries)
        with suppress(sdk.AlreadyExists):
            made = self._client.create_queue(
                parent=self._queue.rpartition("/queues/")[0],
                queue=queue,
                retry=None,
                timeout=TIMEOUT,
            )
            named(made, "queue")


def _too_large(index: int, task: Task) -> Failure | None:
    size = len(Task.serialize(task))
    if size <= _MAX_TASK:
        return None
    reason = f"as a task the delayed message has {size} bytes, and Cloud Tasks takes {_MAX_TASK}"
    return Failure(index=index, code=Code.TOO_LARGE, reason=reason)


def _refusal(index: int, error: Exception) -> Failure:
    return Failure(index=index, code=error_code(error), reason=str(error))


def _is_whole(task: Task) -> bool:
    return bool(task.name and task.schedule_time)


def _lacking() -> Exception:
    return incomplete("a task's name or time")


def _raise_first(errors: Sequence[Exception]) -> None:
    # What befell all of a batch is of the call as a whole.
    for error in errors:
        raise error


def _due(task: Task) -> float:
    return cast("Any", task.schedule_time).timestamp()


def _handle(task: Task) -> str:
    # The time is in it: where a list goes on is known even when the task is gone.
    return f"{_due(task):.6f}/{task.name.rpartition('/')[2]}"


def _place(handle: str) -> tuple[float, str]:
    due, _, id = handle.partition("/")
    return float(due), id


def _id(handle: str) -> str:
    return handle.rpartition("/")[2]


def _scheduled(task: Task) -> Scheduled | None:
    """Return the delayed message in a task; None for a task that somebody else has made."""
    if not task.http_request.body:
        raise incomplete("a task's request")
    try:
        (message,) = json.loads(task.http_request.body)["messages"]
        return Scheduled(
            handle=_handle(task),
            id=message["attributes"][ID],
            body=base64.b64decode(message["data"]),
            due=_due(task),
            group=message.get("orderingKey"),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
