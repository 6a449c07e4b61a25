"""A SQLite file that is deleted, moved or replaced while a worker works on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.testing.waiting import PATIENCE
from tests.worker.harness import Place, until

ONE = ("--processes", "1", "--threads", "1")


def delete(file: Path) -> None:
    for each in file.parent.glob(file.name + "*"):
        each.unlink()


def move(file: Path) -> None:
    file.rename(file.with_name("elsewhere.db"))


def replace(file: Path) -> None:
    delete(file)
    url = f"sqlite:///{file}"
    with CloudQ("other", broker=url, backend=url) as other:
        other.send_task("drill_tasks.pid")


@pytest.mark.parametrize("lose", [delete, move, replace])
def test_a_worker_whose_file_is_lost_says_so_and_takes_the_new_one(
    sqlite_place: Place, lose: Callable[[Path], None]
) -> None:
    worker = sqlite_place.start(*ONE)
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    lose(sqlite_place.folder / "cloudq.db")
    said = "was replaced while it was in use" if lose is replace else "was deleted while it was in"
    until(lambda: said in worker.log() or "replaced while" in worker.log(), what="it says so")
    # The app of this process has the old file open too, and notices it by itself.
    again = sqlite_place.app.send_task("drill_tasks.pid")
    assert again.get(timeout=PATIENCE)
    assert "Traceback" not in worker.log()
    assert worker.stop() == 0


def test_a_task_that_runs_while_the_file_is_lost_ends(sqlite_place: Place) -> None:
    worker = sqlite_place.start(*ONE)
    held = sqlite_place.app.send_task("drill_tasks.hold", ["held"])
    until(lambda: "start held" in sqlite_place.entries(), what="it has started")
    delete(sqlite_place.folder / "cloudq.db")
    sqlite_place.let_go()
    # Its message is gone, its result is in the new file, and the worker is free for the next.
    assert held.get(timeout=PATIENCE) == "held"
    assert sqlite_place.app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
    assert "Traceback" not in worker.log()
    assert worker.stop() == 0


def test_a_worker_without_its_folder_says_why_and_goes_on_when_it_is_back(
    sqlite_place: Place, tmp_path: Path
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    url = f"sqlite:///{folder}/cloudq.db"
    with CloudQ("drills", broker=url, backend=url) as app:
        place = Place(app=app, broker=url, backend=url, queue="default", folder=tmp_path)
        try:
            worker = place.start(*ONE)
            assert app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
            folder.rename(tmp_path / "away")
            until(lambda: "cannot open" in worker.log(), what="it says why")
            folder.mkdir()
            assert app.send_task("drill_tasks.pid").get(timeout=PATIENCE)
            assert worker.stop() == 0
        finally:
            for each in place.workers:
                each.end()
