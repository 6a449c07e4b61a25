"""A PostgreSQL of a test's own: Debian's, on a free port of 127.0.0.1, by a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from cloudq.testing import eventually
from tests.servers import SERVER, lacking

_UNPRIVILEGED = "nobody"


def programs() -> Path:
    """Return the folder of PostgreSQL's programs. Skip the test without them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    here = shutil.which("initdb")
    if here is None:
        lacking("no PostgreSQL: on Debian, apt-get install postgresql")
    return Path(here).parent


@contextmanager
def running() -> Generator[dict[str, Any]]:
    """Run a server for a block; yields the parameters of a connection to it."""
    sys.audit(SERVER, "PostgreSQL")
    bin = programs()
    root = os.getuid() == 0
    # Not in pytest's folder, which none but its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="cloudq-postgres-", dir="/tmp"))
    user: dict[str, Any] = {}
    if root:
        nobody = pwd.getpwnam(_UNPRIVILEGED)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data, log = folder / "data", (folder / "log").open("wb")
    try:
        with log:
            made = [bin / "initdb", "-D", data, "-U", "cloudq", "-A", "trust", "-E", "UTF8", "-N"]
            subprocess.run(made, check=True, stdout=log, stderr=log, cwd=folder, **user)
            port = _free_port()
            options = ["-p", f"{port}", "-h", "127.0.0.1", "-k", folder, "-F"]
            command = [bin / "postgres", "-D", data, *options]
            with subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user) as server:
                try:
                    given = {"host": "127.0.0.1", "port": port, "user": "cloudq"}
                    given["dbname"] = "postgres"
                    eventually(lambda: _answers(given))
                    yield given
                finally:
                    server.send_signal(signal.SIGINT)  # at once, and in order
                    server.wait(60)
    finally:
        shutil.rmtree(folder)


def _answers(given: dict[str, Any]) -> bool:
    try:
        psycopg.connect(**given).close()
    except psycopg.OperationalError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
