"""The sockets of listeners: made once, renamed for the next, and left behind by nobody."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cloudq.testing.waiting import PATIENCE
from cloudq_local.wake import Bell

TOPIC, OTHER = "topic", "other"


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    with closing(Bell(tmp_path / "queue.db")) as bell:
        yield bell


def names(bell: Bell) -> list[str]:
    return sorted(each.name for each in bell._folder.iterdir())  # pyright: ignore


def test_the_next_listener_gets_the_socket_of_one_that_has_ended(bell: Bell) -> None:
    with bell.listen(TOPIC) as first:
        number = first.fileno()
    for topic in (TOPIC, OTHER):
        with bell.listen(topic) as ear:
            assert ear.fileno() == number
            bell.ring(topic)
            assert ear.wait(0)
    with bell.listen(TOPIC) as one, bell.listen(TOPIC) as two:
        assert one.fileno() != two.fileno()
        bell.ring(TOPIC)
        assert (one.wait(0), two.wait(0)) == (True, True)


def test_a_socket_at_rest_is_not_rung_and_keeps_no_wake_up(bell: Bell) -> None:
    with bell.listen(TOPIC) as first:
        bell.ring(TOPIC)  # it is not waited for
    bell.ring(TOPIC)
    with bell.listen(TOPIC) as ear:
        assert ear.fileno() == first.fileno()
        assert not ear.wait(0)
        bell.ring(OTHER)
        assert not ear.wait(0)
        bell.ring(TOPIC)
        assert ear.wait(0)


def test_one_who_rang_where_nobody_was_wakes_who_comes_later(tmp_path: Path, bell: Bell) -> None:
    for _ in range(2):  # each listener takes the directory with it
        bell.ring(TOPIC)
        with closing(Bell(tmp_path / "queue.db")) as another, another.listen(TOPIC) as ear:
            assert not ear.wait(0)
            bell.ring(TOPIC)
            assert ear.wait(0)


def test_a_listener_that_is_closed_twice_takes_no_other_s_socket(bell: Bell) -> None:
    first = bell.listen(TOPIC)
    first.close()
    with bell.listen(TOPIC) as ear:
        first.close()
        first.wake()
        assert not ear.wait(0)
        bell.ring(TOPIC)
        assert ear.wait(0)


def test_few_sockets_are_kept_and_none_after_the_end(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "queue.db")
    late = bell.listen(TOPIC)
    for ear in [bell.listen(TOPIC) for _ in range(20)]:
        ear.close()
    assert 1 < len(names(bell)) < 12
    bell.close()
    assert len(names(bell)) == 1
    late.close()
    assert names(bell) == []


def test_where_the_directory_was_cleaned_up_a_new_socket_is_made(bell: Bell) -> None:
    with bell.listen(TOPIC) as first:
        folder = Path(first.path).parent
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    with bell.listen(TOPIC) as ear:
        bell.ring(TOPIC)
        assert ear.wait(0)


def test_one_that_lingers_misses_nothing(bell: Bell) -> None:
    first = bell.listen(TOPIC)
    path = first.path
    assert bell.listening(TOPIC) is None
    first.close(lingers=True)
    assert names(bell) == [Path(path).name]
    bell.ring(TOPIC)
    assert bell.listening(OTHER) is None
    ear = bell.listening(TOPIC)
    assert ear is not None
    assert ear.path == path
    assert bell.listening(TOPIC) is None
    assert ear.wait(0)
    assert not ear.wait(0)
    ear.close(lingers=True)
    bell.ring(TOPIC)
    with bell.listen(TOPIC) as new:  # it hears what comes from then on
        assert new.path == path
        assert not new.wait(0)
    assert names(bell) == [f"-{Path(path).name[-8:]}"]


def test_one_lingers_for_each_topic_and_none_after_the_end(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "queue.db")
    for topic in (TOPIC, TOPIC, OTHER):
        bell.listen(topic).close(lingers=True)
    two = [bell.listen(TOPIC) for _ in range(2)]
    for ear in two:
        ear.close(lingers=True)
    assert [name.startswith("-") for name in names(bell)] == [True, False, False]
    late = bell.listen(TOPIC)
    bell.close()
    late.close(lingers=True)
    assert names(bell) == []


def test_a_forked_process_leaves_one_that_lingers_to_its_parent(bell: Bell) -> None:
    bell.listen(TOPIC).close(lingers=True)
    child = os.fork()
    if child == 0:
        os._exit(0 if bell.listening(TOPIC) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    ear = bell.listening(TOPIC)
    assert ear is not None
    ear.close()


def rest(file: Path, pipe: Connection) -> None:
    """Keep a socket at rest until killed."""
    bell = Bell(file)
    bell.listen(TOPIC).close()
    pipe.send("ready")
    pipe.recv()


def test_what_a_killed_process_kept_is_cleaned_away_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=rest, args=(file, theirs))
    child.start()
    assert ours.recv() == "ready"
    with closing(Bell(file)) as bell:
        assert len(names(bell)) == 1
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with bell.listen(TOPIC):
            assert len(names(bell)) == 1


def test_a_forked_process_takes_no_wake_up_of_its_parent(bell: Bell) -> None:
    with bell.listen(TOPIC) as first:
        path = Path(first.path)
    child = os.fork()
    if child == 0:
        try:
            with bell.listen(TOPIC) as own:
                is_another = Path(own.path).name[-8:] != path.name[-8:]
            os._exit(0 if is_another else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    with bell.listen(TOPIC) as ear:
        assert Path(ear.path).name[-8:] == path.name[-8:], "the child has left it alone"
        bell.ring(TOPIC)
        assert ear.wait(0)


def test_an_app_that_nobody_closes_leaves_nothing_to_be_told(tmp_path: Path) -> None:
    program = f"""
import gc
from cloudq import CloudQ
from cloudq.testing import drain

app = CloudQ(broker="sqlite:///{tmp_path}/q.db")
work = app.task(name="work")(lambda: 1)
for closes in (True, False, False):
    result = work.delay()
    drain(app)
    assert result.get(timeout=60) == 1
    if closes:
        app.close()
work.delay()
try:
    app.AsyncResult("none").get(timeout=0.05)
except Exception:
    pass
del app, work, result
gc.collect()
"""
    words = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "unclosed <socket" not in done.stderr


def test_a_listener_that_ends_as_its_bell_is_closed_is_closed_too(tmp_path: Path) -> None:
    for lingers in (True, False):
        for _ in range(50):
            bell = Bell(tmp_path / "file")
            ears = [bell.listen(f"topic-{number}") for number in range(4)]
            threads = [
                threading.Thread(target=ear.close, kwargs={"lingers": lingers}) for ear in ears
            ]
            threads.insert(2, threading.Thread(target=bell.close))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [ear.path for ear in ears] == [""] * 4
