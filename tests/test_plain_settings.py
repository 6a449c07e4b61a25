"""Settings that need no pydantic: what is taken without it is what pydantic makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloudq.settings import DECLARED, Level, Settings
from cloudq.settings.fields import plain
from cloudq.settings.model import validated

ODD = [
    *(None, True, False, 0, 1, -1, 7, 1000, 10**15, 10**16, 10**400, 0.0, 0.5, 1.0, 1e10, nan, inf),
    *(
        "",
        "x",
        "0",
        "1",
        "007",
        "12",
        "1.5",
        "1.",
        ".5",
        "-1",
        "1e3",
        "1_0",
        "٣",
        "+1",
        "0x1",
        "\n",
    ),
    *("true", "TRUE", "Yes", "off", "t", "UTC", "Europe/Vienna", "no/such", "none", "final"),
    *("json", "pickle", "yaml", "zlib", "zstd", "solo", "solo\n", "threads", Level.TRACKED),
    *([], ["a"], ["json", "yaml"], ["x", 1], ("a",), {"a"}, [Level.NONE], {}, {"q": ["cloudq"]}),
    *({"q": "cloudq"}, {"k": "s" * 40}, object, b"bytes", 1j, "1234567890", "9" * 30),
]


def judged(values: Mapping[str, Any]) -> Any:
    """Return the values as pydantic makes them, by type and text; None where it refuses them."""
    try:
        made = validated(values)
    except ValidationError:
        return None
    return {name: (type(value), repr(value)) for name, value in made.items()}


def check(values: Mapping[str, Any]) -> None:
    made = plain(DECLARED, values)
    if made is not None:
        shown = {name: (type(value), repr(value)) for name, value in made.items()}
        assert shown == judged(values)


@pytest.mark.parametrize("name", [*DECLARED, "no_such_setting"])
def test_what_is_taken_without_pydantic_is_what_it_makes_of_it(name: str) -> None:
    for value in ODD:
        check({name: value})


@given(
    st.dictionaries(
        st.sampled_from([*DECLARED]),
        st.sampled_from(ODD) | st.text(max_size=12) | st.integers() | st.floats(),
        max_size=3,
    )
)
def test_so_it_is_with_any_values_and_with_several_settings(values: dict[str, Any]) -> None:
    check(values)


def test_usual_values_are_taken_without_it() -> None:
    usual = {
        "broker": "sqs://eu-west-1",
        "include": ["shop.mail"],
        "lease": "90",
        "result_expires": 60,
        "worker_threads": "4",
        "worker_pool": "threads",
        "task_events": "final",
        "task_serializer": "msgpack",
        "accept_content": ["json", "msgpack"],
        "tracing": "true",
        "task_routes": {"a.*": "b"},
    }
    assert plain(DECLARED, usual) is not None


def test_a_value_is_nobody_elses() -> None:
    given_list = ["a"]
    settings = Settings(include=given_list)
    settings.include.append("b")
    settings.priority_queues.append("c")
    assert given_list == ["a"]
    assert Settings().priority_queues == []


def test_an_assigned_value_is_checked_beside_the_others() -> None:
    settings = Settings(scheduler="eventbridge://eu-west-1", scheduler_eta=5)
    with pytest.raises(ValueError, match="scheduler_eta needs a scheduler"):
        settings.scheduler = None
    assert settings.scheduler == "eventbridge://eu-west-1"
    settings.lease = 90  # pyright: ignore[reportAttributeAccessIssue]
    assert repr(settings.lease) == "90.0"
    with pytest.raises(ValueError, match="no_such"):
        settings.no_such = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_usual_settings_load_no_pydantic() -> None:
    program = (
        "import sys; from cloudq.settings import Settings; Settings(lease=5, broker='memory://');"
        "print('pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
