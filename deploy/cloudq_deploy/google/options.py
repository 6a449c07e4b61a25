"""What a deployment to Google is told: `[tool.cloudq.deploy.google]` and the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cloudq_deploy.options import Shared


class GoogleTarget(Shared):
    """Every option of a deployment to Google Cloud."""

    project: str | None = Field(default=None, description="else the broker's, GOOGLE_CLOUD_PROJECT")
    functions: Literal["queue", "one"] = Field(
        default="queue", description="one function a queue, or one for all"
    )
    cpu: str | None = Field(default=None, description="of an instance, as 1 or 0.5; else by memory")
    concurrency: int = Field(default=1, ge=1, le=1000, description="messages an instance at a time")
    max_instances: int = Field(default=100, ge=1, description="of a function")
    min_backoff: int = Field(default=10, ge=0, le=600, description="seconds until the next push")
    max_backoff: int = Field(default=600, ge=0, le=600, description="the same, at last")
    filters: dict[str, str] = Field(
        default={}, description="by queue: Pub/Sub drops messages whose attributes do not fit"
    )
    urls: dict[str, str] = Field(
        default={}, description="by function: where apply has Pub/Sub push to"
    )
    alarm_channels: tuple[str, ...] = Field(
        default=(), description="projects/P/notificationChannels/N"
    )
    build_account: str | None = Field(
        default=None, description="e-mail of the account that Cloud Build builds with; else its own"
    )
    labels: dict[str, str] = Field(default={}, description="labels of all that has some")
