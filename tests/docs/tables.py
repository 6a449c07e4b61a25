"""The parts of the pages that are made from the code: `python -m tests.docs.tables` writes them."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from pydantic_core import PydanticUndefined

import cloudq
from cloudq.app.app import PLUMBING
from cloudq.cli.celery import rules as command_line
from cloudq.cli.celery.help import fate_of, said_of
from cloudq.cli.celery.table import COMMANDS, EVERYWHERE, OPTIONS
from cloudq.contrib.celery.options_table import CALL_OPTIONS, TASK_OPTIONS
from cloudq.contrib.celery.rules import Fate, Table
from cloudq.contrib.celery.settings_table import SETTINGS
from cloudq.driver import Limits, StoreLimits
from cloudq.driver import loader as plugins
from cloudq.messages.message import FIELDS
from cloudq.messages.model import schema
from cloudq.settings.model import model
from tests.contrib.celery_differences import DIFFERENT, WITHOUT_COUNTERPART
from tests.docs.rooms import picture

DOCS = Path(__file__).resolve().parents[2] / "docs"
_YEAR = 365 * 86_400
# Addresses that need no server; drivers know their limits without asking one.
_BROKERS = (
    ("`sqlite://`", "sqlite:///{folder}/limits.db", "queue"),
    ("`memory://`", "memory://limits", "queue"),
    ("`sqs://`, standard", "sqs://us-east-1", "queue"),
    ("`sqs://`, FIFO", "sqs://us-east-1", "queue.fifo"),
    ("`pubsub://`", "pubsub://project?emulator=127.0.0.1:1", "queue"),
    ("`pubsub://`, `.fifo`", "pubsub://project?emulator=127.0.0.1:1", "queue.fifo"),
    (
        "`pubsub://` with Cloud Tasks",
        "pubsub://project?emulator=127.0.0.1:1&tasks=europe-west1/queue&account=a@b.c"
        "&tasks_endpoint=127.0.0.1:1",
        "queue",
    ),
    ("`servicebus://`, standard tier", "servicebus://127.0.0.1:1?emulator=true", "queue"),
    ("`servicebus://`, `.fifo`", "servicebus://127.0.0.1:1?emulator=true", "queue.fifo"),
    ("`servicebus://`, premium", "servicebus://127.0.0.1:1?emulator=true&tier=premium", "queue"),
)
_BACKENDS = (
    ("sqlite://", "sqlite:///{folder}/limits.db"),
    ("memory://", "memory://limits"),
    ("dynamodb://", "dynamodb://cloudq?region=us-east-1"),
    ("firestore://", "firestore://project/cloudq?emulator=127.0.0.1:1"),
    ("aztables://", "aztables://devstoreaccount1/cloudq"),
)
_KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}


def settings() -> Iterator[str]:
    """Every setting with its type, default and meaning."""
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model().model_fields.items():
        default = "" if field.default is PydanticUndefined else f"`{_literal(field.default)}`"
        yield f"| `{name}` | {_kind(field.annotation)} | {default} | {field.description or ''} |"


def keys() -> Iterator[str]:
    """The keys of a message."""
    yield "| key | type | absent | meaning |"
    yield "|---|---|---|---|"
    properties = schema()["properties"]
    for name, field in FIELDS.items():
        kinds = properties[name].get("anyOf", [properties[name]])
        kind = next(each.get("type", "integer") for each in kinds if each.get("type") != "null")
        absent = "required" if field.is_required or name == "v" else _JSON[repr(field.fresh())]
        meaning = field.description or "the version of the format, 1"
        yield f"| `{name}` | {kind} | {absent} | {meaning} |"


_JSON = {"None": "null", "[]": "`[]`", "{}": "`{}`", "''": '`""`', "0": "0", "0.0": "0"}


def brokers() -> Iterator[str]:
    """The abilities of each broker's queues."""
    columns = "batch | body | all of a batch | delay | lease | long poll | order | dedup | billed"
    yield f"| | {columns} |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, url, queue in _BROKERS:
        limits: Limits = _limits(plugins.open_broker, url, lambda driver, q=queue: driver.limits(q))
        cells = (
            limits.batch,
            _size(limits.body),
            _size(limits.batch_body),
            _span(limits.max_delay) if limits.max_delay else "parked",
            _span(limits.max_lease) + ", the queue's own" * (limits.min_lease == limits.max_lease),
            _span(limits.max_wait),
            "yes" if limits.ordered else "no",
            _span(limits.dedup_window),
            "yes" if limits.billed else "no",
        )
        yield f"| {name} | {' | '.join(map(str, cells))} |"


def backends() -> Iterator[str]:
    """The limits of each result store."""
    yield "| | writes a request | reads a request | item | billed |"
    yield "|---|---|---|---|---|"
    for name, url in _BACKENDS:
        limits: StoreLimits = _limits(plugins.open_backend, url, lambda driver: driver.limits)
        billed = "yes" if limits.billed else "no"
        yield f"| `{name}` | {limits.put} | {limits.get} | {_size(limits.item)} | {billed} |"


def celery(table: Table) -> Iterator[str]:
    """The fates of Celery's names; names with the same fate and reason share a row."""
    rows: dict[tuple[Fate, str, str], list[str]] = {}
    for rule in table.rules:
        fine = "" if rule.fate is Fate.CARRIED else ", ".join(f"`{v!r}`" for v in rule.fine)
        if rule.fine_keys:
            fine = f"{fine}, or it has only {_listed(sorted(rule.fine_keys))}"
        said = rule.why
        if rule.fate is Fate.CARRIED:
            said = "under the same name" if rule.to == rule.name else f"as `{rule.to}`"
        rows.setdefault((rule.fate, said, fine), []).append(rule.name)
    yield f"| {table.what} | | | no matter if |"
    yield "|---|---|---|---|"
    order = list(Fate)
    for (fate, said, fine), names in sorted(rows.items(), key=lambda row: order.index(row[0][0])):
        yield f"| {_listed(names)} | {fate} | {said.replace('|', '/')} | {fine} |"


def celery_differences() -> Iterator[str]:
    """The rows of the table of behaviours that come otherwise than in Celery, and why."""
    rows: dict[str, list[str]] = {}
    for name, reason in {**DIFFERENT, **WITHOUT_COUNTERPART}.items():
        kind, _, what = name.partition(": ")
        rows.setdefault(reason, []).append(f"{kind}: {what.removeprefix('has ')}")
    yield "| what is tried | what comes |"
    yield "|---|---|"
    for reason, names in rows.items():
        yield f"| {'; '.join(names)} | {reason} |"


def celery_commands() -> Iterator[str]:
    """The commands of Celery's command line, each with what it is here."""
    rows: dict[str, list[str]] = {}
    for command in COMMANDS:
        said = fate_of(command)
        rows.setdefault(said if command.why else f"`{said}`", []).append(command.name)
    yield "| command | here |"
    yield "|---|---|"
    for said, names in rows.items():
        yield f"| {_listed(names)} | {said} |"


def celery_options() -> Iterator[str]:
    """The options of Celery's command line, each with its fate."""
    yield "| command | option | | | no matter if |"
    yield "|---|---|---|---|---|"
    for command, rules in {"": EVERYWHERE, **OPTIONS}.items():
        for rule in rules:
            carried = rule.fate is command_line.Fate.CARRIED
            fine = ", ".join(f"`{value or 'given'}`" for value in rule.fine)
            names = ", ".join(f"`{name}`" for name in rule.names)
            place = f"`{command}`" if command else "all"
            said = said_of(rule).replace(f" {rule.to}", f" `{rule.to}`") if carried else rule.why
            yield f"| {place} | {names} | {rule.fate} | {said} | {fine} |"


def reference() -> Iterator[str]:
    """Every public name with the first sentence of its docstring, and a class's public parts."""
    for title, chosen in _SECTIONS.items():
        yield f"## {title}"
        yield ""
        for name in sorted(cloudq.__all__, key=str.lower):
            value = getattr(cloudq, name)
            if chosen(name, value):
                yield from _entry(name, value)


def _entry(name: str, value: Any) -> Iterator[str]:
    if name in ALIASES:
        yield f"- **`{name}`** = `{_short(value)}`: {ALIASES[name]}"
    elif inspect.isfunction(value):
        yield f"- **`{name}{_signature(value)}`**: {_first_sentence(value)}"
    elif _is_error(value):
        bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__)
        yield f"- **`{name}`** (a {bases}): {_first_sentence(value)}"
    else:
        yield f"- **`{name}`**: {_first_sentence(value)}"
        yield from _parts(value)
    yield ""


def _parts(value: type[Any]) -> Iterator[str]:
    if is_dataclass(value):
        yield f"  Fields: {_listed(field.name for field in fields(value))}."
    if issubclass(value, Enum):
        yield f"  {_listed(value.__members__)}."
        return
    brief: list[str] = []
    hidden = PLUMBING if value is cloudq.CloudQ else frozenset[str]()
    for name, part in _own(value).items():
        plain = part.fget if isinstance(part, property) else part
        if name.startswith("_") or name in hidden or not inspect.isfunction(plain):
            continue
        shown = name if isinstance(part, property) else f"{name}{_signature(plain)}"
        if plain.__doc__:
            yield f"    - `{shown}`: {_first_sentence(plain)}"
        else:
            brief.append(shown)
    if brief:
        yield f"    - also {_listed(brief)}"


def _own(value: type[Any]) -> dict[str, Any]:
    """A class's parts, with those of bases that have no entry of their own."""
    unnamed = [kind for kind in value.__mro__[1:] if kind.__module__.startswith("cloudq.")]
    kinds = [value, *(kind for kind in unnamed if kind.__name__ not in cloudq.__all__)]
    found: dict[str, Any] = {}
    for kind in kinds:
        found = {**found, **{k: v for k, v in vars(kind).items() if k not in found}}
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _signature(function: Any) -> str:
    """The parameters without their types, which the first sentences and the code have."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    bare = signature.replace(parameters=parameters, return_annotation=signature.empty)
    # What has a name of its own is positional here only to be told from other names.
    return str(bare).replace("(/, ", "(").replace(", /", "")


def _first_sentence(value: Any) -> str:
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    return text if text.endswith((".", ":")) else f"{text}."


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def _is_inner(name: str, value: Any) -> bool:
    return name in ALIASES or value.__module__ == "cloudq.tasks.request"


_SECTIONS: dict[str, Callable[[str, Any], bool]] = {
    "App, tasks and results": lambda n, value: not _is_error(value) and not _is_inner(n, value),
    "Inside a call": _is_inner,
    "Exceptions": lambda n, value: _is_error(value),
}
ALIASES = {
    "Call": "runs a task and returns its value.",
    "Middleware": "takes the next call, returns a call around it.",
    "current_request": (
        "the request of the task that runs in this thread or coroutine; "
        "`current_request.get()` is None outside tasks."
    ),
}


def _short(value: Any) -> str:
    if isinstance(value, ContextVar):
        return "ContextVar[Request | None]"  # its own text has an address in it
    return re.sub(r"\b(?:cloudq|collections)\.(?:\w+\.)*", "", str(value))


def _limits(opened: Callable[[str], Any], url: str, read: Callable[[Any], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, _KEYS):
        driver = opened(url.format(folder=f"/{folder.lstrip('/')}"))
        try:
            return read(driver)
        finally:
            driver.close()


def _kind(annotation: Any) -> str:
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if get_origin(annotation) in (list, dict):
        return {list: "list", dict: "table"}[get_origin(annotation)]
    if get_origin(kinds[0]) is Literal or isinstance(kinds[0], str):
        return "text"
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return ", ".join(str(member.value) for member in kinds[0])
    return {
        "str": "text",
        "float": "number",
        "int": "whole number",
        "bool": "yes or no",
        "Any": "Python value",
    }[kinds[0].__name__]


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and value < 1e5 else str(value or "none")


def _span(seconds: float) -> str:
    if not seconds:
        return "none"
    if seconds > _YEAR:
        return "any"
    if seconds > 2 * 86_400:
        return f"{seconds / 86_400:.3g} d"  # Cloud Tasks takes some minutes less than a month
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def _size(number: int) -> str:
    if number >= 1 << 20:
        return f"{number / (1 << 20):.3g} MiB"
    return f"{number / 1024:g} KiB"


MADE: Sequence[tuple[str, str, Callable[[], Iterator[str]]]] = (
    ("architecture.md", "rooms", picture),
    ("how-to/move-from-celery.md", "celery settings", lambda: celery(SETTINGS)),
    ("how-to/move-from-celery.md", "celery task options", lambda: celery(TASK_OPTIONS)),
    ("how-to/move-from-celery.md", "celery call options", lambda: celery(CALL_OPTIONS)),
    ("how-to/move-from-celery.md", "celery differences", celery_differences),
    ("how-to/celery-command-line.md", "celery commands", celery_commands),
    ("how-to/celery-command-line.md", "celery options", celery_options),
    ("reference/settings.md", "settings", settings),
    ("reference/brokers-and-backends.md", "brokers", brokers),
    ("reference/brokers-and-backends.md", "backends", backends),
    ("reference/python-api.md", "names", reference),
    ("reference/message-format.md", "keys", keys),
)


def filled(text: str, part: str, lines: Iterator[str]) -> str:
    """The page with this part as the code says it is."""
    begin, end = f"<!-- begin {part} -->\n", f"<!-- end {part} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    body = "\n".join(lines).strip()
    return f"{before}{begin}\n{body}\n\n{end}{after}"


def main() -> int:
    """Write all parts."""
    for page, part, make in MADE:
        file = DOCS / page
        file.write_text(filled(file.read_text(), part, make()))
    published = json.dumps(schema(), indent=2)
    (DOCS / "reference" / "message-v1.schema.json").write_text(f"{published}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
