"""The long-lived consumer: a supervisor that talks to the broker, processes that run tasks."""

from cloudq.worker.options import WorkerOptions
from cloudq.worker.supervisor import Worker

__all__ = ["Worker", "WorkerOptions"]
