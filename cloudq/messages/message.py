"""The task message, which is all that crosses the wire, in format version 1."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

VERSION = 1

CELERY = "celery"


# A factory costs a tenth of a default that is a list, of which Pydantic makes a deep copy.
def _calls() -> list[dict[str, Any]]:
    return []


# Python's datetime ends with the year 9999.
Time = Annotated[float, Field(ge=0, lt=253_402_300_799, allow_inf_nan=False)]


class TaskMessage(BaseModel):
    """One call of one task, as it travels. Times are epoch seconds.

    `args` and `kwargs` hold wire values (see `cloudq.messages.values.to_wire`). A key that has
    its default is not sent. Keys that this release does not know are passed over, so that a newer
    release of the same version can add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: int = VERSION
    id: str = Field(min_length=1, max_length=255, description="the task id, unique to the call")
    task: str = Field(min_length=1, max_length=255, description="the task's registered name")
    args: list[Any] = Field(default_factory=list, description="positional arguments")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    queue: str = Field(default="", description="where it was sent; retries go there too")
    sent_at: Time = Field(default=0.0, description="when it was first published")
    not_before: Time | None = Field(default=None, description="do not run earlier")
    expires: Time | None = Field(default=None, description="do not run later")
    retries: int = Field(default=0, ge=0, description="how often it was retried")
    root: str | None = Field(default=None, description="first task of the workflow; absent: itself")
    parent: str | None = Field(default=None, description="the task that sent this one")
    group: str | None = Field(default=None, description="the group this is a member of")
    headers: dict[str, str] = Field(
        default_factory=dict, description="travels along; traceparent lives here"
    )
    time_limit: float | None = Field(default=None, gt=0, description="hard limit in seconds")
    soft_time_limit: float | None = Field(default=None, gt=0, description="soft limit in seconds")
    ignore_result: bool | None = Field(default=None, description="absent: as the task says")
    group_key: str | None = Field(default=None, description="ordering key on ordered queues")
    dedup_key: str | None = Field(default=None, description="keeps a second message out")
    idempotency_key: str | None = Field(default=None, description="runs once among its equals")
    chain: list[dict[str, Any]] = Field(
        default_factory=_calls, description="signatures to run after it"
    )
    link: list[dict[str, Any]] = Field(
        default_factory=_calls, description="callbacks, with its value"
    )
    link_error: list[dict[str, Any]] = Field(
        default_factory=_calls, description="callbacks of its failure"
    )
    slot: str | None = Field(default=None, description="its place in a join, `index@join`")
    gather: str | None = Field(default=None, description="the join whose values it gets first")
    shadow: str | None = Field(default=None, description="another name for it in logs")
    depth: int = Field(default=0, ge=0, description="how many tasks deep the call was made")
    replaced: int = Field(default=0, ge=0, description="how often a task of this id was replaced")
    waits: int = Field(default=0, ge=0, description="how often a limit has put it back")
    turn: Time | None = Field(default=None, description="its turn under a global rate limit")
    continued: int = Field(default=0, ge=0, description="how often it went on from a checkpoint")
    unique_key: str | None = Field(default=None, description="one of these is queued at a time")
    serializer: str | None = Field(default=None, description="absent: json")
    compression: str | None = Field(default=None, description="of the body, where that saves bytes")
    protocol: str | None = Field(default=None, description="celery: sent in Celery's protocol 2")


def schema() -> dict[str, Any]:
    """The JSON schema of format version 1, for producers in other languages."""
    made = TaskMessage.model_json_schema()
    for name, field in TaskMessage.model_fields.items():
        if field.default_factory is not None:  # Pydantic leaves these defaults out
            default = field.get_default(call_default_factory=True)
            shown = made["properties"][name] | {"default": default}
            made["properties"][name] = dict(sorted(shown.items()))
    made["properties"]["v"] = {"const": VERSION, "description": "the version of the format"}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **made,
        "title": "cloudq task message, version 1",
        "required": ["v", *made["required"]],
    }
