"""The options of a deployment to Azure: `[tool.cloudq.deploy.azure]` and the command line."""

from __future__ import annotations

from pydantic import Field

from cloudq_deploy.options import IgnoredHints, Options


class AzureOptions(Options):
    """All options of a deployment to Azure. Some of its names must be unique in all of Azure."""

    resource_group: str | None = Field(default=None, description="else the stack's name")
    key_vault_group: str | None = Field(
        default=None, description="the resource group of encryption keys' vault; else the stack's"
    )
    namespace: str | None = Field(default=None, description="of Service Bus; else STACK-queues")
    account: str | None = Field(default=None, description="storage account; else STACKstore")
    function_app: str | None = Field(default=None, description="else STACK-tasks")
    concurrency: int = Field(
        default=16, ge=1, description="messages that an instance runs at a time"
    )
    sessions: int = Field(
        default=8, ge=1, description="groups of .fifo queues that an instance runs at a time"
    )
    max_instances: int = Field(
        default=100, description="most instances of the function app, 40 to 1000"
    )
    replication: str = Field(default="LRS", description="replication of the storage account")
    action_group: str | None = Field(
        default=None, description="id of the action group that alerts are sent to"
    )
    tags: dict[str, str] = Field(default={}, description="tags of all resources")
    ignore: IgnoredHints = Field(default=(), description="hints to ignore: they are for AWS")
