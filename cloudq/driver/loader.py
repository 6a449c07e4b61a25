"""Opens the driver of a URL: its scheme names an entry point of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from cloudq.driver import Address, BackendDriver, BrokerDriver
from cloudq.driver.adapters import adapter
from cloudq.driver.blobs import Blobs
from cloudq.driver.entry_points import EntryPoint, entry_points, forget
from cloudq.driver.forks import Whole
from cloudq.driver.keys import KeyService
from cloudq.errors import CloudQError, ConfigurationError, did_you_mean
from cloudq.text import describe, masked_url

# An adapter's first use imports its service's SDK, which takes a second or two.
_OPENING = Whole()


# Kinds whose users know them by another word, or whose URLs look different.
_WORDS = {"blob": "payload store", "key": "key service"}
_SAMPLES = {"blob": "file:///var/lib/payloads", "key": "awskms://KEY-ID"}


def parse(url: str, kind: str = "broker") -> Address:
    """Take a broker's or a backend's URL apart. Raises `ConfigurationError`."""
    try:
        parts = urlsplit(url)
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError as error:
        raise ConfigurationError(f"{_quoted(url)} is not a URL: {error}") from error
    if not parts.scheme or "://" not in url or " " in parts.netloc:
        sample = _SAMPLES.get(kind, "sqlite:///cloudq.db")
        raise ConfigurationError(f"{_quoted(url)} is not a URL such as {sample}")
    if "#" in url:  # what follows would be left out, be it of a file's name or of a password
        raise ConfigurationError(f'{_quoted(url)} has a "#": write it as %23')
    return Address(
        scheme=parts.scheme,
        host=unquote(parts.netloc),
        path=unquote(parts.path.removeprefix("/")),
        options=options,
        url=url,
    )


def _quoted(url: str) -> str:
    """Quote a text that is no URL, without what may be a user and a password in it."""
    return f'"{masked_url(url)}"'


def open_broker(url: str) -> BrokerDriver:
    """Open the driver of a broker URL. Raises `ConfigurationError`."""
    return _open("broker", parse(url))


def open_backend(url: str) -> BackendDriver:
    """Open the driver of a backend URL. Raises `ConfigurationError`."""
    return _open("backend", parse(url))


def open_scheduler(url: str) -> object:
    """Open the `cloudq.driver.schedulers.SchedulerDriver` of a URL. Raises `ConfigurationError`."""
    return _open("scheduler", parse(url))


def open_blobs(url: str) -> Blobs:
    """Open the driver of a blob store's URL. Raises `ConfigurationError`."""
    return _open("blob", parse(url, "blob"))


def open_keys(url: str) -> KeyService:
    """Open the driver of a key in a key service. Raises `ConfigurationError`."""
    return _open("key", parse(url, "key"))


def missing_file(url: str) -> Path | None:
    """Return the path of the file behind a URL if it is not there yet; None for all other URLs."""
    file = _local_file(url)
    return None if file is None or file.exists() or file.is_symlink() else file


def default_payloads(url: str) -> str | None:
    """Return the URL of the store of large payloads beside a broker's file; None without one."""
    file = _local_file(url)
    if file is None:
        return None
    host = "" if file.is_absolute() else "./"
    return f"file://{host}{quote(str(file))}-payloads"


def _local_file(url: str) -> Path | None:
    named = adapter(url).local_file
    if named is None:
        return None
    module, _, name = named.partition(":")
    file: Path | None = getattr(import_module(module), name)(parse(url))
    return file


def check_scheme(kind: str, url: str) -> None:
    """Refuse a URL that no adapter is installed for. Raises `ConfigurationError`."""
    _find(kind, parse(url).scheme)


def installed(kind: str) -> Sequence[EntryPoint]:
    """Return the entry points of a kind, by name.

    The kinds are "broker", "backend", "scheduler", "blob", "key" and "format".
    """
    return entry_points(f"cloudq.{kind}s")


def _open(kind: str, address: Address) -> Any:
    try:
        with _OPENING:
            return _opened(kind, address)
    except ConfigurationError as error:
        if "@" not in address.host:
            raise
        hidden = _quoted(address.host)[1:-1]
        raise ConfigurationError(str(error).replace(address.host, hidden)) from None
    except CloudQError:
        raise
    except Exception as error:  # whatever a service's SDK raises before it has a driver
        raise ConfigurationError(
            f"cannot open the {kind} {masked_url(address.url)}: {describe(error)}"
        ) from error


def _opened(kind: str, address: Address) -> Any:
    """Load an adapter and open it; it may import the SDK of its service as late as then."""
    entry = _find(kind, address.scheme)
    try:
        return entry.load()(address)
    except ModuleNotFoundError as error:
        package = adapter(address.scheme).to_install(entry) or error.name
        raise ConfigurationError(
            f'the {kind} "{address.scheme}://" needs the package {error.name}: '
            f"pip install {package}"
        ) from error


def _find(kind: str, scheme: str) -> EntryPoint:
    found = {entry.name: entry for entry in installed(kind)}
    if scheme not in found:
        forget()  # it may have been installed since, as in a notebook
        found = {entry.name: entry for entry in installed(kind)}
    if scheme not in found:
        hint = f"{did_you_mean(scheme, found)} installed: {', '.join(found)}".lstrip()
        raise ConfigurationError(f'no {_WORDS.get(kind, kind)} for "{scheme}://": {hint}')
    return found[scheme]
