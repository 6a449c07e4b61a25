"""What a deployment to Azure is told: `[tool.cloudq.deploy.azure]` and the command line."""

from __future__ import annotations

from pydantic import Field

from cloudq_deploy.options import Shared


class AzureTarget(Shared):
    """Every option of a deployment to Azure. Some names are unique in all of Azure."""

    resource_group: str | None = Field(default=None, description="else the stack's name")
    namespace: str | None = Field(default=None, description="of Service Bus; else STACK-queues")
    account: str | None = Field(default=None, description="of storage; else STACKstore")
    function_app: str | None = Field(default=None, description="else STACK-tasks")
    concurrency: int = Field(default=16, ge=1, description="messages an instance at a time")
    sessions: int = Field(default=8, ge=1, description="groups of .fifo queues, the same")
    max_instances: int = Field(default=100, description="of the function app, 40 to 1000")
    replication: str = Field(default="LRS", description="of the storage account")
    action_group: str | None = Field(default=None, description="id of where alerts go to")
    tags: dict[str, str] = Field(default={}, description="tags of all resources")
