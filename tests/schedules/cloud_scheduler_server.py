"""A small Cloud Scheduler: keeps jobs, and publishes one's message when a test fires it.

It speaks the SDK's own protocol, and refuses what the service's documentation says it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import grpc
from google.cloud.scheduler_v1.types import (
    CreateJobRequest,
    DeleteJobRequest,
    Job,
    ListJobsRequest,
    ListJobsResponse,
    PauseJobRequest,
    ResumeJobRequest,
    UpdateJobRequest,
)
from google.protobuf.empty_pb2 import Empty

_NAME = re.compile(r"projects/[a-z0-9-]+/locations/[a-z0-9-]+/jobs/[A-Za-z0-9_-]{1,500}")
_INVALID = grpc.StatusCode.INVALID_ARGUMENT


@dataclass
class CloudSchedulerServer:
    """The state of the service, and where it listens."""

    port: int = 0
    jobs: dict[str, Job] = field(default_factory=dict[str, Job])

    def create(self, request: CreateJobRequest, context: grpc.ServicerContext) -> Job:
        job = request.job
        if not _NAME.fullmatch(job.name) or not job.name.startswith(f"{request.parent}/jobs/"):
            context.abort(_INVALID, "Job name must be formatted")
        if job.name in self.jobs:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Job {job.name} already exists")
        self._check(job, context)
        job.state = Job.State.ENABLED
        self.jobs[job.name] = job
        return job

    def update(self, request: UpdateJobRequest, context: grpc.ServicerContext) -> Job:
        job = self._found(request.job.name, context)
        self._check(request.job, context)
        for path in request.update_mask.paths:
            setattr(job, path, getattr(request.job, path))
        return job

    def delete(self, request: DeleteJobRequest, context: grpc.ServicerContext) -> Empty:
        del self.jobs[self._found(request.name, context).name]
        return Empty()

    def pause(self, request: PauseJobRequest, context: grpc.ServicerContext) -> Job:
        return self._turn(request.name, Job.State.ENABLED, Job.State.PAUSED, context)

    def resume(self, request: ResumeJobRequest, context: grpc.ServicerContext) -> Job:
        return self._turn(request.name, Job.State.PAUSED, Job.State.ENABLED, context)

    def list(self, request: ListJobsRequest, context: grpc.ServicerContext) -> ListJobsResponse:
        names = sorted(name for name in self.jobs if name.startswith(f"{request.parent}/jobs/"))
        start, size = int(request.page_token or 0), min(request.page_size or 2, 2)
        following = str(start + size) if start + size < len(names) else ""
        found = [self.jobs[name] for name in names[start : start + size]]
        return ListJobsResponse(jobs=found, next_page_token=following)

    def _turn(self, name: str, have: Any, want: Any, context: grpc.ServicerContext) -> Job:
        job = self._found(name, context)
        if job.state != have:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"The job is not {have.name}")
        job.state = want
        return job

    def _found(self, name: str, context: grpc.ServicerContext) -> Job:
        if name not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, "Job not found")
        return self.jobs[name]

    @staticmethod
    def _check(job: Job, context: grpc.ServicerContext) -> None:
        if len(job.schedule.split()) != 5:
            context.abort(_INVALID, "Schedule has wrong format")
        try:
            ZoneInfo(job.time_zone)
        except (KeyError, ValueError):
            context.abort(_INVALID, "Invalid time zone")
        if not job.pubsub_target.topic_name or not job.pubsub_target.data:
            context.abort(_INVALID, "PubsubTarget needs a topic and data or attributes")
        if job.retry_config.retry_count > 5:
            context.abort(_INVALID, "retry_count must be at most 5")


@contextmanager
def serving_scheduler() -> Generator[CloudSchedulerServer]:
    """A server on a free port for the length of the block."""
    state = CloudSchedulerServer()
    methods: dict[str, tuple[Callable[..., Any], Any, Callable[[Any], bytes]]] = {
        "CreateJob": (state.create, CreateJobRequest, Job.serialize),
        "UpdateJob": (state.update, UpdateJobRequest, Job.serialize),
        "DeleteJob": (state.delete, DeleteJobRequest, Empty.SerializeToString),
        "PauseJob": (state.pause, PauseJobRequest, Job.serialize),
        "ResumeJob": (state.resume, ResumeJobRequest, Job.serialize),
        "ListJobs": (state.list, ListJobsRequest, ListJobsResponse.serialize),
    }
    handlers = grpc.method_handlers_generic_handler(
        "google.cloud.scheduler.v1.CloudScheduler",
        {
            name: grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=request.deserialize, response_serializer=serialize
            )
            for name, (call, request, serialize) in methods.items()
        },
    )
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handlers,))
        state.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield state
        finally:
            server.stop(None).wait()
