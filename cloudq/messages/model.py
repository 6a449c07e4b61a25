"""The message as a model of pydantic, which judges what is not plainly right, and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from threading import RLock
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema

from cloudq.driver.forks import Whole
from cloudq.messages.fields import BOUNDS, Field
from cloudq.messages.message import FIELDS, VERSION, TaskMessage, WrongField, from_given_fields

# Of the threads that need the model first one builds it, and no fork cuts it short.
_BUILDING, _ONE = Whole(), RLock()

_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("Name", "SlotText", "Key", "QueueName", "Word", "HeaderText"), str),
    **dict.fromkeys(("Version", "Count"), int),
    **dict.fromkeys(("Time", "Limit"), float),
    "Switch": bool,
    "Values": list[Any],
    "Named": dict[str, Any],
    "Calls": list[dict[str, Any]],
}


def kind(name: str) -> Any:
    """Return a kind of field as a type hint for pydantic."""
    hint = dict[kind("Name"), kind("HeaderText")] if name == "Headers" else _TYPES[name]
    return Annotated[hint, pydantic.Field(**BOUNDS[name])] if name in BOUNDS else hint


Name: Any = kind("Name")
QueueName: Any = kind("QueueName")


def model() -> type[BaseModel]:
    """Return the model of a message, built at its first use."""
    with _BUILDING, _ONE:
        return _built()


@cache
def _built() -> type[BaseModel]:
    fields: dict[str, Any] = {name: _declared(each) for name, each in FIELDS.items()}
    config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    made = create_model("TaskMessage", __config__=config, __doc__=TaskMessage.__doc__, **fields)
    # Pydantic makes some more at a model's first use, which no fork may cut short either.
    made.model_validate({"id": "-", "task": "-"})
    return made


def _declared(given: Field) -> Any:
    hint = kind(given.kind) | None if given.is_optional else kind(given.kind)
    more: dict[str, Any] = {"description": given.description} if given.description else {}
    if given.min_length:
        more["min_length"] = given.min_length
    if given.factory is not None:
        return hint, pydantic.Field(default_factory=given.factory, **more)
    return hint, pydantic.Field(default=given.default, **more)


def validated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as the model takes them. Raises `WrongField`."""
    try:
        made = model()(**given)
    except ValidationError as error:
        raise _wrong(error) from error
    return {name: made.__dict__[name] for name in made.model_fields_set}


def read_json(body: bytes) -> TaskMessage:
    """Read the JSON of a message. Raises `WrongField`."""
    try:
        made = model().model_validate_json(body)
    except ValidationError as error:
        raise _wrong(error) from error
    return from_given_fields({name: made.__dict__[name] for name in made.model_fields_set})


def _wrong(error: ValidationError) -> WrongField:
    first = error.errors()[0]
    return WrongField(".".join(map(str, first["loc"])), first["msg"])


def schema() -> dict[str, Any]:
    """The JSON schema of format version 1, for producers in other languages."""
    made = model().model_json_schema()
    for name, each in FIELDS.items():
        if each.factory is not None:  # Pydantic leaves these defaults out
            shown = made["properties"][name] | {"default": each.fresh()}
            made["properties"][name] = dict(sorted(shown.items()))
    made["properties"]["v"] = {"const": VERSION, "description": "the version of the format"}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **made,
        "title": "cloudq task message, version 1",
        "required": ["v", *made["required"]],
    }
