"""Each action is confirmed with its number, carried out once, and in the audit log."""

from __future__ import annotations

import json
import time

import pytest

from cloudq import CloudQ
from cloudq.monitoring.heartbeats import Heartbeat
from cloudq.operations import audit, dead_letters
from cloudq.testing import drain
from tests.dashboard.shop import Browser, fill


def _log(app: CloudQ) -> list[tuple[str, str, int | None]]:
    return [(entry.who, entry.action, entry.count) for entry in audit.read(app).entries]


def _dead(app: CloudQ) -> int:
    return dead_letters.search(app, queue="default").matched


def test_all_that_match_are_redriven_after_a_dry_run(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=10)
    browser.open("/dead?error=order+1+was")
    browser.press("Redrive all 2")
    assert "Redrive 2 dead letters?" in browser.text
    assert "2 of 10 dead letters" in browser.text
    assert "Nothing is done yet" in browser.text
    assert _dead(app) == 10
    browser.press("Redrive 2")
    assert "2 dead letters redriven" in browser.text
    assert browser.path == "/dead?error=order+1+was"
    assert _dead(app) == 8
    assert ("local", "redrive", 2) in _log(app)


def test_letters_are_chosen_one_by_one(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=5)
    browser.open("/dead")
    browser.press("Redrive chosen", tick=3)
    browser.press("Redrive 3")
    assert "3 dead letters redriven" in browser.text
    assert _dead(app) == 2


def test_nothing_is_chosen_is_told(browser: Browser, app: CloudQ) -> None:
    fill(app)
    browser.open("/dead")
    browser.press("Delete chosen")
    assert browser.status == 409
    assert "nothing is chosen" in browser.text
    assert _dead(app) == 6


def test_letters_are_deleted(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=4)
    browser.open("/dead")
    browser.press("Delete all 4")
    assert "This cannot be undone" in browser.text
    browser.press("Delete 4")
    assert _dead(app) == 0
    assert ("local", "delete dead letters", 4) in _log(app)


def test_no_more_than_was_confirmed_is_done(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=3)
    browser.open("/dead")
    browser.press("Delete all 3")
    app.send_task("shop.charge", [99])
    drain(app, ["default"])
    assert _dead(app) == 4
    browser.press("Delete 3")
    assert _dead(app) == 1


def test_a_confirmation_holds_once(browser: Browser, app: CloudQ) -> None:
    browser.open("/schedules")
    browser.press("Run now")
    page = browser.text
    browser.press("Run 1 task now")
    assert browser.status == 200
    browser.text = page
    browser.press("Run 1 task now")
    assert browser.status == 409
    assert "is done once" in browser.text
    assert [action for _, action, _ in _log(app)] == ["run now"]


def test_arguments_are_changed_and_a_letter_is_redriven(browser: Browser, app: CloudQ) -> None:
    id = fill(app, letters=1)
    browser.open(f"/letter?queue=default&id={id}")
    browser.press("Redrive with these", args="[2]")
    assert "With other arguments by place" in browser.text
    browser.press("Redrive 1")
    drain(app, ["default"])
    assert app.AsyncResult(id).get(timeout=5) == "paid 2"


def test_a_secret_that_is_hidden_stays_what_it_was(browser: Browser, app: CloudQ) -> None:
    id = fill(app, letters=1)
    browser.open(f"/letter?queue=default&id={id}")
    assert '"api_key": "***"'.replace('"', "&#34;") in browser.text
    browser.press("Redrive with these", args="[3]", kwargs='{"address": "x", "api_key": "***"}')
    browser.press("Redrive 1")
    drain(app, ["default"])
    letter = dead_letters.one(app, "default", id)
    assert letter.message is not None
    assert letter.message.kwargs == {"address": "x", "api_key": "k-123456789"}
    assert letter.message.args == [3]


def test_a_secret_that_nobody_knows_is_no_value(browser: Browser, app: CloudQ) -> None:
    id = fill(app, letters=1)
    browser.open(f"/letter?queue=default&id={id}")
    browser.press("Redrive with these", kwargs='{"address": "***"}')
    assert browser.status == 409
    assert "stands for a secret" in browser.text


def test_arguments_that_do_not_fit_are_refused_and_nothing_is_lost(
    browser: Browser, app: CloudQ
) -> None:
    id = fill(app, letters=1)
    browser.open(f"/letter?queue=default&id={id}")
    browser.press("Redrive with these", kwargs='{"no_such_parameter": 1}')
    browser.press("Redrive 1")
    assert "no_such_parameter" in browser.text
    assert _dead(app) == 1
    browser.open(f"/letter?queue=default&id={id}")
    browser.press("Redrive with these", args="{no json")
    assert browser.status == 409
    assert "no JSON" in browser.text


def test_a_task_runs_again_with_changed_arguments(browser: Browser, app: CloudQ) -> None:
    result = app.send_task("shop.add", [1, 2])
    drain(app, ["default"])
    browser.open(f"/task?id={result.id}")
    browser.press("Run again with these", args="[20, 22]")
    browser.press("Run 1 task again")
    assert "runs again as" in browser.text
    new = browser.path.rpartition("=")[2]
    assert new != result.id
    drain(app, ["default"])
    assert app.AsyncResult(new).get(timeout=5) == 42
    assert ("local", "run again", 1) in _log(app)


def test_tasks_that_match_run_again(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=3)
    browser.open("/tasks?state=failed&error=order+3")
    browser.press("Run 1 again")
    assert "1 of 1 tasks" in browser.text
    browser.press("Run 1 again")
    assert "1 task run again" in browser.text


def test_a_task_is_revoked(browser: Browser, app: CloudQ) -> None:
    result = app.send_task("shop.mail", ["b@example.com"])
    browser.open(f"/task?id={result.id}")
    browser.press("Revoke")
    browser.press("Revoke 1 task")
    assert "is revoked" in browser.text
    drain(app, ["mail"])
    assert result.state == "REVOKED"
    assert ("local", "revoke", 1) in _log(app)


def test_a_queue_is_purged_with_its_number(browser: Browser, app: CloudQ) -> None:
    for number in range(3):
        app.send_task("shop.mail", [str(number)])
    browser.open("/queue?name=mail")
    browser.press("Purge")
    assert "delete 3 messages?" in browser.text
    browser.press("Purge 3")
    assert "Deleted 3 messages of mail" in browser.text
    assert ("local", "purge", 3) in _log(app)


def test_a_queue_is_paused_and_resumed(browser: Browser, app: CloudQ) -> None:
    app.send_task("shop.mail", ["x"])
    browser.open("/queue?name=mail")
    browser.press("Pause")
    browser.press("Pause 1 queue")
    assert "Queue mail is paused" in browser.text
    assert "Resume" in browser.buttons()
    assert "paused" in browser.open("/queues")
    browser.open("/queue?name=mail")
    browser.press("Resume")
    browser.press("Resume 1 queue")
    assert "Queue mail is resumed" in browser.text
    assert [action for _, action, _ in _log(app)] == ["resume", "pause"]


def test_a_schedule_is_paused_resumed_and_run_now(browser: Browser, app: CloudQ) -> None:
    browser.open("/schedules")
    browser.press("Pause")
    browser.press("Pause 1 schedule")
    assert "Schedule daily is paused" in browser.text
    browser.press("Resume")
    browser.press("Resume 1 schedule")
    browser.press("Run now")
    browser.press("Run 1 task now")
    assert "runs now as" in browser.text
    [done] = drain(app, ["mail"])
    assert done.record is not None


def test_a_worker_is_seen_and_told(browser: Browser, app: CloudQ) -> None:
    hearts = app.control.heartbeats
    now = time.time()
    beat = Heartbeat(hostname="w-1", started=now - 60, seen=now, queues=["default"], processes=2)
    hearts.beat(beat, first=True)
    assert "w-1" in browser.open("/workers")
    browser.open("/worker?name=w-1")
    browser.press("Shut down")
    assert "Shut worker w-1 down?" in browser.text
    browser.press("Shut 1 worker down")
    assert "is told: shutdown" in browser.text
    [command] = hearts.beat(beat)
    assert "shutdown" in command
    assert ("local", "shutdown", None) in _log(app)


def test_letters_are_downloaded_as_json_lines(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=3)
    browser.open("/dead?task=shop.charge")
    browser.press("Download")
    lines = [json.loads(line) for line in browser.text.splitlines()]
    assert len(lines) == 3
    assert {line["task"] for line in lines} == {"shop.charge"}
    assert ("local", "export dead letters", 3) in _log(app)


@pytest.mark.slow
def test_a_slow_redrive_is_watched_and_stopped(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=8)
    browser.open("/dead")
    browser.press("Redrive all 8", rate="2")
    assert "2 a second" in browser.text
    browser.press("Redrive 8")
    assert browser.path.startswith("/job?id=")
    assert "Under way" in browser.text
    browser.press("Stop")
    assert browser.path.startswith("/job?id=")
    while "Under way" in browser.text:
        browser.open(browser.path)
    assert "Stopped after" in browser.text
    assert 0 < _dead(app) < 8
    assert "stop" in [action for _, action, _ in _log(app)]


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e9", "fast"])
def test_a_rate_that_is_none_is_refused(browser: Browser, app: CloudQ, rate: str) -> None:
    fill(app, letters=1)
    browser.open("/dead")
    browser.press("Redrive 1", rate=rate)
    assert browser.status == 409
    assert _dead(app) == 1


def test_the_audit_log_shows_who_did_what(browser: Browser, app: CloudQ) -> None:
    fill(app, letters=2)
    browser.open("/dead")
    browser.press("Delete all 2")
    browser.press("Delete 2")
    text = browser.open("/audit")
    assert "delete dead letters" in text
    assert "local" in text
    assert "by dashboard" in text.replace("&nbsp;", " ")
    assert "Nobody has acted" in browser.open("/audit?who=nobody")
