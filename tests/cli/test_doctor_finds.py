"""`cloudq doctor` finds a full disk, and says of SQLite what to do about one file."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.errors import BackendError, BrokerError
from cloudq.testing.waiting import PATIENCE

CLOUDS = ("region", "credentials", "network", "permission named")


def _doctor(folder: Path, *more: str) -> tuple[int, str]:
    # A limit on the size of files stands for a disk without room: both refuse to let a file grow.
    limited = (
        "import resource, sys; from cloudq.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "doctor", "--broker", "sqlite:///x.db", *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout


def test_a_file_that_cannot_grow_is_found(tmp_path: Path) -> None:
    with CloudQ(broker=f"sqlite:///{tmp_path / 'x.db'}") as app:
        app.broker.driver.send("default", [])
    code, out = _doctor(tmp_path, "--json")
    assert code == 1
    checks = {each["what"]: each for each in json.loads(out)["checks"]}
    found = checks["broker file"]
    assert found["status"] == "fail"
    assert "cannot grow" in found["detail"]
    assert "free some space" in found["detail"]
    assert "no problems" not in _doctor(tmp_path)[1]


def test_a_file_with_room_is_well_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["queues", "create", "default", "--broker", "sqlite:///x.db"]) == 0
    capsys.readouterr()
    for _ in range(2):
        assert main(["doctor", "--broker", "sqlite:///x.db", "--json"]) == 0
        checks = json.loads(capsys.readouterr().out)["checks"]
        assert "written and deleted" in str(checks)
    with closing(sqlite3.connect("x.db")) as file:
        assert file.execute("SELECT count(*) FROM items").fetchone() == (0,)
    assert {path.name for path in tmp_path.iterdir()} <= {"x.db", "x.db-wal", "x.db-shm"}


def test_errors_of_sqlite_advise_about_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with CloudQ(broker=f"sqlite:///{file}") as app:
        add = app.task(name="add")(_add)
        add.delay(1)
        database = app.broker.driver._database  # pyright: ignore
        database.execute("PRAGMA max_page_count = 1")
        # A file that may not grow: SQLite's own "database or disk is full".
        with pytest.raises(BrokerError, match="its disk is full: free some space") as full:
            add.delay("x" * 1_000_000)
        backend = app.backend
        assert backend is not None
        database.execute("DROP TABLE items")
        with pytest.raises(BackendError, match="SQLite refused it - no such table") as dropped:
            backend.record("x")
        database.execute("PRAGMA query_only = 1")
        with pytest.raises(BrokerError, match="this user may not write to the file") as denied:
            add.delay(1)
    for error in (full, dropped, denied):
        assert not [word for word in CLOUDS if word in str(error.value)]


def _add(x: object) -> None: ...


@pytest.mark.parametrize(
    "url", ["u:hunter2@h", "sqs:// u:hunter2@x", "sqs://eu-west-1#key=hunter2"]
)
@pytest.mark.parametrize("name", ["BROKER", "BACKEND", "SCHEDULER"])
def test_no_password_of_a_malformed_url_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, url: str
) -> None:
    monkeypatch.setenv("CLOUDQ_BROKER", "memory://shown")
    monkeypatch.setenv(f"CLOUDQ_{name}", url)
    main(["doctor"])
    said = "".join(capsys.readouterr())
    assert f"setting {name.lower()}" in said
    assert "hunter2" not in said
