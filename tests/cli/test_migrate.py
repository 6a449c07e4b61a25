"""`cloudq migrate` as a person runs it: what it says, what it moves, and what a kill leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from cloudq import CloudQ
from cloudq.driver import Outgoing
from cloudq.driver import loader as plugins
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE
from tests.servers import unique

FULL = os.environ.get("CLOUDQ_DRILL") == "full"
FROM, TO = "sqlite:///a.db", "sqlite:///b.db"

Ids = Counter[str]


def publish(project: Path, count: int, *, delayed: int = 0, seconds: float = 600.0) -> Ids:
    """Queue tasks in `a.db`; their ids."""
    with CloudQ("shop", broker=f"sqlite:///{project}/a.db", backend="none") as app:
        add = app.task(name="shop.add")(lambda a, b: a + b)
        sent = app.publish([add.prepare(number, 1) for number in range(count)])
        sent += [add.apply_async((number, 2), countdown=seconds) for number in range(delayed)]
    return Counter(result.id for result in sent)


def inside(project: Path, name: str, queue: str = "default") -> Ids:
    driver: Any = plugins.open_broker(f"sqlite:///{project}/{name}")
    eventually(lambda: not driver.stats(queue).leased)
    found = Counter(peeked.id for peeked in driver.peek(queue, count=100_000))
    driver.close()
    return found


def journals(project: Path) -> list[Path]:
    return list(project.glob("cloudq-migrate-*.journal"))


# ---- what it does and says


def test_all_is_moved_and_audited(command, project):
    expected = publish(project, 25, delayed=4)
    ran = command("migrate", FROM, TO, "--yes")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[-1] == ("default: 29 at the source before, 29 moved (4 delayed), 0 left")
    assert inside(project, "b.db") == expected
    assert inside(project, "a.db") == Counter()
    assert not journals(project)
    again = command("migrate", FROM, TO, "--yes")
    assert (again.code, again.lines[-1]) == (
        0,
        "default: 0 at the source before, 0 moved, 0 left",
    )


def test_what_was_moved_runs_there(command, project):
    command("call", "shop.add", "2", "3", "-A", "shop:app", "-Q", "first")
    command("migrate", "sqlite:///shop.db", TO, "-Q", "first", "--map", "first=second", "--yes")
    args = ("-A", "shop:app", "-b", TO, "-Q", "second")
    worker = subprocess.Popen(
        [sys.executable, "-m", "cloudq", "worker", *args, "-c", "1", "-t", "1"],
        cwd=project,
        stderr=subprocess.DEVNULL,
    )
    try:
        stats = ("queues", "stats", "second", "-b", TO, "--json")
        eventually(lambda: not any(command(*stats).json[0][key] for key in ("ready", "running")))
        assert command(*stats).json[0]["dead"] == 0
    finally:
        worker.terminate()
        worker.wait(PATIENCE)


def test_a_dry_run_counts_by_task_and_changes_nothing(command, project):
    expected = publish(project, 3, delayed=2)
    driver = plugins.open_broker(f"sqlite:///{project}/a.db")
    driver.send("default", [Outgoing(id="x", body=b"hello")])
    driver.close()
    ran = command("migrate", FROM, TO, "--dry-run")
    assert ran.code == 0
    assert any(line.split() == ["default", "shop.add", "5"] for line in ran.lines)
    assert "1 of the 6 messages read will stay: no task message" in ran.err
    assert "nothing was moved" in ran.err
    read = command("migrate", FROM, TO, "--dry-run", "--json").json
    (queue,) = read["queues"]
    assert (queue["tasks"], queue["whole"], queue["stats"]["ready"]) == ({"shop.add": 5}, True, 4)
    assert inside(project, "a.db") == expected + Counter("x")
    assert inside(project, "b.db") == Counter()
    assert not journals(project)


def test_it_asks_first(command, project):
    expected = publish(project, 2)
    ran = command("migrate", FROM, TO)
    assert (ran.code, "add --yes" in ran.err) == (2, True)
    assert "Move 2 messages in 'default'" in ran.err
    assert inside(project, "a.db") == expected


def test_what_stays_makes_it_fail_and_is_told(command, project):
    publish(project, 2)
    driver = plugins.open_broker(f"sqlite:///{project}/a.db")
    driver.send("default", [Outgoing(id="x", body=b"hello")])
    driver.close()
    ran = command("migrate", FROM, TO, "--yes", "--json")
    (queue,) = ran.json["queues"]
    assert ran.code == 1
    assert (ran.json["complete"], queue["moved"], sum(queue["left"].values())) == (False, 2, 1)
    assert "left: default: 1: no task message: --raw moves it as it is" in ran.err
    assert command("migrate", FROM, TO, "--yes", "--raw").code == 0
    assert inside(project, "b.db").total() == 3


def test_a_limit_is_no_end(command, project):
    publish(project, 5)
    ran = command("migrate", FROM, TO, "--yes", "--limit", "2")
    assert (ran.code, "2 moved, not finished" in ran.out) == (1, True)
    assert "stopped at --limit" in ran.err
    assert len(journals(project)) == 1
    ran = command("migrate", FROM, TO, "--yes")
    assert (ran.code, "5 moved (2 in earlier runs), 0 left" in ran.out) == (0, True)


def test_wrong_use_is_one_line(command, project):
    publish(project, 1)
    for args, text in [
        ((FROM, "sqlite:///a.db"), "are one broker"),
        ((FROM, "sqlite:///./a.db"), "are one broker"),
        ((FROM, TO, "--map", "old"), "--map OLD=NEW"),
        ((FROM, TO, "--map", "old=new"), "not a queue to be moved"),
        ((FROM, "memory://x"), "within one process"),
        ((FROM, "sqss://x"), "did you mean sqs"),
        ((FROM, TO, "-b", TO), "without -b"),
        ((FROM, TO, "--journal", "no/such/folder"), "cannot open the journal"),
    ]:
        ran = command("migrate", *args, "--yes")
        assert (ran.code, text in ran.err, ran.err.count("\n")) == (2, True, 1), ran
    ran = command("migrate", FROM, "sqs://?endpoint_url=http://127.0.0.1:9", "--yes")
    assert (ran.code, "check the URL" in ran.err, ran.err.count("\n")) == (1, True, 1), ran
    assert inside(project, "a.db").total() == 1


def test_a_missing_queue_is_told_before_anything_moves(aws, command, project):
    expected = publish(project, 2)
    sqs = f"sqs://?endpoint_url={aws.url}&prefix={unique()}-"
    ran = command("migrate", FROM, sqs, "--yes")
    assert (ran.code, "no queue 'default'" in ran.err, "--create" in ran.err) == (2, True, True)
    assert inside(project, "a.db") == expected
    ran = command("migrate", sqs, FROM, "-Q", "gone", "--yes")
    assert (ran.code, "no queue 'gone'" in ran.err) == (2, True)
    ran = command("migrate", FROM, sqs, "--yes", "--create")
    assert (ran.code, "made queue 'default'" in ran.err) == (0, True)
    looked = command("migrate", sqs, FROM, "--dry-run")
    assert "each look counts as a delivery" in looked.err
    assert any(line.split() == ["default", "shop.add", "2"] for line in looked.lines)
    # What is delayed there is not shown, so it stays, and is counted.
    publish(project, 0, delayed=1)
    assert command("migrate", FROM, sqs, "--yes").code == 0
    back = command("migrate", sqs, FROM, "--yes")
    assert (back.code, "1 delayed message cannot be listed" in back.err) == (1, True)
    assert "--wait waits for it" in back.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_batch_at_hand(command, project, number):
    expected = publish(project, 2000)
    process = start(project, FROM, TO)
    eventually(lambda: journals(project))
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, (out, err)
    assert "interrupted, all held messages were released; run the same command again" in err
    stats = command("queues", "stats", "default", "-b", FROM, "--json").json[0]
    assert stats["running"] == 0
    assert stats["ready"] > 0
    assert inside(project, "a.db") + inside(project, "b.db") == expected
    ran = command("migrate", FROM, TO, "--yes")
    assert (ran.code, "2,000 at the source before, 2,000 moved" in ran.out) == (0, True)
    assert inside(project, "b.db") == expected


# ---- the drill


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One stop of the way: a broker's URL, and the options of the leg that starts there."""

    url: str
    options: tuple[str, ...] = ()


Open = Callable[[pytest.FixtureRequest, Path], Place]


def _first(request: pytest.FixtureRequest, folder: Path) -> Place:
    return Place(url=f"sqlite:///{folder}/a.db")


def _sqs(request: pytest.FixtureRequest, folder: Path) -> Place:
    aws = request.getfixturevalue("aws")
    # It cannot show what is delayed.
    return Place(url=f"sqs://?endpoint_url={aws.url}&prefix={unique()}-", options=("--wait",))


def _pubsub(request: pytest.FixtureRequest, folder: Path) -> Place:
    port = request.getfixturevalue("pubsub").port
    return Place(url=f"pubsub://cloudq-local?emulator=127.0.0.1:{port}&prefix={unique('m')}-")


def _servicebus(request: pytest.FixtureRequest, folder: Path) -> Place:
    url = request.getfixturevalue("servicebus").environment["CLOUDQ_BROKER"]
    return Place(url=f"{url}{'&' if '?' in url else '?'}prefix={unique('m')}-&lock=5")


def _last(request: pytest.FixtureRequest, folder: Path) -> Place:
    return Place(url=f"sqlite:///{folder}/z.db")


WAY: tuple[Open, ...] = (_first, _sqs, _pubsub, _servicebus, _last)


def start(project: Path, source: str, target: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cloudq", "migrate", source, target, "--yes", *options],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.drill
@pytest.mark.timeout(1800)
def test_killed_on_the_way_the_same_messages_arrive(
    request: pytest.FixtureRequest,
    project: Path,
    processes: list[subprocess.Popen[str]],
) -> None:
    count, delayed, kills = (4990 if FULL else 290), 10, 5
    dice = random.Random(5)
    expected = publish(project, count, delayed=delayed, seconds=20 if FULL else 8)
    places = [make(request, project) for make in WAY]
    legs = list(pairwise(places))
    survived: list[str] = []
    for number, (source, target) in enumerate(legs):
        options = ("--create", "--lease", "2", "--json", "-Q", "default", *source.options)
        for _ in range(kills // len(legs) + (number < kills % len(legs))):
            process = start(project, source.url, target.url, *options)
            processes.append(process)
            eventually(lambda p=process: journals(project) or p.poll() is not None)
            time.sleep(dice.random() * (4.0 if FULL else 0.2))
            process.kill()
            if process.wait() != -signal.SIGKILL:
                survived.append(source.url)
        process = start(project, source.url, target.url, *options)
        processes.append(process)
        out, err = process.communicate(timeout=4 * PATIENCE)
        assert process.returncode == 0, (source.url, target.url, out, err)
        (queue,) = orjson.loads(out)["queues"]
        print(f"{source.url} -> {target.url}: {queue}\n{err}")
        assert queue["moved"] in (count + delayed, 0)
        assert not journals(project)
    assert inside(project, "z.db") == expected
    assert inside(project, "a.db") == Counter()
    # Most kills came before the leg was done, or this would show little.
    assert len(survived) <= 2, survived


def test_the_app_reads_what_is_compressed(command, project):
    with CloudQ("shop", broker=f"sqlite:///{project}/a.db", backend="none") as app:
        app.send_task("shop.add", ("wide " * 300, 2), compression="zlib")
    ran = command("migrate", FROM, TO, "--yes")
    assert ran.code == 1
    assert "-A names the app that can read it" in ran.err
    (project / "forms.py").write_text("from cloudq import CloudQ\napp = CloudQ('shop')\n")
    ran = command("migrate", FROM, TO, "--dry-run", "-A", "forms:app")
    assert any(line.split() == ["default", "shop.add", "1"] for line in ran.lines), ran
    assert command("migrate", FROM, TO, "--yes", "-A", "forms:app").code == 0
