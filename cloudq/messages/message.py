"""The task message, which is all that crosses the wire, in format version 1."""

from __future__ import annotations

from threading import RLock
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

from cloudq.driver.forks import Whole

VERSION = 1

CELERY = "celery"


# A factory costs a tenth of a default that is a list, of which Pydantic makes a deep copy.
_Calls = list[dict[str, Any]]

# Python's datetime ends with the year 9999.
Time = Annotated[float, Field(ge=0, lt=253_402_300_799, allow_inf_nan=False)]

MOST = 2**31 - 1
"""The bound of every count in a message: fences, which are made of counts, fit into 53 bits."""
LONGEST_LIMIT = 36_525 * 86_400.0
"""The longest time limit: a century, in seconds."""

# No name has a control character: names are keys of stores, and stand in logs and terminals.
_NAME = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_SLOT = r"^[0-9]{1,9}@[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,255}$"
Name = Annotated[str, Field(max_length=255, pattern=_NAME)]
SlotText = Annotated[str, Field(pattern=_SLOT)]
Key = Annotated[str, Field(max_length=2048)]
# A queue may be known by its URL.
QueueName = Annotated[str, Field(max_length=2048, pattern=_NAME)]
Word = Annotated[str, Field(max_length=32, pattern=_NAME)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Limit = Annotated[float, Field(gt=0, le=LONGEST_LIMIT, allow_inf_nan=False)]
# W3C's baggage may have 8,192 bytes.
Headers = Annotated[dict[Name, Annotated[str, Field(max_length=16_384)]], Field(max_length=256)]

# Of the threads that need the model first one builds it, and no fork cuts it short.
_BUILDING, _ONE = Whole(), RLock()


class TaskMessage(BaseModel):
    """One call of one task, as it travels. Times are epoch seconds.

    `args` and `kwargs` hold wire values (see `cloudq.messages.values.to_wire`). A key that has
    its default is not sent. Keys that this release does not know are passed over, so that a newer
    release of the same version can add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    v: Annotated[int, Field(ge=-MOST, le=MOST)] = VERSION
    id: Name = Field(min_length=1, description="the task id, unique to the call")
    task: Name = Field(min_length=1, description="the task's registered name")
    args: list[Any] = Field(default_factory=list, description="positional arguments")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="keyword arguments")
    queue: QueueName = Field(default="", description="where it was sent; retries go there too")
    sent_at: Time = Field(default=0.0, description="when it was first published")
    not_before: Time | None = Field(default=None, description="do not run earlier")
    expires: Time | None = Field(default=None, description="do not run later")
    retries: Count = Field(default=0, description="how often it was retried")
    root: Name | None = Field(
        default=None, description="first task of the workflow; absent: itself"
    )
    parent: Name | None = Field(default=None, description="the task that sent this one")
    group: Name | None = Field(default=None, description="the group this is a member of")
    headers: Headers = Field(
        default_factory=dict, description="travels along; traceparent lives here"
    )
    time_limit: Limit | None = Field(default=None, description="hard limit in seconds")
    soft_time_limit: Limit | None = Field(default=None, description="soft limit in seconds")
    ignore_result: bool | None = Field(default=None, description="absent: as the task says")
    group_key: Key | None = Field(default=None, description="ordering key on ordered queues")
    dedup_key: Key | None = Field(default=None, description="keeps a second message out")
    idempotency_key: Key | None = Field(default=None, description="runs once among its equals")
    chain: _Calls = Field(default_factory=_Calls, description="signatures to run after it")
    link: _Calls = Field(default_factory=_Calls, description="callbacks, with its value")
    link_error: _Calls = Field(default_factory=_Calls, description="callbacks of its failure")
    slot: SlotText | None = Field(default=None, description="its place in a join, `index@join`")
    gather: Name | None = Field(default=None, description="the join whose values it gets first")
    shadow: Name | None = Field(default=None, description="another name for it in logs")
    depth: Count = Field(default=0, description="how many tasks deep the call was made")
    replaced: Count = Field(default=0, description="how often a task of this id was replaced")
    waits: Count = Field(default=0, description="how often a limit has put it back")
    turn: Time | None = Field(default=None, description="its turn under a global rate limit")
    continued: Count = Field(default=0, description="how often it went on from a checkpoint")
    unique_key: Key | None = Field(default=None, description="one of these is queued at a time")
    call: Word | None = Field(default=None, description="tells calls of one given id apart")
    serializer: Word | None = Field(default=None, description="absent: json")
    compression: Word | None = Field(
        default=None, description="of the body, where that saves bytes"
    )
    protocol: Word | None = Field(default=None, description="celery: sent in Celery's protocol 2")

    # Pydantic calls it at the first use: an app that sends and runs nothing starts without it.
    @classmethod
    def model_rebuild(cls, *, force: bool = False, **options: Any) -> bool | None:
        """Build the model, unless that is done."""
        with _BUILDING, _ONE:
            built = super().model_rebuild(force=force, **options)
            # Pydantic makes some more at a model's first use, which no fork may cut short either.
            cls.model_validate({"id": "-", "task": "-"})
            return built


DEFAULTS: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in TaskMessage.model_fields.items()
    if not field.is_required()
}
"""The fields that need not be given, in their order, and what they are then."""
_MADE: list[tuple[str, type[Any]]] = [
    (name, type(default)) for name, default in DEFAULTS.items() if type(default) in (list, dict)
]
_set = object.__setattr__  # messages are frozen


def given_fields(message: TaskMessage) -> dict[str, Any]:
    """Return the fields that a message was given, for `from_given_fields`."""
    values = message.__dict__
    return {name: values[name] for name in message.model_fields_set}


def from_given_fields(fields: dict[str, Any]) -> TaskMessage:
    """Make a message of the fields of another, without checking them again."""
    message = TaskMessage.__new__(TaskMessage)
    values = DEFAULTS | fields
    for name, make in _MADE:
        if name not in fields:
            values[name] = make()
    _set(message, "__dict__", values)
    _set(message, "__pydantic_fields_set__", set(fields))
    _set(message, "__pydantic_extra__", None)
    _set(message, "__pydantic_private__", None)
    return message


def schema() -> dict[str, Any]:
    """The JSON schema of format version 1, for producers in other languages."""
    TaskMessage.model_rebuild()  # another thread may be about to
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
