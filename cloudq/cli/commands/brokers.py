"""`cloudq brokers`: lists the installed brokers and backends with their limits."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryDirectory

import typer

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import duration, emit, note, say, table
from cloudq.driver import FOREVER, ORDERED_SUFFIX, Limits, QueueAdmin, StoreLimits
from cloudq.driver import loader as plugins
from cloudq.driver.adapters import adapter
from cloudq.driver.entry_points import EntryPoint
from cloudq.errors import CloudQError


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One installed broker or backend; `variant` is a kind of queue with its own limits."""

    scheme: str
    variant: str
    provided_by: str
    limits: Limits | StoreLimits | None = None
    admin: bool = False
    problem: str | None = None


@common
def brokers(target: Target, json: JsonOption = False) -> None:
    """List brokers and backends with their limits."""
    with TemporaryDirectory() as folder:
        brokers = [
            found for entry in plugins.installed("broker") for found in _broker(entry, folder)
        ]
        backends = [_backend(entry, folder) for entry in plugins.installed("backend")]
    if json:
        emit({"brokers": list(map(asdict, brokers)), "backends": list(map(asdict, backends))})
        return
    rows = [(f"{each.scheme}://{each.variant}", *_broker_cells(each.limits)) for each in brokers]
    columns = ("BROKER", "BATCH", "BODY", "DELAY", "LEASE", "WAIT", "ORDERED", "DEDUP", "BILLED")
    table(columns, rows, empty="no brokers are installed")
    say("")
    rows = [(f"{each.scheme}://", *_store_cells(each.limits)) for each in backends]
    table(("BACKEND", "WRITES", "READS", "ITEM", "BILLED"), rows, empty="no backends are installed")
    for each in (*brokers, *backends):
        if each.problem:
            note(f"{each.scheme}://: {each.problem}")
    note(
        "DELAY, LEASE and WAIT are maxima; longer delays take several steps, "
        "`in backend` means that the result backend keeps delayed messages"
    )


def _broker(entry: EntryPoint, folder: str) -> list[Installed]:
    installed = Installed(scheme=entry.name, variant="", provided_by=entry.value)
    try:
        with _environment(entry), closing(plugins.open_broker(_sample(entry, folder))) as driver:
            plain, ordered = driver.limits("queue"), driver.limits("queue" + ORDERED_SUFFIX)
            found = replace(installed, limits=plain, admin=isinstance(driver, QueueAdmin))
    except CloudQError as error:
        return [replace(installed, problem=str(error))]
    if plain == ordered:
        return [found]
    return [found, replace(found, variant="…" + ORDERED_SUFFIX.lstrip("."), limits=ordered)]


def _backend(entry: EntryPoint, folder: str) -> Installed:
    installed = Installed(scheme=entry.name, variant="", provided_by=entry.value)
    try:
        with _environment(entry), closing(plugins.open_backend(_sample(entry, folder))) as driver:
            return replace(installed, limits=driver.limits)
    except CloudQError as error:
        return replace(installed, problem=str(error))


def _sample(entry: EntryPoint, folder: str) -> str:
    """Return a URL of the scheme that opens without an account."""
    sample = adapter(entry.name).sample or f"{entry.name}://"
    return sample.replace("{folder}", folder)


@contextmanager
def _environment(entry: EntryPoint) -> Generator[None]:
    """Set the environment variables that the adapter needs, and restore the old ones."""
    before = dict(os.environ)
    for name, value in adapter(entry.name).environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _broker_cells(limits: Limits | StoreLimits | None) -> tuple[str, ...]:
    if not isinstance(limits, Limits):
        return ("?",) * 8
    return (
        str(limits.batch),
        _size(limits.body),
        _span(limits.max_delay) if limits.max_delay else "in backend",
        _span(limits.max_lease) + " fixed" * (limits.min_lease == limits.max_lease),
        _span(limits.max_wait),
        _yes(limits.ordered),
        _span(limits.dedup_window),
        _yes(limits.billed),
    )


def _store_cells(limits: Limits | StoreLimits | None) -> tuple[str, ...]:
    if not isinstance(limits, StoreLimits):
        return ("?",) * 4
    return str(limits.put), str(limits.get), _size(limits.item), _yes(limits.billed)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _span(seconds: float) -> str:
    if not seconds:
        return "none"
    return "any" if seconds >= FOREVER else duration(seconds).replace(" 0s", "").replace(" 0m", "")


def _size(number: int) -> str:
    if number >= 1 << 20:
        return f"{number / (1 << 20):.3g} MiB"
    return f"{number / 1024:.4g} KiB"


def add_to(program: typer.Typer) -> None:
    """Add `brokers` to the commands of `cloudq`."""
    program.command()(brokers)
