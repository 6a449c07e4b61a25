"""The options of a deployment to Google: `[tool.cloudq.deploy.google]` and the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cloudq_deploy.options import IgnoredHints, Options


class GoogleOptions(Options):
    """All options of a deployment to Google Cloud."""

    project: str | None = Field(
        default=None, description="the project; else the broker's, else GOOGLE_CLOUD_PROJECT"
    )
    functions: Literal["queue", "one"] = Field(
        default="queue", description="queue: one function per queue; one: one function for all"
    )
    cpu: str | None = Field(
        default=None, description="CPUs of an instance, such as 1 or 0.5; else by its memory"
    )
    concurrency: int = Field(
        default=1, ge=1, le=1000, description="messages that an instance runs at a time"
    )
    max_instances: int = Field(default=100, ge=1, description="most instances of a function")
    min_backoff: int = Field(
        default=10, ge=0, le=600, description="seconds until a failed message is pushed again"
    )
    max_backoff: int = Field(
        default=600, ge=0, le=600, description="seconds that this delay grows to"
    )
    filters: dict[str, str] = Field(
        default={}, description="by queue: Pub/Sub drops messages whose attributes do not match"
    )
    urls: dict[str, str] = Field(
        default={}, description="by function: the address that Pub/Sub pushes to, for apply"
    )
    alarm_channels: tuple[str, ...] = Field(
        default=(), description="projects/P/notificationChannels/N"
    )
    build_account: str | None = Field(
        default=None, description="e-mail of the account that Cloud Build runs as; else its default"
    )
    labels: dict[str, str] = Field(default={}, description="labels of all resources with labels")
    ignore: IgnoredHints = Field(default=(), description="hints to ignore: they are for AWS")
