"""The check of the parts that follow a call, made when its message is read."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq.errors import DecodeError
from cloudq.messages.message import TaskMessage
from cloudq.tasks.signature_json import from_dict
from cloudq.tasks.wire_parts import check_parts

NOW = 1_790_000_000.0
STEP = {"task": "t", "args": [1], "id": "next"}


def nested(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = {"task": "t"}
    for _ in range(levels - 1):
        part = {"task": "t", "link": [part]}
    return part


GOOD: list[dict[str, Any]] = [
    STEP,
    {"chain": [STEP, {"group": [STEP, {"group": []}]}], "immutable": True},
    {"chord": [STEP], "body": STEP, "link": [STEP], "link_error": [STEP]},
    {"task": "t", "kwargs": {"a": {"$decimal": "1.5"}}, "of_a_newer_release": [1]},
    {"task": "t", "options": {"countdown": 5, "queue": "q", "time_limit": 3, "retry": False}},
    {"task": "t", "options": {"eta": {"$datetime": "2026-11-21T09:48:43+00:00"}, "priority": 3}},
    {"task": "t", "options": {"of_a_newer_release": {"a": 1}}},
    nested(100),
]
BAD: list[tuple[Any, str]] = [
    ({"bogus": 1}, "it is no signature"),
    ({"chain": []}, "it is no signature"),
    ({"chord": [STEP]}, "it is no signature"),
    ({"chord": [STEP], "body": None}, "it is no signature"),
    ({"group": [STEP, 1]}, "it is no signature"),
    ({"task": ""}, "task: "),
    ({"task": "x" * 256}, "task: "),
    ({"task": "t", "id": 5}, "id: "),
    ({"task": "t", "id": "a\nb"}, "id: "),
    ({"task": "t", "args": {"a": 1}}, "args is no list"),
    ({"task": "t", "kwargs": []}, "args is no list, or kwargs no object"),
    ({"task": "t", "args": [{"$decimal": "1e10000000"}]}, "malformed"),
    ({"task": "t", "link": STEP}, "link is no list"),
    ({"task": "t", "link": [STEP] * 1001}, "1,001 callbacks"),
    ({"task": "t", "link_error": [{"bogus": 1}]}, "it is no signature"),
    ({"task": "t", "options": []}, "options is no object"),
    ({"task": "t", "options": {"countdown": "x"}}, "countdown is 'x'"),
    ({"task": "t", "options": {"countdown": 1e308}}, "countdown"),
    ({"task": "t", "options": {"countdown": 1e9}}, "ten years"),
    ({"task": "t", "options": {"eta": "soon"}}, "eta is 'soon'"),
    ({"task": "t", "options": {"eta": {"$datetime": "0001-01-01T00:00:00+14:00"}}}, "."),
    ({"task": "t", "options": {"expires": {"$datetime": "9999-12-31T23:59:59-14:00"}}}, "."),
    ({"task": "t", "options": {"soft_time_limit": {"$float": "inf"}}}, "soft_time_limit"),
    ({"task": "t", "options": {"headers": {"a": 1}}}, "headers"),
    ({"task": "t", "options": {"task_id": 7}}, "id"),
    ({"task": "t", "options": {"unique_key": "u"}}, "unique_key"),
    ({"task": "t", "options": {"retry_policy": {"max_retries": "x"}}}, "max_retries"),
    ({"task": "t", "options": {"serializer": "nope"}}, "serializer"),
    (nested(101), "nested deeper than 100"),
]


def message(place: str, part: Any) -> TaskMessage:
    return TaskMessage(id="a", task="t").model_copy(update={place: [STEP, part]})


@pytest.mark.parametrize("place", ["chain", "link", "link_error"])
@pytest.mark.parametrize("part", GOOD)
def test_what_passes_is_read_when_the_call_ends(place: str, part: dict[str, Any]) -> None:
    following = message(place, part)
    check_parts(following, NOW)
    from_dict(part)


@pytest.mark.parametrize("place", ["chain", "link", "link_error"])
@pytest.mark.parametrize(("part", "why"), BAD)
def test_what_could_not_be_started_is_refused_with_its_place(
    place: str, part: Any, why: str
) -> None:
    with pytest.raises(DecodeError, match=why) as refused:
        check_parts(message(place, part), NOW)
    assert str(refused.value).startswith(f"undecodable: {place}.1")


def test_options_of_a_newer_release_do_nothing() -> None:
    assert from_dict({"task": "t", "options": {"of_a_newer_release": 1}}).options == {}


def test_a_message_carries_so_many_steps_at_most() -> None:
    most = [STEP] * 10_000
    check_parts(TaskMessage(id="i", task="t", chain=most), NOW)
    with pytest.raises(DecodeError, match="10,001 steps"):
        check_parts(TaskMessage(id="i", task="t", chain=[*most, STEP]), NOW)
