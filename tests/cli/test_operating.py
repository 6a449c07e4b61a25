"""The commands of an operator: `top`, `dead`, `tasks` and `queues`, on a file with some history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudq import CloudQ, chord, group
from cloudq.cli.top.keys import BACKSPACE, ENTER, ESCAPE
from cloudq.cli.top.loop import obeyed
from cloudq.cli.top.screen import View, bars
from cloudq.testing import drain
from cloudq.testing.waiting import PATIENCE
from tests.cli.conftest import Run

APP = ("-A", "shop:app")
HOSTILE = "\x1b[31mred\x1b[0m\u202ebad[bold]"


@pytest.fixture
def history(project: Path) -> CloudQ:
    """The project's file with two successes, three failures and their dead letters."""
    with CloudQ("shop", broker=f"sqlite:///{project}/shop.db", default_retry_delay=0.0) as app:

        @app.task(name="shop.add")
        def add(a: int, b: int) -> int:
            return a + b

        @app.task(name="shop.fail", dead_letter=True, max_retries=0)
        def fail(what: str) -> None:
            raise ValueError(what)

        add.delay(1, 2)
        add.delay(3, 4)
        for what in ("no stock", "no luck", HOSTILE):
            fail.delay(what)
        drain(app)
        return app


def test_dead_letters_of_all_queues_are_counted_with_their_reasons(
    command: Run, history: CloudQ
) -> None:
    ran = command("dead", "list", *APP)
    lines = {line.split()[0]: line for line in ran.lines}
    assert lines["QUEUE"].split() == ["QUEUE", "DEAD", "NEWEST", "REASONS"]
    assert lines["default"].split()[1] == "3"
    assert "ValueError: no luck" in ran.out
    assert "\x1b" not in ran.out
    found = {each["queue"]: each for each in command("dead", "list", *APP, "--json").json}
    assert (found["default"]["count"], len(found["default"]["reasons"])) == (3, 3)


def test_dead_letters_are_chosen_by_filters(command: Run, history: CloudQ) -> None:
    found = command("dead", "list", *APP, "--error", "STOCK", "--json").json
    assert [each["reason"] for each in found] == ["ValueError: no stock"]
    assert "T" in found[0]["sent_at"]
    none = command("dead", "list", *APP, "--exception", "KeyError").lines[0]
    assert none == "none of 3 dead letters matches"
    hint = "none of 3 dead letters in 'default' matches: --task fial: did you mean shop.fail?"
    assert hint in command("dead", "list", *APP, "default", "--task", "fial").out
    assert command("dead", "list", *APP, "--older-than", "1h", "--json").json == []
    grouped = command("dead", "list", *APP, "--by", "exception", "--json").json
    assert [(each["name"], each["count"]) for each in grouped] == [("ValueError", 3)]
    assert command("dead", "list", *APP, "--by", "colour").code == 2
    assert command("dead", "list", *APP, "--older-than", "soon").code == 2


def test_a_redrive_by_a_filter_counts_first(command: Run, history: CloudQ) -> None:
    dry = command("dead", "redrive", *APP, "--error", "no", "--dry-run")
    assert (dry.code, "2 dead letters chosen, nothing was done" in dry.err) == (0, True)
    ran = command("dead", "redrive", *APP, "--error", "no", "--limit", "1", "--rate", "5", "--yes")
    assert ran.out == "1 dead letter sent again\n"
    edit = ("--edit", '{"what": "new"}')
    done = command("dead", "redrive", *APP, "--error", "no", *edit, "--yes", "--json").json
    assert (done["done"], done["failed"]) == (1, [])
    waiting = command("queues", "peek", *APP, "default", "--json").json
    assert ["new"] in [each["message"]["args"] for each in waiting]
    refused = command("dead", "redrive", *APP, "--all", "--edit", '{"size": 1}', "--yes")
    assert (refused.code, "size" in refused.err) == (1, True)
    assert command("dead", "redrive", *APP, "--yes").code == 2


def test_what_finds_nothing_is_no_dry_run(command: Run, history: CloudQ) -> None:
    for args in (
        ("dead", "redrive", "--task", "nope"),
        ("dead", "delete", "--task", "nope"),
        ("tasks", "retry", "--task", "nope"),
    ):
        ran = command(*args, *APP, "--yes")
        assert (ran.code, "chosen, nothing was done" in ran.err) == (0, True)
        assert "dry run" not in ran.err
        assert "dry run: 0 " in command(*args, *APP, "--dry-run").err
        assert "dry_run" not in command(*args, *APP, "--yes", "--json").json
        assert command(*args, *APP, "--dry-run", "--json").json["dry_run"] is True
    assert "did you mean 'shop.add'?" in command("tasks", "list", *APP, "--name", "ad").out


def test_dead_letters_are_exported_as_lines(command: Run, history: CloudQ) -> None:
    ran = command("dead", "export", *APP)
    letters = [json.loads(line) for line in ran.lines]
    assert len(letters) == 3
    assert {each["message"]["task"] for each in letters} == {"shop.fail"}
    assert "3 of 3 dead letters exported" in ran.err


def test_what_failed_is_listed_on_day_one(command: Run, history: CloudQ) -> None:
    found = command("tasks", "list", *APP, "--state", "FAILURE", "--json").json
    assert len(found) == 3
    assert all(each["task"] == "shop.fail" and "T" in each["at"] for each in found)
    every = command("tasks", "list", *APP).out
    assert (every.count("SUCCESS"), every.count("FAILURE")) == (2, 3)
    assert "\x1b" not in every
    assert "of 'shop.fial': did you mean 'shop.fail'?" in (
        command("tasks", "list", *APP, "--name", "shop.fial").out
    )
    few = command("tasks", "list", *APP, "-n", "1")
    assert "1 of 5 tasks" in few.err


def test_a_task_is_shown_with_its_times(command: Run, history: CloudQ) -> None:
    [first, *_] = command("tasks", "list", *APP, "--error", "stock", "--json").json
    shown = command("tasks", "show", *APP, first["id"]).out
    for word in ("started", "finished", "redacted: --args shows them", "cloudq dead show default"):
        assert word in shown
    assert '["no stock"]' in command("tasks", "show", *APP, first["id"], "--args").out
    missing = command("tasks", "show", *APP, "nope", "--json")
    assert (missing.code, missing.json) == (1, None)


def test_failed_tasks_run_again_by_a_filter_and_one_by_one(command: Run, history: CloudQ) -> None:
    dry = command("tasks", "retry", *APP, "--error", "no", "--dry-run")
    assert (dry.code, "2 tasks chosen, nothing was done" in dry.err) == (0, True)
    assert command("tasks", "retry", *APP, "--error", "luck", "--yes").out == "1 task run again\n"
    again = command("tasks", "retry", *APP, "--error", "luck", "--yes")
    assert (again.code, "sent again, or deleted" in again.err) == (1, True)
    [one] = command("tasks", "list", *APP, "--error", "stock", "--json").json
    ran = command("tasks", "run-again", *APP, one["id"], "--edit", '["other"]', "--json").json
    assert (ran["redriven"], ran["id"]) == (True, one["id"])


def test_queues_are_paused_resumed_and_deleted(command: Run, history: CloudQ) -> None:
    paused = command("queues", "pause", *APP, "default")
    assert paused.out == "default is paused\n"
    assert "functions that a platform starts" in paused.err
    assert "paused by " in command("queues", "list", *APP).out
    assert command("queues", "pause", *APP, "default").out == "default is paused already\n"
    assert command("queues", "resume", *APP, "default", "--json").json["changed"] is True
    assert command("queues", "resume", *APP, "default").out == "default was not paused\n"
    assert "did you mean" in command("queues", "pause", *APP, "defualt").err
    assert command("queues", "delete", *APP, "default", "--yes").code == 0
    assert "default" not in command("queues", "list", *APP, "--names").lines


def test_a_command_that_reads_makes_no_file(command: Run, project: Path) -> None:
    (project / "cloudq.db").touch()
    for args in (
        ("queues", "list"),
        ("queues", "stats"),
        ("dead", "list"),
        ("tasks", "list"),
        ("top", "--once"),
        ("queues", "purge", "mail", "--yes"),
    ):
        ran = command(*args, "-b", "sqlite:///clodq.db")
        assert (ran.code, ran.out) == (2, "")
        assert "is cloudq.db meant?" in ran.err
    assert not (project / "clodq.db").exists()


def test_top_without_a_terminal_prints_once(command: Run, history: CloudQ) -> None:
    ran = command("top", *APP)
    assert ran.code == 0
    assert "no terminal to draw on: printed once" in ran.err
    for word in ("QUEUES", "WORKERS", "RUNNING", "FAILURES", "shop.fail", "ValueError: "):
        assert word in ran.out
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    found = command("top", *APP, "--once", "--json").json
    [failing] = found["failures"]
    assert (failing["task"], failing["total"], sum(failing["counts"])) == ("shop.fail", 3, 3)
    assert "T" in found["at"]


def test_keys_sort_filter_pause_and_quit() -> None:
    view = obeyed(View(), "sp")
    assert view is not None
    assert (view.sort, view.paused) == ("ready", True)
    view = obeyed(view, "/mai" + "x" + BACKSPACE + "l")
    assert view is not None
    assert (view.typing, view.shows("email"), view.shows("default")) == ("mail", True, False)
    kept = obeyed(view, ENTER)
    assert kept is not None
    assert (kept.filter, kept.typing) == ("mail", None)
    assert obeyed(view, ESCAPE) == obeyed(View(), "sp")
    assert obeyed(kept, ESCAPE) == obeyed(View(), "sp")
    assert obeyed(kept, "q") is None
    assert obeyed(view, "q") is not None  # it is a letter of the filter


def test_small_bars_show_counts() -> None:
    assert bars([0, 0]) == "▁▁"
    assert bars([0, 1, 8, 4]) == "▁▂█▅"


def test_what_was_done_is_in_the_audit_log(command: Run, history: CloudQ) -> None:
    assert command("audit", *APP).out == "nobody has acted in this time\n"
    command("dead", "redrive", *APP, "--error", "stock", "--yes")
    command("control", "revoke", *APP, "a-task", "another")
    command("queues", "pause", *APP, "mail")
    found = command("audit", *APP, "--json").json
    told = [(each["action"], each["via"]) for each in found]
    assert told == [(action, "cli") for action in ("pause", "revoke", "redrive")]
    assert (found[1]["count"], found[1]["at"][10]) == (2, "T")
    only = command("audit", *APP, "--action", "revoke")
    assert (len(only.lines), "tasks a-task, another" in only.out) == (2, True)
    assert command("audit", *APP, "-n", "1").err.startswith("the newest 1")
    assert command("audit", *APP, "--who", "nobody", "--json").json == []
    assert command("audit", *APP, "--since", "then").code == 2


def test_workflows_under_way_are_listed_with_who_is_missing(command: Run, history: CloudQ) -> None:
    assert command("workflows", *APP).out == "no group or chord is under way\n"
    add = history.tasks["shop.add"]
    total = history.task(name="shop.total")(sum)
    result = chord([add.s(n, n) for n in range(3)], total.s()).apply_async()
    flow = command("workflows", *APP, "--json").json["workflows"][0]
    assert (flow["state"], flow["count"], flow["left"]) == ("under way", 3, 3)
    listed = command("workflows", *APP).lines
    assert listed[0].split() == ["ID", "STATE", "DONE", "OF", "THEN", "SINCE"]
    assert "shop.total" in listed[1]
    shown = command("workflows", *APP, flow["id"]).out
    assert "0 of 3" in shown
    assert shown.count("PENDING") == 3
    assert command("workflows", *APP, result.id).out == shown
    for id in (flow["id"], result.id):
        drawn = command("graph", *APP, id)
        assert (len(drawn.lines), "shop.total" in drawn.lines[-1]) == (5, True)
    drain(history)
    assert result.get(timeout=PATIENCE) == 6
    assert command("workflows", *APP).out == "no group or chord is under way\n"
    assert "done" in command("workflows", *APP, "--all").out
    saved = group(add.s(1, 2), add.s(3, 4)).apply_async()
    saved.save()
    assert "0 of 2" in command("workflows", *APP, saved.id).out
    drain(history)
    assert "2 of 2" in command("workflows", *APP, saved.id).out
    unknown = command("workflows", *APP, "nothing")
    assert (unknown.code, "knows no chord or group nothing" in unknown.err) == (1, True)
