"""Calls with callbacks, as `apply_async(link=..., link_error=...)` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from cloudq.tasks.call_options import Options
from cloudq.tasks.signature import Canvas, Signature


def linked(
    task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options, app: Canvas
) -> Signature[Any]:
    """The signature of a call: its options and its callbacks."""
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    named = {name: value for name, value in given.items() if value is not None}
    return Signature[Any](task, args, kwargs, app=app).set(**named)  # type: ignore[arg-type]
