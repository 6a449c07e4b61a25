"""`cloudq celery`: each option of Celery's command line is carried over, ignored or refused."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from cloudq import ConfigurationError
from cloudq.cli.celery.help import help_of
from cloudq.cli.celery.reading import asked, found
from cloudq.cli.celery.rules import By, Fate, Rule
from cloudq.cli.celery.table import COMMANDS, EVERYWHERE, OPTIONS
from cloudq.cli.pidfile import holder
from cloudq.cli.program import program
from cloudq.settings import DECLARED
from cloudq.testing import eventually
from cloudq.testing.waiting import PATIENCE

HERE = Path(__file__).parent
SHOP = HERE.parents[1] / "examples" / "celery_shop"
# The commands and options of Celery 5.7, as celery_options.py prints them.
RECORDED = (HERE / "celery_options.txt").read_text()
PYTHON = os.environ.get("CELERY_PYTHON") or (sys.executable if find_spec("celery") else None)
HOST = socket.gethostname()

Spelling = tuple[str, str, str]


def spellings_of_celery() -> set[Spelling]:
    known: set[Spelling] = set()
    for line in RECORDED.splitlines():
        path, _, said = line.partition(":")
        command = path.removeprefix("celery").strip()
        kind, *names = said.split() or [""]
        known |= {(command, kind, name) for name in names}
    return known


def spellings_of_the_table() -> set[Spelling]:
    tables: Mapping[str, Sequence[Rule]] = {"": EVERYWHERE, **OPTIONS}
    return {
        (command, "value" if rule.takes else "flag", name)
        for command, rules in tables.items()
        for rule in rules
        for name in rule.names
    }


def test_every_option_of_celery_has_a_fate_and_no_other() -> None:
    theirs, ours = spellings_of_celery(), spellings_of_the_table()
    refused = {each.name for each in COMMANDS if each.why}
    wanted = {each for each in theirs if each[0] not in refused}
    assert len(wanted) > 100
    assert ours == wanted


def test_every_command_of_celery_has_a_fate_and_no_other() -> None:
    paths = {
        line.partition(":")[0].removeprefix("celery").strip() for line in RECORDED.splitlines()
    }
    leaves = {path for path in paths if not any(p.startswith(f"{path} ") for p in paths)} - {""}
    assert {each.name for each in COMMANDS} == leaves
    assert {each.name for each in COMMANDS if not each.why} == OPTIONS.keys()


@pytest.mark.skipif(PYTHON is None, reason="needs Celery, or CELERY_PYTHON that has it")
def test_what_was_recorded_is_what_celery_has() -> None:
    done = subprocess.run(
        [str(PYTHON), str(HERE / "celery_options.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout == RECORDED


RULES = [(command, rule) for command, rules in OPTIONS.items() for rule in (*EVERYWHERE, *rules)]
CARRIED = [each for each in RULES if each[1].fate is Fate.CARRIED]


def test_what_is_not_carried_over_says_why() -> None:
    short = [rule.name for _, rule in RULES if rule.fate is not Fate.CARRIED and len(rule.why) < 15]
    assert short == []


@pytest.mark.parametrize(
    ("command", "rule"), CARRIED, ids=[f"{name} {rule.name}" for name, rule in CARRIED]
)
def test_what_carries_an_option_exists(command: str, rule: Rule) -> None:
    made = next(each for each in COMMANDS if each.name == command)
    if rule.by is By.SETTING:
        assert rule.to in DECLARED
    elif rule.by is By.OPTION and made.to:
        place = typer.main.get_command(program([made.to[0]]))
        for word in [word for word in made.to if not word.startswith("-")]:
            inner = getattr(place, "commands", {})
            place = inner.get(word, place)
        assert rule.to in {name for each in place.params for name in each.opts}


@pytest.mark.parametrize(
    ("line", "words", "settings"),
    [
        ("-A proj worker --loglevel INFO", "--log-level info", {}),
        ("-A proj worker -linfo -c4", "--log-level info --processes 4", {}),
        ("worker --loglevel=CRITICAL", "--log-level error", {}),
        ("worker -P prefork --concurrency=4", "--pool processes --processes 4", {}),
        ("worker -P gevent -c 500", "--pool gevent --processes 500", {}),
        ("worker -c auto -O fair --prefetch-multiplier 1", "", {}),
        ("worker -EB", "--beat", {"task_events": "tracked"}),
        ("worker --events", "", {"task_events": "tracked"}),
        ("worker -Q a,b -X c", "--queues a,b --exclude-queues c", {}),
        ("worker --autoscale=10,0", "--autoscale 10,1", {}),
        ("worker --autoscale 8", "--autoscale 8,1", {}),
        ("worker --time-limit=300", "", {"task_time_limit": 300.0}),
        ("worker --soft-time-limit 0.5", "", {"task_soft_time_limit": 0.5}),
        ("worker -I a,b.c", "", {"include": ["a", "b.c"]}),
        ("worker --heartbeat-interval 4", "", {"worker_heartbeat": 4.0}),
        ("worker --pool-start-method spawn", "", {"worker_fork": False}),
        ("worker -n w1@%h", f"--hostname w1@{HOST}", {}),
        ("worker -n w1", "--hostname celery@w1", {}),
        ("worker --max-tasks-per-child 100", "--max-tasks-per-child 100", {}),
        ("worker --max-memory-per-child=200000", "--max-memory-per-child 200000", {}),
        ("worker --without-gossip --without-mingle --disable-prefetch", "", {}),
        ("worker -q --skip-checks", "", {}),
        ("worker --scheduler celery.beat:PersistentScheduler", "", {}),
        ("beat -l debug", "--log-level debug", {}),
        ("call t -a [1] -k {} --countdown 5", "--args [1] --kwargs {} --countdown 5", {}),
        ("call t --serializer json --queue q", "--queue q", {}),
        ("inspect active -t 60 -d a@h,b@h -j", "--timeout 60.0 --destination a@h,b@h --json", {}),
        ("inspect active -t 1", "--timeout 10.0", {}),
        ("migrate sqlite:///a sqlite:///b -Q a,b -n 5", "--queue a --queue b --limit 5", {}),
        ("events --dump -F 2", "", {}),
    ],
)
def test_options_become_those_of_cloudq(line: str, words: str, settings: dict[str, object]) -> None:
    made = asked(line.split(), {})
    assert (made.words, made.settings) == (words.split(), settings)


@pytest.mark.parametrize(
    ("line", "notes"),
    [
        ("worker --prefetch-multiplier=4", ["worker_prefetch_seconds"]),
        ("worker -S state.db -s beat.db", ["--statedb state.db", "--schedule-filename beat.db"]),
        ("worker --without-heartbeat", ["worker_heartbeat=0"]),
        ("beat --max-interval 5 -s beat.db", ["--max-interval 5", "--schedule beat.db"]),
        ("status -t 5", ["the store is read"]),
        ("worker -O fair --without-gossip -q", []),
    ],
)
def test_an_ignored_option_is_told_in_one_line(line: str, notes: list[str]) -> None:
    made = asked(line.split(), {}).notes
    assert len(made) == len(notes)
    for note, part in zip(made, notes, strict=True):
        assert part in note
        assert "\n" not in note


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("worker -P eventlet", "use gevent, asyncio or threads"),
        ("worker -P custom", "give one of prefork"),
        ("worker --loglevel loud", "give one of DEBUG"),
        ("worker --time-limit soon", "seconds above 0"),
        ("worker --executable /usr/bin/python", "own Python"),
        ("worker --concurency 4", "did you mean --concurrency?"),
        ("worker extra", "one word too many"),
        ("worker worker.direct=1", "CLOUDQ_"),
        ("worker -c", "requires argument"),
        ("wroker", "did you mean worker?"),
        ("beat -S django_celery_beat.schedulers:DatabaseScheduler", "cloudq schedules"),
        ("--config celeryconfig worker", "config_from_object"),
        ("--loader my.Loader worker", "include="),
        ("call t --exchange e --routing-key r", "--exchange e: there are no exchanges"),
        ("events --camera my.Camera", "cloudq events --json"),
        ("migrate a b --forever", "run it again"),
        ("amqp queue.purge q", "cloudq queues"),
        ("logtool errors a.log", "cloudq tasks"),
        ("graph bootsteps", "no boot steps"),
        ("upgrade settings a.py", "nothing to rewrite"),
        ("upgrade", "give one of upgrade settings"),
        ("--concurrency 4 worker", "options follow the command"),
    ],
)
def test_a_refusal_says_what_to_do(line: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        asked(line.split(), {})
    assert part in str(caught.value)


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        asked(["worker", "-P", "eventlet", "--scheduler", "x.Y"], {})
    assert "eventlet" in str(caught.value)
    assert "--scheduler x.Y" in str(caught.value)


def test_options_of_the_environment_stand_below_those_of_the_line() -> None:
    variables = {
        "APP": "proj",
        "CELERY_WORKER_CONCURRENCY": "8",
        "CELERY_WORKER_TASK_EVENTS": "1",
        "CELERY_WORKER_BEAT": "false",
        "CELERY_BEAT_LOGLEVEL": "DEBUG",
        "BROKER_URL": "sqlite:///a.db",
    }
    made = asked(["-b", "sqlite:///b.db", "worker", "-c", "4"], variables)
    assert made.named == {"--app": "proj", "--broker": "sqlite:///b.db"}
    assert made.words == ["--processes", "8", "--processes", "4"]
    assert made.settings == {"task_events": "tracked"}


def test_global_options_stand_before_and_behind_the_command() -> None:
    for line in ("-A worker -C worker -E", "--app=worker worker -C -E", "worker -A worker -CE"):
        made = asked(line.split(), {})
        assert made.command is not None
        assert (made.command.name, made.named) == ("worker", {"--app": "worker"})
        assert made.steps == {"no_color": ""}


def test_an_app_is_found_where_celery_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proj").mkdir()
    for name in ("__init__", "celery", "tasks"):
        (tmp_path / "proj" / f"{name}.py").write_text("")
    (tmp_path / "alone.py").write_text("")
    assert found("proj") == "proj.celery"
    assert found("proj.celery") == "proj.celery"
    assert found("proj.tasks") == "proj.tasks"
    assert found("proj.celery_app") == "proj:celery_app"
    assert found("proj.tasks.app") == "proj.tasks:app"
    assert found("alone") == "alone"
    assert found("alone:app") == "alone:app"


def test_help_lists_each_option_of_a_command() -> None:
    for command in (None, *COMMANDS):
        said = help_of(command)
        rules = OPTIONS.get(command.name, ()) if command is not None else EVERYWHERE
        assert [rule.name for rule in rules if f" {', '.join(rule.names)} " not in said] == []


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Path]:
    """A copy of the shop; workers that it left in the background end with the test."""
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", "*.db", "*.txt"))
    yield folder
    for file in folder.rglob("*.pid"):
        pid = holder(file)
        if pid is not None:
            os.kill(pid, 9)


def celery(folder: Path, line: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of Celery's, which begins with `celery`, in the shop."""
    return subprocess.run(
        [sys.executable, "-m", "cloudq", *line.split()],
        cwd=folder,
        env={**os.environ, "CLOUDQ_WORKER_POLL_WAIT": "1", "COLUMNS": "200"},
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def stopped(folder: Path, line: str, *names: str) -> None:
    done = celery(folder, line)
    assert done.returncode == 0, done.stderr
    assert [holder(folder / f"{name}.pid") for name in names] == [None] * len(names)


def test_a_worker_of_the_shop_in_the_background(shop: Path) -> None:
    line = (
        "celery -A shop.app worker -D --loglevel=INFO -c 1 -P prefork -E -O fair -Q shop "
        "--pidfile=%n.pid --logfile=logs-%n%I.txt --umask 077 -n w1@%h --soft-time-limit 60 -S s.db"
    )
    done = celery(shop, line)
    assert done.returncode == 0
    assert "--statedb s.db is ignored" in done.stderr
    log = shop / "logs-w1.txt"
    eventually(lambda: log.exists() and "is ready" in log.read_text())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    sent = celery(shop, "celery -A shop.app call shop.reports.add -a [1,2]")
    id = sent.stdout.strip()
    assert celery(shop, f"celery -A shop.app result {id}").stdout == "3\n"
    assert celery(shop, f"celery -A shop.app result --traceback {id}").stdout.strip() == "None"
    told = celery(shop, "celery -A shop.app inspect conf -j -t 1").stdout
    assert '"task_soft_time_limit": 60.0' in told
    assert '"task_events": "tracked"' in told
    assert f"w1@{HOST}" in celery(shop, "celery -A shop.app status").stdout
    done = celery(shop, "celery -A shop.app control shutdown")
    assert done.returncode == 0, done.stderr
    eventually(lambda: holder(shop / "w1.pid") is None)


def test_events_are_dumped_as_celerys_are_asked_for(shop: Path) -> None:
    celery(shop, "celery -A shop.app call shop.reports.add -a [1,2]")
    command = [sys.executable, "-m", "cloudq", "celery", "-A", "shop.app", "events", "-d"]
    with subprocess.Popen(command, cwd=shop, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stderr is not None
        said = next(line for line in shown.stderr if "waiting for events" in line)
        shown.terminate()
    assert "Ctrl-C" in said


def test_several_workers_of_the_shop(shop: Path) -> None:
    files = "--pidfile=%n.pid --logfile=%n%I.txt"
    options = f"{files} -l INFO -c 1 -Q:1 billing -Q:red shop"
    start = celery(shop, f"celery -A shop.app multi start 1 {options}")
    assert start.returncode == 0, start.stderr
    assert "celery1: started" in start.stdout
    red = celery(shop, f"celery multi start red -A shop.app {files} --loglevel=INFO -c 1 -Q shop")
    assert "red: started" in red.stdout, red.stderr
    again = celery(shop, f"celery multi restart red -A shop.app {files} --loglevel=INFO -c 1")
    assert again.stdout.count("red: ") == 2
    assert celery(shop, "celery multi names 2").stdout == "celery1\ncelery2\n"
    assert celery(shop, "celery multi expand x-%n a b").stdout == "x-a\nx-b\n"
    wrong = celery(shop, f"celery multi start blue -A shop.app {files} -P eventlet")
    assert wrong.returncode == 2
    assert "eventlet" in wrong.stderr
    assert not (shop / "blue.txt").exists()
    stopped(shop, f"celery multi stopwait celery1 red {files}", "celery1", "red")
    assert celery(shop, f"celery multi stop red -QUIT {files}").returncode == 2


def test_queues_are_purged(shop: Path) -> None:
    for queue in ("shop", "billing"):
        celery(shop, f"celery -A shop.app call shop.reports.add -a [1,2] --queue {queue}")
    refused = celery(shop, "celery -A shop.app purge -Q shop", typed="n\n")
    assert refused.returncode == 1
    done = celery(shop, "celery -A shop.app purge -f -X billing")
    assert done.stdout == "deleted 1 message of 1 queue\n", done.stderr
    done = celery(shop, "celery -A shop.app purge", typed="y\n")
    assert done.stdout.strip() == "deleted 1 message of 2 queues"


def test_a_worker_that_purges_first_leaves_out_what_it_does_not_consume(shop: Path) -> None:
    for queue in ("shop", "billing"):
        celery(shop, f"celery -A shop.app call shop.reports.add -a [1,2] --queue {queue}")
    files = "--pidfile=%n.pid --logfile=%n.txt"
    done = celery(shop, f"celery -A shop.app multi start a {files} -l INFO -c 1 --purge -X billing")
    assert done.returncode == 0, done.stderr
    eventually(lambda: "queues   shop\n" in (shop / "a.txt").read_text())
    assert "deleted 1 message of 1 queue" in (shop / "a.txt").read_text()
    stopped(shop, f"celery multi stopwait a {files}", "a")
    done = celery(shop, "celery -A shop.app purge -f")
    assert done.stdout == "deleted 1 message of 2 queues\n"


def test_shell_and_report_know_the_app(shop: Path) -> None:
    typed = "print(app.main if hasattr(app, 'main') else app.name, add(1, 2), group)\n"
    done = celery(shop, "celery -A shop.app shell --python", typed=typed)
    assert done.returncode == 0, done.stderr
    assert "shop 3" in done.stdout
    assert "NameError" in celery(shop, "celery -A shop.app shell -T", typed="add\n").stderr
    told = celery(shop, "celery --app shop.app report")
    assert "software -> cloudq:" in told.stdout
    assert "timezone: 'Europe/Vienna'" in told.stdout


def test_a_beat_in_the_background_in_a_folder(shop: Path) -> None:
    line = f"celery -A shop.app --workdir {shop} beat --detach -l INFO -f b.txt --pidfile=b.pid"
    done = celery(shop.parent, f"{line} -s old.db")
    assert done.returncode == 0, done.stderr
    assert "--schedule old.db is ignored" in done.stderr
    eventually(lambda: "beat of shop, 2 schedules" in (shop / "b.txt").read_text())
    pid = holder(shop / "b.pid")
    assert pid is not None
    os.kill(pid, 15)
    eventually(lambda: holder(shop / "b.pid") is None)


def test_include_adds_to_the_apps_own(shop: Path) -> None:
    (shop / "more.py").write_text(
        "from shop.app import app\n\n\n@app.task(name='more')\ndef more():\n    return 'more'\n"
    )
    files = "--pidfile=%n.pid --logfile=%n.txt"
    done = celery(shop, f"celery -A shop.app multi start a {files} -l INFO -c 1 -I more")
    assert done.returncode == 0, done.stderr
    eventually(lambda: "tasks    13: more, shop.billing" in (shop / "a.txt").read_text())
    id = celery(shop, "celery -A shop.app call more --queue shop").stdout.strip()
    assert celery(shop, f"celery -A shop.app result {id}").stdout == "more\n"
    stopped(shop, f"celery multi stop a {files}", "a")
