"""No serializer is given a structure whose depth grows with a user's program."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudq.errors import CloudQError, ConfigurationError, EncodeError
from cloudq.messages.body import encode
from cloudq.messages.json_text import MAX_LEVELS, json_bytes, json_text
from cloudq.messages.message import TaskMessage
from cloudq.messages.serializers import pickled
from cloudq.messages.values import dump_value, to_wire
from cloudq.monitoring.commands import make

ROOT = Path(__file__).parents[2]
PACKAGES = ("cloudq", "adapters", "deploy", "localstack")
WRITERS = {"dumps", "dump", "packb", "pack", "safe_dump", "to_json", "dump_json", "model_dump_json"}
LIBRARIES = {"orjson", "json", "pickle", "msgpack", "yaml", "pydantic_core", "library(...)"}

# Each place that writes by itself, and why nothing deep reaches it. What else writes JSON calls
# `json_text`, which looks first.
PLACES = {
    "cloudq/messages/json_text.py": "it looks first",
    "cloudq/messages/serializers.py": "what `json_text` has written; pickle checks by itself",
    "cloudq/worker/pool/pipe.py": "decoded messages and records; pickle checks by itself",
    "cloudq/execution/direct_call.py": "checked just before",
    "cloudq/contrib/django/task_results.py": "arguments that are checked just before, flat fields",
    "cloudq/text.py": "what it has cut at 150 levels",
    "cloudq/schedules/entry.py": "arguments that `to_wire` has written, and flat fields",
    "cloudq/testing/contracts/scheduling.py": "a list of texts",
    "adapters/cloudq_local/sqlite_fields.py": "fields, which are texts, numbers and sets of texts",
    "adapters/cloudq_local/sqlite_backend.py": "a list of pairs of texts",
    "adapters/cloudq_azure/tables_items.py": "a list of texts",
    "adapters/cloudq_gcp/cloud_tasks.py": "one message in base64",
    "cloudq/testing/kit/proxy.py": "an emulator's answer",
    "adapters/cloudq_aws/checks.py": "two texts",
    "cloudq/dashboard/live.py": "a text of ours",
    "cloudq/results/ends_log.py": "ids, names and whole numbers of ours",
    "adapters/cloudq_aws/lean/request.py": "a driver's request, as flat as fields and messages",
    "adapters/cloudq_aws/partial.py": "a request that the SDK has written",
    "adapters/cloudq_aws/sqs_admin.py": "a queue's policy",
    "deploy/cloudq_deploy/aws/terraform.py": "policies",
    "deploy/cloudq_deploy/aws/stack/running.py": "an event of one call's text",
    "deploy/cloudq_deploy/aws/stack/changes.py": "a template",
    "deploy/cloudq_deploy/aws/stack/bucket.py": "a template",
    "deploy/cloudq_deploy/aws/stack/adopt.py": "a template",
    "deploy/cloudq_deploy/azure/package.py": "a host file",
    "localstack/servicebus/admin.py": "a page of the stand-in",
    "localstack/servicebus/__main__.py": "two numbers",
    "localstack/detached.py": "a flat note",
    "adapters/cloudq_azure/faults.py": "an error's code and text",
    "adapters/cloudq_gcp/faults.py": "an error's code and text",
    "adapters/cloudq_azure/key_vault.py": "two texts",
    "cloudq/messages/hiding.py": "one text",
}


def writes(path: Path) -> Iterator[str]:
    """The calls in a file that hand a value to a serializer, and imports that would hide one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in WRITERS:
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else ast.unparse(owner)
            name = "library(...)" if name.startswith("library(") else name
            if name in LIBRARIES:
                yield f"{name}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module in LIBRARIES:
            yield from (alias.name for alias in node.names if alias.name in WRITERS)


def test_every_place_that_writes_by_itself_is_known() -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if ".venv" not in path.parts and any(writes(path))
    }
    assert found == PLACES.keys()


def test_the_walk_sees_each_way_to_write(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    for line in (
        "orjson.dumps(x)",
        "from orjson import dumps",
        "write = json.dumps",
        'library("msgpack", extra="msgpack").packb(x)',
        "pydantic_core.to_json(x)",
    ):
        file.write_text(line)
        assert [*writes(file)], line
    file.write_text("entry.dumps(x)")
    assert not [*writes(file)]


@dataclass
class Box:
    inside: object


@dataclass(slots=True)
class Slotted:
    inside: object


KINDS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda value: (value,),
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "dataclass": Box,
    "slots": Slotted,
    "both": lambda value: ([value],),
}


def deep(kind: str, levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = KINDS[kind](value)
    return value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [251, 300, 3_000, 100_000])
def test_what_is_too_deep_is_refused_before_it_is_written(kind: str, levels: int) -> None:
    with pytest.raises(EncodeError, match="nests deeper than 250 levels"):
        json_text(deep(kind, levels))


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_written_is_within_the_serializers_own_limit(kind: str) -> None:
    levels = (MAX_LEVELS - 1) // (2 if kind == "both" else 1)
    assert orjson.loads(json_text(deep(kind, levels)))


def test_an_enum_is_as_deep_as_its_value() -> None:
    class Kind(Enum):
        DEEP = deep("tuple", 400)

    with pytest.raises(EncodeError):
        json_text([Kind.DEEP])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "write",
    [
        dump_value,
        to_wire,
        json_bytes,
        pickled,
        lambda value: encode(TaskMessage(id="a", task="t", args=[value])),
        lambda value: encode(TaskMessage(id="a", task="t", chain=[{"a": value}])),
        lambda value: make("ping", {"a": value}, lasts=1, reply=False).to_text(),
    ],
)
def test_every_door_refuses_what_is_too_deep(kind: str, write: Callable[[Any], object]) -> None:
    with pytest.raises(CloudQError) as caught:
        write(deep(kind, 20_000))
    assert isinstance(caught.value, EncodeError | ConfigurationError)


@pytest.mark.parametrize("kind", ["tuple key", "frozenset", "frozenset key"])
def test_keys_and_members_are_bounded_too(kind: str) -> None:
    value: Any = 1
    for _ in range(400):
        value = (value,) if kind == "tuple key" else frozenset({value})
    with pytest.raises(EncodeError, match="nest deeper than 100 levels"):
        to_wire({value: 1} if "key" in kind else value)
