"""`cloudq brokers`: what is installed, and what each can do."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from tempfile import TemporaryDirectory
from typing import Any

from cloudq.cli.options import JsonOption, Target, common
from cloudq.cli.output import duration, emit, note, say, table
from cloudq.driver import BackendDriver, BrokerDriver, Limits, QueueAdmin, StoreLimits
from cloudq.driver import loader as plugins
from cloudq.errors import CloudQError

# An address that needs no account and no file, to ask a driver for its limits; others by scheme.
# Nothing is sent there.
_SAMPLES = {
    "sqs": "sqs://us-east-1",
    "dynamodb": "dynamodb://cloudq?region=us-east-1",
    "pubsub": "pubsub://project?emulator=127.0.0.1:1",
    "firestore": "firestore://project/cloudq?emulator=127.0.0.1:1",
    "servicebus": "servicebus://127.0.0.1:1?emulator=true",
    "aztables": "aztables://devstoreaccount1/cloudq",
}
_FOREVER = 366 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One kind of broker or backend; `variant` is a kind of queue with limits of its own."""

    scheme: str
    variant: str
    provided_by: str
    limits: Limits | StoreLimits | None = None
    admin: bool = False
    problem: str | None = None


@common
def brokers(target: Target, json: JsonOption = False) -> None:
    """List brokers and backends with their limits."""
    with TemporaryDirectory() as scratch, _as_nobody():
        samples = {**_SAMPLES, "sqlite": f"sqlite:///{scratch}/limits.db"}
        brokers = [
            found for entry in plugins.installed("broker") for found in _broker(entry, samples)
        ]
        backends = [_backend(entry, samples) for entry in plugins.installed("backend")]
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
        "DELAY, LEASE and WAIT are the longest; longer delays are made of several, and parked ones "
        "are kept in the backend"
    )


@contextmanager
def _as_nobody() -> Generator[None]:
    """Give drivers that look for credentials some that are nobody's: limits need no account."""
    before = dict(os.environ)
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _broker(entry: EntryPoint, samples: Mapping[str, str]) -> list[Installed]:
    def read(driver: BrokerDriver) -> list[Installed]:
        can_admin = isinstance(driver, QueueAdmin)
        kinds = {"": driver.limits("queue"), "…fifo": driver.limits("queue.fifo")}
        if kinds[""] == kinds["…fifo"]:
            del kinds["…fifo"]
        return [
            Installed(
                scheme=entry.name,
                variant=variant,
                provided_by=entry.value,
                limits=limits,
                admin=can_admin,
            )
            for variant, limits in kinds.items()
        ]

    found = _opened(entry, samples, plugins.open_broker, read)
    return [found] if isinstance(found, Installed) else found


def _backend(entry: EntryPoint, samples: Mapping[str, str]) -> Installed:
    def read(driver: BackendDriver) -> Installed:
        return Installed(
            scheme=entry.name, variant="", provided_by=entry.value, limits=driver.limits
        )

    return _opened(entry, samples, plugins.open_backend, read)


def _opened(
    entry: EntryPoint,
    samples: Mapping[str, str],
    open_driver: Callable[[str], Any],
    read: Callable[[Any], Any],
) -> Any:
    try:
        driver = open_driver(samples.get(entry.name, f"{entry.name}://"))
    except CloudQError as error:
        return Installed(scheme=entry.name, variant="", provided_by=entry.value, problem=str(error))
    try:
        return read(driver)
    finally:
        driver.close()


def _broker_cells(limits: Limits | StoreLimits | None) -> tuple[str, ...]:
    if not isinstance(limits, Limits):
        return ("?",) * 8
    return (
        str(limits.batch),
        _size(limits.body),
        _span(limits.max_delay) if limits.max_delay else "parked",
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
    return "any" if seconds >= _FOREVER else duration(seconds).replace(" 0s", "").replace(" 0m", "")


def _size(number: int) -> str:
    if number >= 1 << 20:
        return f"{number / (1 << 20):.3g} MiB"
    return f"{number / 1024:.4g} KiB"
