"""Attacks on confirmations: what comes between question and answer, answers of others, replays."""

from __future__ import annotations

import pytest

from cloudq import CloudQ
from cloudq.dashboard.site import Site
from cloudq.operations import audit, dead_letters
from cloudq.testing import drain
from tests.dashboard.conftest import signed_in
from tests.dashboard.shop import Browser, fill


def _die(app: CloudQ, order: int, queue: str) -> str:
    id = app.send_task("shop.charge", [order], queue=queue).id
    drain(app, [queue])
    return id


def _dead(app: CloudQ) -> set[str]:
    return {seen.id for seen in dead_letters.search(app).letters}


def _once(text: str) -> str:
    return text.split('name="once" value="')[1].split('"')[0]


@pytest.mark.parametrize("verb", ["Delete", "Redrive"])
def test_no_letter_is_touched_that_was_not_shown(browser: Browser, app: CloudQ, verb: str) -> None:
    """The new one is before the last of those that were shown, which are those of another queue."""
    shown = {_die(app, 1, queue) for queue in ("default", "mail", "mail")}
    browser.open("/dead")
    browser.press(f"{verb} all 3")
    new = _die(app, 3, "default")
    browser.press(f"{verb} 3")
    assert _dead(app) & (shown | {new}) == {new}


def test_no_task_runs_again_that_was_not_shown(browser: Browser, app: CloudQ) -> None:
    shown = {_die(app, 1, "default") for _ in range(3)}
    browser.open("/tasks?state=failed")
    browser.press("Run all 3 again")
    new = _die(app, 3, "default")  # the newest come first
    browser.press("Run 3 again")
    assert _dead(app) & (shown | {new}) == {new}


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", "yes", "0"])
def test_a_number_that_is_none_changes_nothing(browser: Browser, app: CloudQ, number: str) -> None:
    shown = {_die(app, 1, "default") for _ in range(2)}
    browser.open("/dead")
    browser.press("Delete all 2")
    new = _die(app, 3, "default")
    browser.press("Delete 2", confirmed=number)
    assert _dead(app) & (shown | {new}) == {new}


def test_nobody_answers_what_another_was_asked(guarded: Site, app: CloudQ) -> None:
    _die(app, 1, "default")
    olga, other = signed_in(guarded, "olga"), signed_in(guarded, "olga")
    for browser in (olga, other):
        browser.open("/dead")
    olga.press("Delete 1")
    once = _once(olga.text)
    fields = [("csrf", other.csrf()), ("scope", "all"), ("confirmed", "1")]
    for word in (once, "x", ""):
        assert other.send("/act/delete-dead", [*fields, ("once", word)]).status_code == 409
    own = [("csrf", olga.csrf()), ("name", "default"), ("confirmed", "1"), ("once", once)]
    assert olga.send("/act/purge", own).status_code == 409, "it is the answer to another question"
    assert len(_dead(app)) == 1
    olga.press("Delete 1")
    assert not _dead(app)


def test_an_action_that_takes_long_is_logged_as_it_begins_and_by_who_stops_it(
    guarded: Site, app: CloudQ
) -> None:
    fill(app, letters=9)
    olga, other = signed_in(guarded, "olga"), signed_in(guarded, "olaf")
    olga.open("/dead")
    olga.press("Redrive all 9", rate="1")
    olga.press("Redrive 9")
    assert [(e.who, e.action) for e in audit.read(app).entries] == [("olga", "begin")]
    other.open(olga.path)
    other.press("Stop")
    stopped, begun = audit.read(app).entries
    assert (stopped.who, stopped.action) == ("olaf", "stop")
    assert "begun by olga" in stopped.what
    assert begun.what in stopped.what
