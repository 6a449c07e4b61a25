"""The embedded broker and backend in a SQLite file: `sqlite:///relative.db`, many processes."""

from __future__ import annotations

from cloudq.driver import Address
from cloudq.errors import ConfigurationError
from cloudq_local.options import check_options, choice, seconds
from cloudq_local.sqlite_backend import SQLiteBackend
from cloudq_local.sqlite_broker import SQLiteBroker
from cloudq_local.sqlite_file import Database
from cloudq_local.sqlite_paths import database_file
from cloudq_local.wake import Bell

OPTIONS = ("synchronous", "busy_timeout", "keep_dead")

_DEAD_KEPT = 14 * 86_400.0  # as long as on SQS, whose longest time it is


def open_broker(address: Address) -> SQLiteBroker:
    """Open the broker in a file, which is made when it is not there.

    Options: `synchronous` (`full`, the default, survives a power loss; `normal` may lose the
    last moments to one, but nothing to a crash of the process; `off`), and `busy_timeout`, how
    many seconds to wait for another process that writes (10), and `keep_dead`, how many seconds
    dead letters are kept (1,209,600, two weeks; 0 keeps them for ever).
    """
    return SQLiteBroker(*_open(address))


def open_backend(address: Address) -> SQLiteBackend:
    """Open the backend in a file, which may be the broker's; options as for `open_broker`."""
    return SQLiteBackend(*_open(address))


def _open(address: Address) -> tuple[Database, Bell]:
    check_options(address, OPTIONS)
    if address.host or not address.path:
        raise ConfigurationError(
            "a SQLite address is sqlite:///relative/file.db or sqlite:////absolute/file.db"
        )
    file = database_file(address.path)
    database = Database(
        file,
        synchronous=choice(address, "synchronous", ("full", "normal", "off"), "full"),
        busy_timeout=seconds(address, "busy_timeout", 10.0),
        keep_dead=seconds(address, "keep_dead", _DEAD_KEPT),
    )
    try:
        return database, Bell(file)
    except BaseException:
        database.close()
        raise
