"""Tests of the options of a call, which one dataclass declares."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from cloudq.messages.message import FIELDS
from cloudq.tasks.call_options import CALLER_ONLY, CallOptions, Options


def test_the_typed_dict_has_the_names_and_types_of_the_dataclass() -> None:
    declared = get_type_hints(CallOptions)
    checked = get_type_hints(Options)
    assert list(declared) == list(checked)
    for name, hint in declared.items():
        assert checked[name] == hint | None, name


def test_each_option_of_the_message_is_a_field_of_the_message() -> None:
    carried = {each.name for each in fields(Options) if "in_message" in each.metadata}
    assert carried <= set(FIELDS)
    assert carried.isdisjoint(CALLER_ONLY)


def test_only_options_that_are_set_are_given() -> None:
    options = Options(countdown=5, shadow="report", retry=False)
    assert options.given() == {"countdown": 5, "shadow": "report", "retry": False}
    assert options.in_message() == {"shadow": "report"}
