"""A small Cloud Tasks: keeps tasks, and makes their HTTP requests when they are due.

It speaks the SDK's own protocol. What it does not do: rates, names that clients choose, paused
queues, and tokens: a request that needs one is sent without, to the emulator that `rewrite` names.
"""

from __future__ import annotations

import heapq
import itertools
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Condition, Thread
from typing import Any

import grpc
from google.cloud.tasks_v2.types import (
    CreateQueueRequest,
    CreateTaskRequest,
    DeleteTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Queue,
    Task,
)
from google.protobuf.empty_pb2 import Empty

from cloudq.testing.waiting import PATIENCE

_SERVICE = "google.cloud.tasks.v2.CloudTasks"
_MAX_TASK = 100_000
_MAX_AHEAD = 30 * 86_400
_RETRY_AFTER = 0.2


@dataclass
class CloudTasksServer:
    """The state of the service. `port` is where it listens; `failures` what requests met."""

    rewrite: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int = 0
    queues: dict[str, Queue] = field(default_factory=dict[str, Queue])
    tasks: dict[str, Task] = field(default_factory=dict[str, Task])
    failures: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._changed = Condition()
        self._due: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._stopped = False

    # ---- the API

    def create_queue(self, request: CreateQueueRequest, context: grpc.ServicerContext) -> Queue:
        with self._changed:
            if request.queue.name in self.queues:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "Queue already exists")
            self.queues[request.queue.name] = request.queue
            return request.queue

    def create_task(self, request: CreateTaskRequest, context: grpc.ServicerContext) -> Task:
        task = request.task
        self._check_queue(request.parent, context)
        if len(Task.serialize(task)) > _MAX_TASK:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Task size too large")
        if task.schedule_time.timestamp() > time.time() + _MAX_AHEAD:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "The schedule_time is too far in the future"
            )
        if task.http_request.oauth_token and not task.http_request.url.startswith("https://"):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a token needs https")
        with self._changed:
            task.name = f"{request.parent}/tasks/{uuid.uuid4().hex}"
            task.create_time = datetime.now(UTC)
            self.tasks[task.name] = task
            self._plan(task.name, task.schedule_time.timestamp())
        return task

    def delete_task(self, request: DeleteTaskRequest, context: grpc.ServicerContext) -> Empty:
        if not re.fullmatch(r"projects/.+/queues/[^/]+/tasks/[\w-]+", request.name):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Task name must be formatted")
        with self._changed:
            if self.tasks.pop(request.name, None) is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "The task was not found")
        return Empty()

    def list_tasks(
        self, request: ListTasksRequest, context: grpc.ServicerContext
    ) -> ListTasksResponse:
        self._check_queue(request.parent, context)
        with self._changed:
            names = sorted(name for name in self.tasks if name.startswith(f"{request.parent}/"))
            start = int(request.page_token or 0)
            size = min(request.page_size or 1000, 1000)
            found = [Task(self.tasks[name]) for name in names[start : start + size]]
        if request.response_view is not Task.View.FULL:
            for task in found:
                task.http_request.body = b""
        following = str(start + size) if start + size < len(names) else ""
        return ListTasksResponse(tasks=found, next_page_token=following)

    def _check_queue(self, name: str, context: grpc.ServicerContext) -> None:
        if name not in self.queues:
            context.abort(grpc.StatusCode.NOT_FOUND, "Queue does not exist")

    # ---- what runs the tasks

    def _plan(self, name: str, due: float) -> None:
        heapq.heappush(self._due, (due, next(self._numbers), name))
        self._changed.notify_all()

    def run(self) -> None:
        """Make the requests of due tasks until `stop`."""
        while True:
            with self._changed:
                while not self._stopped and (not self._due or self._due[0][0] > time.time()):
                    self._changed.wait(self._due[0][0] - time.time() if self._due else None)
                if self._stopped:
                    return
                _, _, name = heapq.heappop(self._due)
                task = self.tasks.get(name)
            if task is not None:
                self._dispatch(name, task)

    def _dispatch(self, name: str, task: Task) -> None:
        url = task.http_request.url
        for start, instead in self.rewrite.items():
            url = url.replace(start, instead)
        request = urllib.request.Request(
            url,
            data=task.http_request.body,
            headers=dict(task.http_request.headers),
            method=task.http_request.http_method.name,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE):
                pass
        except (urllib.error.URLError, OSError) as error:
            with self._changed, _closing(error):
                self.failures.append(str(error))
                self._plan(name, time.time() + _RETRY_AFTER)
            return
        with self._changed:
            self.tasks.pop(name, None)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@contextmanager
def _closing(error: Exception) -> Generator[None]:
    try:
        yield
    finally:
        if isinstance(error, urllib.error.HTTPError):
            error.close()


def _handlers(server: CloudTasksServer) -> grpc.GenericRpcHandler:
    methods: dict[str, tuple[Callable[..., Any], Any, Callable[[Any], bytes]]] = {
        "CreateQueue": (server.create_queue, CreateQueueRequest, Queue.serialize),
        "CreateTask": (server.create_task, CreateTaskRequest, Task.serialize),
        "DeleteTask": (server.delete_task, DeleteTaskRequest, Empty.SerializeToString),
        "ListTasks": (server.list_tasks, ListTasksRequest, ListTasksResponse.serialize),
    }
    return grpc.method_handlers_generic_handler(
        _SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=request.deserialize, response_serializer=serialize
            )
            for name, (call, request, serialize) in methods.items()
        },
    )


@contextmanager
def serving_tasks(rewrite: Mapping[str, str] | None = None) -> Generator[CloudTasksServer]:
    """A server on a free port for the length of the block."""
    state = CloudTasksServer(rewrite=rewrite or {})
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((_handlers(state),))
        state.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        runner = Thread(target=state.run)
        runner.start()
        try:
            yield state
        finally:
            state.stop()
            runner.join()
            server.stop(None).wait()
