"""Facts about the installed adapters, read without loading a driver or a cloud's SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from cloudq.driver.entry_points import EntryPoint, entry_points
from cloudq.driver.immutable import immutable

if TYPE_CHECKING:
    from cloudq.driver.billing import Tariff

_GROUP = "cloudq.adapters"


@immutable
class Adapter:
    """Facts about one URL scheme, declared by the package that provides its driver.

    A distribution lists one per scheme under the entry-point group `cloudq.adapters`, such as
    `sqs = "cloudq_aws.declaration:SQS"`. The module named there must not import an SDK. Every
    fact may be left out, and so may the whole declaration.
    """

    extra: str | None = None
    """The extra of the distribution that installs the SDK, `aws` of `cloudq-tasks[aws]`."""

    example: str | None = None
    """Of a scheduler: its URL as users write it, shown where they name none."""

    sample: str | None = None
    """A URL that opens without an account, to read the driver's limits. No request is sent.

    `{folder}` stands for an empty folder, which is deleted afterwards.
    """

    environment: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """Environment variables to set (None: to unset) while `sample` is open."""

    default_backend: str | None = None
    """Of a broker: the result store where the settings name none; `{broker}` is its own URL."""

    suggested_backend: str | None = None
    """Of a broker without a `default_backend`: the result store that messages suggest."""

    peek_cost: str | None = None
    """Of a broker that shows a message only by leasing it: the sentence that warns users."""

    no_scheduler: str | None = None
    """Of a cloud whose scheduler cannot send to queues: what to do instead."""

    loggers: Sequence[str] = ()
    """The SDK's loggers, of which only warnings and errors are shown."""

    tariff: str | None = None
    """The `cloudq.driver.billing.Tariff` of its calls, as `module:name`; None: they are free."""

    local_file: str | None = None
    """Of what lies in a file that is made at its first use: its path, by a function of the URL's
    `Address`, as `module:name`."""

    def to_install(self, entry: EntryPoint) -> str | None:
        """Return the argument of `pip install` that brings the SDK of an entry point's adapter."""
        if self.extra is None or entry.distribution is None:
            return None
        return f'"{entry.distribution}[{self.extra}]"'

    def load_tariff(self) -> Tariff | None:
        """Return the tariff; the module that has it is imported now."""
        if self.tariff is None:
            return None
        module, _, name = self.tariff.partition(":")
        return getattr(import_module(module), name)


_NOTHING = Adapter()


def adapter(url: str) -> Adapter:
    """Return the declaration for a URL's scheme; an `Adapter` without facts if there is none."""
    return _of(url.partition(":")[0].lower())


def declared() -> Iterator[tuple[EntryPoint, Adapter]]:
    """Yield the declarations of all installed adapters, each with its entry point."""
    for entry in entry_points(_GROUP):
        yield entry, _read(entry)


def default_backend(broker: str) -> str | None:
    """Return the URL of the result store that a broker brings along; None if it brings none."""
    template = adapter(broker).default_backend
    return None if template is None else template.replace("{broker}", broker)


# Asked for each publish; what is installed does not change while a process runs.
@cache
def _of(scheme: str) -> Adapter:
    for entry in entry_points(_GROUP):
        if entry.name == scheme:
            return _read(entry)
    return _NOTHING


def _read(entry: EntryPoint) -> Adapter:
    try:
        found = entry.load()
    except ModuleNotFoundError:  # a bundle without this adapter: opening its driver says so
        return _NOTHING
    return found
