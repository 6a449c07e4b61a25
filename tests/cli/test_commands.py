"""The output of each command, for a person and as JSON."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from cloudq import CloudQ
from cloudq.cli import main
from cloudq.driver import Outgoing
from cloudq.driver.loader import open_broker, parse
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.tasks.bound import record_state
from cloudq.testing.waiting import PATIENCE

APP = ("-A", "shop:app")


@pytest.fixture
def worker(project: Path):
    """A worker on the project's queues, stopped at the end."""
    args = [sys.executable, "-m", "cloudq", "worker", *APP, "-c", "1", "-t", "2", "--grace", "0.5"]
    process = subprocess.Popen(args, cwd=project, stderr=subprocess.DEVNULL)
    yield process
    process.terminate()
    process.wait(PATIENCE)


def test_a_call_is_sent_run_and_its_result_read(command, worker):
    assert command("call", *APP, "shop.add", "-1", "3", "--wait", "60").out == "2\n"
    sent = command("call", *APP, "shop.add", "--args", "[1]", "--kwargs", '{"b": 4}', "--json")
    id = sent.json["id"]
    read = command("result", *APP, id, "--wait", "60", "--json")
    assert (read.code, read.json["state"], read.json["value"]) == (0, "SUCCESS", 5)
    assert re.fullmatch(r"[0-9-]{10}T[0-9:.]{12}\+00:00", read.json["finished_at"])
    shown = command("result", id, "-b", "sqlite:///shop.db")
    assert "shop.add" in shown.out
    assert "value     5" in shown.out


def test_a_failed_call_is_told_and_its_letter_sent_again(command, worker):
    ran = command("call", *APP, "shop.fail", "no [stock]", "--wait")
    assert (ran.code, ran.out) == (1, "")
    assert "ValueError: no [stock]" in ran.err
    assert "cloudq result -A shop:app --traceback " in ran.err
    dead = command("dead", "list", *APP, "default", "--json").json
    assert [(letter["message"]["task"], letter["reason"]) for letter in dead] == [
        ("shop.fail", "ValueError: no [stock]")
    ]
    id = dead[0]["id"]
    assert "no [stock]" in command("dead", "show", *APP, "default", id).out
    assert "nothing was done" in command("dead", "redrive", *APP, "default", id, "--dry-run").err
    assert command("dead", "redrive", *APP, "default", id, "--yes").out == (
        "1 dead letter sent again\n"
    )
    trace = command("result", *APP, id, "--traceback").out
    assert "Traceback (most recent call last)" in trace


def test_an_unknown_task_is_sent_by_force_only(command):
    assert command("call", *APP, "other.task", "1").code == 2
    assert command("call", *APP, "other.task", "1", "--force", "-Q", "mail").code == 0
    peeked = command("queues", "peek", *APP, "mail", "--json").json
    assert [(each["message"]["task"], each["message"]["args"]) for each in peeked] == [
        ("other.task", [1])
    ]


def test_arguments_are_json_where_they_parse_and_else_strings(command):
    command("call", *APP, "any", "--force", "1", "a b", '{"x": [1]}', "null", '"1"', "1e3")
    [seen] = command("queues", "peek", *APP, "default", "--json").json
    assert seen["message"]["args"] == [1, "a b", {"x": [1]}, None, "1", 1000.0]


def test_options_of_a_call_travel_with_it(command):
    command("call", *APP, "shop.add", "1", "2", "--task-id", "mine", "--idempotency-key", "k")
    command("call", *APP, "shop.add", "1", "2", "--countdown", "60", "--expires", "90")
    first = command("queues", "peek", *APP, "default", "--json").json[0]["message"]
    assert (first["id"], first["idempotency_key"]) == ("mine", "k")
    [stats, mail] = command("queues", "stats", *APP, "--json").json
    assert (stats["queue"], stats["ready"], stats["delayed"]) == ("default", 1, 1)
    assert mail["queue"] == "mail"


def test_what_cannot_be_read_is_shown_as_such(command, project, monkeypatch):
    monkeypatch.chdir(project)
    driver = open_broker("sqlite:///shop.db")
    driver.send("default", [Outgoing(id="foreign", body=b"hello [bold]")])
    driver.close()
    ran = command("queues", "peek", *APP, "default")
    assert "foreign" in ran.out
    assert "? undecodable" in ran.out
    assert "hello [bold]" in ran.out


def test_a_bundle_is_one_message_with_its_calls(command, project, monkeypatch):
    monkeypatch.chdir(project)
    with CloudQ("shop", broker="sqlite:///shop.db") as app:
        task = app.task(name="shop.add")(lambda x, y: x + y)
        results = app.publish([task.prepare(n, 1) for n in range(3)], bundle=3)
        ran = command("queues", "peek", *APP, "default")
        assert "shop.add" in ran.out
        assert "3 calls: 0, 1, ..." in ran.out
        [seen] = command("queues", "peek", *APP, "default", "--json").json
        assert seen["message"] is None
        assert [call["id"] for call in seen["calls"]] == [result.id for result in results]
        [delivery] = app.broker.receive("default", count=1, wait=0.0, lease=5)
        app.broker.dead_letter([delivery], reason="the service gave it up")
    ran = command("dead", "show", *APP, "default", results[1].id)
    assert ran.code == 0
    assert results[2].id in ran.out
    [dead] = command("dead", "list", *APP, "default", "--task", "shop.*", "--json").json
    assert len(dead["calls"]) == 3
    assert command("dead", "redrive", *APP, "default", results[1].id, "--yes").code == 0
    [stats] = [s for s in command("queues", "stats", *APP, "--json").json if s["ready"]]
    assert stats["ready"] == 1


MISTYPED = [
    ("queues", "stats", "mial"),
    ("queues", "stats", "default", "mial"),
    ("queues", "peek", "mial"),
    ("queues", "purge", "mial", "--yes"),
    ("dead", "list", "mial"),
    ("dead", "redrive", "mial", "--all", "--yes"),
    ("dead", "purge", "mial", "--yes"),
]


@pytest.mark.parametrize("args", MISTYPED, ids=" ".join)
def test_a_mistyped_queue_is_no_empty_one(command, args):
    assert command("queues", "create", "mail", "-b", "sqlite:///q.db").code == 0
    ran = command(*args, "-b", "sqlite:///q.db")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no queue 'mial'" in ran.err
    assert "did you mean 'mail'?" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert command("queues", "list", "--names", "-b", "sqlite:///q.db").lines == ["mail"]


@pytest.mark.parametrize(
    ("queue", "says"),
    [
        ("mial", "no task has the queue 'mial' and no live worker reads it: is 'mail' meant?\n"),
        ("defualt", "is 'default' meant?\n"),
        ("media", "the queue 'media' is new and no worker reads it: start one with -Q media\n"),
        ("mail2", "the queue 'mail2' is new"),
        ("mail", ""),
        ("default", ""),
        ("made", ""),
        ("read", ""),
    ],
)
def test_a_call_to_a_queue_that_nobody_reads_says_so(
    command, project, queue: str, says: str
) -> None:
    command("queues", "create", *APP, "made")
    reader = CloudQ("shop", broker=f"sqlite:///{project}/shop.db")
    reader.control.heartbeats.beat(Heartbeat(hostname="w", seen=time.time(), queues=("read",)))
    reader.close()
    ran = command("call", *APP, "shop.add", "2", "3", "-Q", queue)
    assert (ran.code, len(ran.lines)) == (0, 1)
    assert says in ran.err if says else ran.err == ""


def test_a_queue_that_was_used_or_is_configured_is_known(command):
    broker = ("-b", "sqlite:///shop.db")
    assert command("queues", "create", "mine", *broker).code == 0
    assert command("queues", "stats", "default", *broker).code == 0
    sent = command("call", *APP, "shop.add", "1", "2", "--queue", "once")
    assert sent.code == 0, sent.err
    assert command("queues", "purge", "once", "--yes", *broker).code == 0
    [stats] = command("queues", "stats", "once", *broker, "--json").json
    assert stats["ready"] == 0
    assert command("queues", "peek", "once", *broker).code == 0
    assert command("dead", "list", "once", *broker).code == 0
    assert command("queues", "stats", *APP, "mail").code == 0  # a task's own, not used yet
    nothing = command("queues", "peek", "qqqq", *broker)
    assert nothing.code == 2
    assert "did you mean" not in nothing.err


def test_a_unique_call_that_was_purged_holds_no_key(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with CloudQ("unique", broker="sqlite:///unique.db") as app:
        first = app.send_task("report", unique_key="mon")
        assert app.send_task("report", unique_key="mon") == first
        url = f"sqlite:///{tmp_path / 'unique.db'}"
        assert command("queues", "purge", "default", "--yes", "-b", url).code == 0
        assert app.send_task("report", unique_key="mon") != first


def test_queues_are_made_listed_and_purged(command):
    assert command("queues", "create", "b", "ab", "-b", "sqlite:///q.db", "--store").code == 0
    assert command("queues", "list", "--names", "-b", "sqlite:///q.db").lines == ["ab", "b"]
    [row] = command("queues", "list", "a", "-b", "sqlite:///q.db", "--json").json
    assert (row["queue"], row["ready"], row["running"], row["dead"]) == ("ab", 0, 0, 0)
    listed = command("queues", "list", "-b", "sqlite:///q.db").lines
    assert listed[0].split() == ["QUEUE", "READY", "RUNNING", "DELAYED", "DEAD", "OLDEST"]
    assert listed[1].split()[:2] == ["ab", "0"]
    command("call", "any", "--force", "-Q", "b", "-b", "sqlite:///q.db")
    purged = command("queues", "purge", "b", "-b", "sqlite:///q.db", "--yes")
    assert purged.out == "deleted 1 message in 'b'\n"


def test_a_purge_asks_at_a_terminal(project):
    def purge(answer: bytes) -> int:
        near, far = pty.openpty()
        args = [sys.executable, "-m", "cloudq", "queues", "purge", *APP, "default"]
        process = subprocess.Popen(args, cwd=project, stdin=far, stdout=far, stderr=far)
        os.close(far)
        seen = b""
        while b"Type y or 'default':" not in seen:
            seen += os.read(near, 1024)
        os.write(near, answer + b"\n")
        code = process.wait(PATIENCE)
        os.close(near)
        return code

    with CloudQ("shop", broker=f"sqlite:///{project}/shop.db") as app:
        app.send_task("any")
    assert purge(b"no") == 1
    assert purge(b"default") == 0


def test_dead_letters_are_chosen_by_task_and_deleted(command, project, monkeypatch):
    monkeypatch.chdir(project)
    command("call", *APP, "one.task", "--force")
    command("call", *APP, "two.task", "--force")
    driver = open_broker(parse("sqlite:///shop.db").url)
    for delivery in driver.receive("default", count=10, wait=0, lease=30):
        driver.dead_letter([delivery], reason="tried")
    driver.close()
    found = command("dead", "list", *APP, "default", "--task", "one.*", "--json").json
    assert [letter["message"]["task"] for letter in found] == ["one.task"]
    deleted = command("dead", "delete", *APP, "default", "--task", "one.*", "--yes")
    assert deleted.out == "1 dead letter deleted\n"
    purged = command("dead", "purge", *APP, "default", "--yes")
    assert purged.out == "deleted 1 dead letter of 'default'\n"


def test_brokers_and_their_limits_are_listed(command):
    found = command("brokers", "--json").json
    kinds = {each["scheme"]: each["limits"] for each in found["brokers"] if not each["variant"]}
    assert kinds["sqs"]["max_delay"] == 900
    assert {"memory", "sqlite", "sqs"} <= kinds.keys()
    assert "sqs://" in command("brokers").out


def test_doctor_finds_nothing_wrong_with_a_good_app(command):
    assert command("queues", "create", *APP).code == 0
    ran = command("doctor", *APP, "--json")
    assert (ran.code, ran.json["ok"]) == (0, True)
    statuses = {each["what"]: each["status"] for each in ran.json["checks"]}
    assert statuses["backend write"] == "ok"
    assert statuses["receive from mail"] == "ok"
    assert "set by the app" in ran.out


def test_doctor_says_what_is_wrong(command, project):
    ran = command("doctor", "-b", "sqlite:///missing/x.db")
    assert ran.code == 1
    assert "does not exist: create it" in ran.out
    assert command("doctor", "-A", "gone").code == 1
    (project / "cloudq.toml").write_text("lease = 7.0\n")
    assert "7.0, from the configuration file" in command("doctor").out


def test_doctor_finds_a_schedule_that_cannot_be_sent(command, project):
    text = "from cloudq import CloudQ, every\napp = CloudQ()\n"
    text += "@app.periodic(every(60), args={})\n@app.task(name='add')\ndef add(x: int): ...\n"
    (project / "timed.py").write_text(text.format("(1, 2)"))
    ran = command("doctor", "-A", "timed:app")
    assert ran.code == 1
    assert "schedule 'add': add(x: int): too many positional arguments" in ran.out
    (project / "timed.py").write_text(text.format("(1,)"))
    assert "ok    schedules: 1: add" in command("doctor", "-A", "timed:app").out


def test_options_may_stand_before_the_command(command):
    assert command(*APP, "call", "shop.add", "1", "2").code == 0


def test_ctrl_c_is_130_without_a_traceback(project, command):
    args = [sys.executable, "-m", "cloudq", "call", *APP, "shop.add", "1", "2", "--wait"]
    process = subprocess.Popen(args, cwd=project, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + PATIENCE
        while " 1 " not in command("queues", "stats", "default", "-b", "sqlite:///shop.db").out:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.startswith(b"the task is not stopped; its result: cloudq result ")
    assert err.count(b"\n") == 1


def test_a_reader_that_leaves_is_no_error(project):
    names = [f"q{number}" for number in range(2000)]
    driver = open_broker(f"sqlite:///{project / 'many.db'}")
    for name in names:
        driver.send(name, [Outgoing(id=name, body=b"{}")])
    driver.close()
    args = f"{sys.executable} -m cloudq queues list --names -b sqlite:///many.db | head -1"
    done = subprocess.run(args, cwd=project, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("q0\n", "")


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cloudq ")
    assert main([]) == 0
    assert "doctor" in capsys.readouterr().out
    assert main(["queues", "--help"]) == 0
    assert main(["queues"]) == 0


def test_help_fills_the_width_of_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["inspect", "--help"]) == 0
    assert "one object, from worker to reply. The exit code is" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["deploy", "--help"], ["deploy", "logs", "--help"]])
def test_no_sdk_is_imported_before_it_is_needed(arguments):
    code = (
        "import sys; from cloudq.cli import main; code = main(sys.argv[1:]);"
        "print(code, [m for m in sys.modules if m.startswith(('boto', 'google.api', 'azure.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        (["queues", "list"], ["queues"]),
        (["-A", "worker", "-b", "sqlite:///none.db", "brokers"], ["brokers"]),
        (["--version"], []),
    ],
)
def test_only_the_command_that_is_asked_for_is_imported(arguments, imported):
    code = (
        "import sys; from cloudq.cli import main; main(sys.argv[1:]);"
        "print([m[20:] for m in sys.modules if m.startswith('cloudq.cli.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == str(imported)


def test_a_command_collects_garbage_but_not_in_what_was_imported(command, project):
    told = "import gc; from shop import app; print(gc.isenabled(), gc.get_freeze_count())"
    (project / "telling.py").write_text(told)
    is_on, passed_over = command("call", "-A", "telling", "shop.add", "1", "2").out.split()[:2]
    assert is_on == "True"
    assert int(passed_over) > 10_000


@pytest.mark.parametrize("words", [(), ("call",), ("worker",), ("queues",), ("queues", "purge")])
def test_the_help_shows_flags_without_a_value(capsys, words):
    assert main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--help" in shown
    assert "bool" not in shown
    if words != ("queues",) and words:  # what stands in brackets is no style of the terminal's
        assert "[tool.cloudq]" in shown


def test_the_longest_running_task_is_one_of_a_living_worker(command, project):
    with CloudQ("shop", broker=f"sqlite:///{project}/shop.db") as app:
        for name, age in (("dead", 3600), ("living", 0)):
            seen = time.time() - age
            task = (f"id-{name}", "shop.add", seen - 9)
            heart = Heartbeat(hostname=name, seen=seen, every=60.0, longest=[task])
            app.control.heartbeats.beat(heart)
    ran = command("status", *APP)
    assert (ran.code, len(ran.lines)) == (0, 3)
    assert "longest running: shop.add id-living" in ran.err


def test_a_mistyped_command_is_guessed_among_all(capsys):
    assert main(["-A", "worker", "quues", "list"]) == 2
    assert "queues" in capsys.readouterr().err


def test_json_is_all_that_is_on_standard_output(command):
    command("queues", "create", "mail")
    for args in (["queues", "stats"], ["brokers"], ["doctor"], ["result", "x"]):
        assert orjson.loads(command(*args, "--json").out) is not None


def test_progress_is_shown_under_the_tasks_own_name_for_it(command, project):
    with CloudQ("caller", broker=f"sqlite:///{project}/shop.db") as app:
        record_state(app.runtime, "running", 1, "PROGRESS", {"done": 3})
    read = command("result", *APP, "running", "--json").json
    assert (read["state"], read["meta"]) == ("PROGRESS", {"done": 3})
    shown = command("result", *APP, "running").out
    assert "PROGRESS" in shown
    assert '{"done":3}' in shown.replace(" ", "")
