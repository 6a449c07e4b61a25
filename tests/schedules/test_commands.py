"""`cloudq schedules`: what each command prints, and what it changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import orjson
import pytest

from cloudq import solar
from cloudq.cli import main
from cloudq.schedules.entry import Entry
from cloudq.testing.waiting import PATIENCE
from localstack.servers import Endpoint
from tests.schedules.cloud_scheduler_server import serving_scheduler
from tests.servers import unique

SHOP = """
from cloudq import CloudQ, crontab, every

app = CloudQ("shop", broker="sqlite:///shop.db")


@app.periodic(crontab("30 2 * * *"), name="nightly", timezone="Europe/Vienna")
@app.periodic(every(900), name="often", args=("x",))
@app.task(name="tidy")
def tidy(what: str = "all") -> str:
    return what
"""
APP = ("-A", "shop:app")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command in a project of its own; exit code, output, errors."""
    name = unique("shop").replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main([word.replace("shop:app", f"{name}:app") for word in arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


def test_next_runs_are_local_and_clouds_that_differ_are_named(run: Command) -> None:
    command = ("schedules", "next", *APP, "nightly", "-n", "3", "--after", "2026-03-27")
    code, out, err = run(*command)
    assert code == 0
    assert out.splitlines() == [
        "Fri 2026-03-27 02:30:00 CET",
        "Sat 2026-03-28 02:30:00 CET",
        "Sun 2026-03-29 03:00:00 CEST",
    ]
    assert "EventBridge Scheduler: Sun 2026-03-29 03:00:00 CEST: not run" in err
    read = orjson.loads(run(*command, "--json")[1])
    assert read["runs"][2] == "2026-03-29T03:00:00+02:00"
    assert [each["cloud"] for each in read["differs"]] == [
        "EventBridge Scheduler",
        "Cloud Scheduler",
    ]
    code, _, err = run("schedules", "next", *APP, "nightl")
    assert code == 2
    assert "did you mean nightly" in err


def test_schedules_are_listed_paused_and_run(run: Command) -> None:
    assert "there is no file" in run("schedules", "list", *APP)[2]  # to look must not make it
    assert run("queues", "create", *APP, "default")[0] == 0
    code, out, err = run("schedules", "list", *APP)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "nightly", "often"]
    assert "no beat is running" in err
    assert run("schedules", "pause", *APP, "often")[:2] == (0, "often is paused\n")
    listed = orjson.loads(run("schedules", "list", *APP, "--json")[1])["schedules"]
    assert {row["name"]: (row["state"], row["next"] is None) for row in listed} == {
        "nightly": ("on", False),
        "often": ("paused", True),
    }
    assert run("schedules", "resume", *APP, "often")[0] == 0
    code, id, _ = run("schedules", "run-now", *APP, "often")
    assert code == 0
    stats = orjson.loads(run("queues", "stats", *APP, "--json")[1])
    assert sum(each["ready"] for each in stats) == 1
    assert len(id.strip()) == 36


@pytest.mark.slow
def test_schedules_of_run_time(run: Command) -> None:
    add = ("schedules", "add", *APP, "extra", "tidy")
    code, out, _ = run(*add, "--cron", "0 6 * * 1-5", "--args", '["y"]', "--timezone", "UTC")
    assert (code, out.split(" at ")[0]) == (0, "extra runs next")
    listed = orjson.loads(run("schedules", "list", *APP, "--json")[1])["schedules"]
    [extra] = [row for row in listed if row["name"] == "extra"]
    assert (extra["args"], extra["stored"], extra["when"]) == (["y"], True, "crontab(0 6 * * 1-5)")
    assert "already" in run(*add, "--every", "30")[2]
    assert run(*add, "--every", "30", "--replace")[0] == 0
    assert run("schedules", "delete", *APP, "extra", "--yes")[0] == 0
    assert "there is no schedule 'extra'" in run("schedules", "delete", *APP, "extra", "-y")[2]
    assert "delete it there, or pause it" in run("schedules", "delete", *APP, "often", "-y")[2]


def test_all_that_is_said_of_a_schedule_is_stored(run: Command) -> None:
    pytest.importorskip("astral")
    options = {
        "--solar": "sunset,48.2,16.4",
        "--kwargs": '{"what": "y"}',
        "--timezone": "Asia/Tokyo",
        "--queue": "other",
        "--expires": "60",
        "--jitter": "5",
        "--catch-up": "all",
    }
    flat = [word for pair in options.items() for word in pair]
    assert run("schedules", "add", *APP, "extra", "tidy", *flat)[0] == 0
    name = next(path.stem for path in Path.cwd().glob("shop_*.py"))
    with import_module(name).app as app:
        entry: Entry = app.schedules.entry("extra")
    assert entry.when == solar("sunset", 48.2, 16.4)
    assert (entry.kwargs, entry.options) == ({"what": "y"}, {"queue": "other"})
    assert (entry.timezone, entry.expires, entry.jitter) == ("Asia/Tokyo", 60, 5)
    assert (entry.catch_up, entry.enabled, entry.stored) == ("all", True, True)


def test_nothing_is_deleted_unasked(run: Command) -> None:
    assert run("schedules", "add", *APP, "extra", "tidy", "--every", "30")[0] == 0
    code, _, err = run("schedules", "delete", *APP, "extra")
    assert code == 2
    assert "add --yes" in err
    listed = orjson.loads(run("schedules", "list", *APP, "--json")[1])["schedules"]
    assert "extra" in {row["name"] for row in listed}


@pytest.mark.parametrize("command", ["pause", "resume", "run-now", "delete"])
def test_what_would_be_forgotten_at_once_is_refused(run: Command, command: str) -> None:
    code, _, err = run("schedules", command, *APP, "often", "--broker", "memory://x")
    assert code == 2
    assert "exists only within one process" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "use exactly one of --cron, --every, --at, --solar"),
        (("--cron", "* * * * *", "--every", "5"), "use exactly one of"),
        (("--cron", "0 0 30 2 *"), "day 30 is never in FEB"),
        (("--every", "5", "--args", "{"), "--args is not JSON such as [1, 2]"),
        (("--every", "5", "--args", "{}"), "--args"),
        (("--every", "5", "--kwargs", '{"whom": 1}'), "whom"),
        (("--every", "5", "--catch-up", "never"), "catch_up is 'never'"),
        ((), "no time given: use exactly one of --cron"),
        (("--every", "5", "--cron", "0 6 * * *"), "--cron and --every given: use exactly one of"),
        (("--solar", "sunset"), "give EVENT,LATITUDE,LONGITUDE"),
        (("--at", "2020-01-01"), "has no run from now on"),
    ],
)
def test_what_cannot_be_added(run: Command, options: tuple[str, ...], message: str) -> None:
    code, _, err = run("schedules", "add", *APP, "extra", "tidy", *options)
    assert code == 2
    assert message in err


def test_plan_and_apply(run: Command) -> None:
    with serving_scheduler() as server:
        url = f"cloudscheduler://my-project/europe-west1?emulator=127.0.0.1:{server.port}"
        plan = ("schedules", "plan", *APP, "--scheduler", url)
        code, out, _ = run(*plan)
        assert code == 1
        assert "+ create cloudq-shop-nightly" in out
        assert "    expression: 30 2 * * *" in out
        code, _, err = run("schedules", "apply", *APP, "--scheduler", url)
        assert (code, server.jobs) == (2, {}), "nobody was asked"
        assert "add --yes" in err
        code, out, _ = run("schedules", "apply", *APP, "--scheduler", url, "--yes")
        assert code == 0
        assert "created cloudq-shop-often" in out
        assert len(server.jobs) == 2
        code, out, _ = run(*plan)
        assert (code, out.split(":")[0]) == (0, "no changes")
        run("schedules", "pause", *APP, "often")
        read = orjson.loads(run(*plan, "--json")[1])
        assert [(c["action"], c["parts"]) for c in read["changes"]] == [
            ("update", {"state": ["ENABLED", "PAUSED"]})
        ]
    assert "no scheduler given" in run("schedules", "plan", *APP)[2]
    assert 'no scheduler for "events://"' in run(*plan[:-1], "events://x")[2]


@pytest.mark.parametrize(
    "options",
    [("--scheduler", "azure://"), ("--broker", "servicebus://shop.servicebus.windows.net")],
)
def test_azure_has_no_scheduler_and_what_to_do_is_said(
    run: Command, options: tuple[str, ...]
) -> None:
    for command in ("plan", "apply"):
        code, out, err = run("schedules", command, *APP, *options)
        assert (code, out) == (2, "")
        timers = [line for line in err.splitlines() if "Timer(" in line]
        assert timers == [
            'often: Timer(schedule="0 */15 * * * *", task="tidy"), UTC',
            'nightly: Timer(schedule="0 30 2 * * *", task="tidy"), Europe/Vienna',
        ]
        [line] = [line for line in err.splitlines() if "Azure" in line]
        assert "run `cloudq beat`" in line
        assert "cloudq_azure.register(..., timers={NAME: Timer})" in line


def test_what_is_over_is_said(run: Command) -> None:
    with Path(next(Path.cwd().glob("shop_*.py"))).open("a") as file:
        file.write(OVER)
    assert run("queues", "create", *APP, "default")[0] == 0
    listed = orjson.loads(run("schedules", "list", *APP, "--json")[1])["schedules"]
    assert {row["name"]: row["state"] for row in listed}["past"] == "over"
    out = run("schedules", "next", *APP, "past")[1]
    assert out == "past has no more runs: its time, 2020-01-01 12:00:00 UTC, is past\n"
    # Of Cloud Scheduler, which knows no single times, a past one asks nothing.
    with serving_scheduler() as server:
        url = f"cloudscheduler://my-project/europe-west1?emulator=127.0.0.1:{server.port}"
        code, out, err = run("schedules", "apply", *APP, "--scheduler", url, "--yes")
        assert code == 0
        assert "past has no more runs: its time, 2020-01-01 12:00:00 UTC, is past; give it" in err
        read = orjson.loads(run("schedules", "plan", *APP, "--scheduler", url, "--json")[1])
        assert read["over"] == {"past": "its time, 2020-01-01 12:00:00 UTC, is past"}
        assert read["changes"] == []


OVER = """

from datetime import datetime

from cloudq import at

app.periodic(at(datetime(2020, 1, 1, 12)), name="past")(tidy)
"""


def test_plan_on_eventbridge(run: Command, aws: Endpoint) -> None:
    broker = f"sqs://?endpoint_url={aws.url}"
    role = "arn:aws:iam::000000000000:role/scheduler"
    url = f"eventbridge://us-east-1?role={role}&endpoint_url={aws.url}"
    more = ("--broker", broker, "--backend", "sqlite:///shop.db")
    assert run("queues", "create", *APP, *more)[0] == 0
    code, out, _ = run("schedules", "apply", *APP, *more, "--scheduler", url, "--yes")
    assert code == 0, out
    assert "created nightly" in out
    assert run("schedules", "plan", *APP, *more, "--scheduler", url)[0] == 0


@pytest.mark.usefixtures("run")
def test_a_beat_needs_a_store_and_a_file() -> None:
    # In a process of its own, since it sets up the logging.
    name = next(path.stem for path in Path.cwd().glob("shop_*.py"))
    for options, message in (
        (("--backend", "none"), "the app has none"),
        (("--broker", "memory://x"), "exists only within one process"),
    ):
        command = [sys.executable, "-m", "cloudq", "beat", "-A", f"{name}:app", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2
        assert message in done.stderr
