"""Dead letters: choosing, counting, redriving and deleting them, on every kind of service."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import CloudQ, ConfigurationError
from cloudq.driver import Peeked
from cloudq.messages.message import TaskMessage
from cloudq.messages.redaction import Redaction
from cloudq.operations import audit, dead_actions, dead_letters, queues
from cloudq.operations.audit import Actor
from cloudq.operations.dead_actions import Edit
from cloudq.operations.dead_letters import DeadFilter
from cloudq.operations.seen import Seen
from cloudq.testing import drain


def bury(app: CloudQ) -> None:
    """Leave three dead letters of two reasons and one refused."""
    charge, refuse = app.tasks["shop.charge"], app.tasks["shop.refuse"]
    charge.delay("gone")
    charge.delay("gone", 2)
    charge.delay("pear", count=-1)
    refuse.delay("not today")
    drain(app)


def test_letters_are_found_by_what_they_are(shop: CloudQ) -> None:
    bury(shop)
    every = dead_letters.search(shop)
    assert (every.matched, every.seen, every.complete) == (4, 4, True)
    assert every.queues == {"mail": 4}
    assert every.scope == "4 of 4 dead letters"
    for chosen, count in (
        (DeadFilter(task="shop.ch*"), 3),
        (DeadFilter(exception="ValueError"), 2),
        (DeadFilter(error="NO STOCK"), 2),
        (DeadFilter(reason="not today"), 1),
        (DeadFilter(older_than=3600.0), 0),
        (DeadFilter(newer_than=3600.0), 4),
        (DeadFilter(task="shop.*", exception="KeyError"), 1),
        (DeadFilter(ids=(every.letters[0].id,)), 1),
    ):
        assert dead_letters.search(shop, chosen, "mail").matched == count, chosen
    assert len(dead_letters.search(shop, limit=2).letters) == 2


def test_letters_come_in_groups_whose_filter_finds_them_again(shop: CloudQ) -> None:
    bury(shop)
    for by in ("reason", "exception", "task", "age"):
        found = dead_letters.groups(shop, by)
        assert sum(group.count for group in found.groups) == 4
        for group in found.groups:
            assert dead_letters.search(shop, group.filter).matched == group.count, (by, group)
    largest = dead_letters.groups(shop, "exception").groups[0]
    assert (largest.name, largest.count, largest.queues) == ("ValueError", 2, ["mail"])


def test_queues_are_summed_up_with_their_newest_reasons(shop: CloudQ) -> None:
    bury(shop)
    found = {each.queue: each for each in dead_letters.summary(shop)}
    assert list(found["default"].reasons) == []
    assert found["mail"].count == 4
    assert "not today" in found["mail"].reasons


def test_a_redrive_sends_what_a_filter_chooses_and_nothing_else(shop: CloudQ, by: Actor) -> None:
    bury(shop)
    done = dead_actions.redrive(shop, DeadFilter(exception="ValueError"), by=by, most=1)
    assert (done.done, done.chosen, list(done.failed)) == (1, 1, [])
    assert dead_letters.search(shop).matched == 3
    assert len(drain(shop)) == 1
    assert dead_letters.search(shop).matched == 4  # it has failed again
    [entry] = audit.read(shop).entries
    assert (entry.who, entry.action, entry.count) == ("ana", "redrive", 1)
    assert "exception='ValueError'" in entry.what


def test_a_letter_goes_again_with_other_arguments(shop: CloudQ, by: Actor) -> None:
    bury(shop)
    [letter, *_] = dead_letters.search(shop, DeadFilter(exception="ValueError")).letters
    chosen = DeadFilter(ids=(letter.id,))
    done = dead_actions.redrive(shop, chosen, "mail", by=by, edit=Edit(kwargs={"sku": "plum"}))
    assert (done.done, list(done.failed)) == (1, [])
    drain(shop)
    assert shop.AsyncResult(letter.id).get(timeout=10) == "plum"
    assert dead_letters.search(shop).matched == 3


def test_arguments_that_do_not_fit_leave_the_letter_where_it_is(shop: CloudQ, by: Actor) -> None:
    bury(shop)
    chosen = DeadFilter(task="shop.charge")
    done = dead_actions.redrive(shop, chosen, by=by, edit=Edit(kwargs={"size": 3}))
    assert (done.done, done.chosen, len(done.failed)) == (0, 3, 3)
    assert "size" in done.failed[0].reason
    assert dead_letters.search(shop).matched == 4
    [entry] = audit.read(shop).entries
    assert (entry.count, entry.outcome.startswith("3 not done")) == (0, True)


def test_letters_are_deleted_by_a_filter(shop: CloudQ, by: Actor) -> None:
    bury(shop)
    assert dead_actions.delete(shop, DeadFilter(task="shop.charge"), by=by).done == 3
    assert [seen.reason for seen in dead_letters.search(shop).letters] == ["not today"]


def test_a_letter_that_is_gone_is_told_by_its_id(shop: CloudQ, by: Actor) -> None:
    bury(shop)
    letters = dead_letters.search(shop, DeadFilter(task="shop.charge")).letters
    dead_actions.delete(shop, letters[:1], by=by)
    done = dead_actions.redrive(shop, letters, by=by)
    assert done.done == 2
    assert [failed.id for failed in done.failed] == [letters[0].id]
    with pytest.raises(ConfigurationError, match="no dead letter nobody"):
        dead_actions.redrive(shop, DeadFilter(ids=("nobody",)), "mail", by=by)


def test_letters_are_exported_whole(shop: CloudQ) -> None:
    bury(shop)
    lines = list(dead_letters.export(dead_letters.search(shop).letters))
    read = [json.loads(line) for line in lines]
    assert len(read) == 4
    assert {each["message"]["task"] for each in read} == {"shop.charge", "shop.refuse"}
    assert all("T" in each["sent_at"] for each in read)


def test_a_rate_is_kept(quick: CloudQ, by: Actor) -> None:
    for _ in range(4):
        quick.tasks["shop.charge"].delay("gone")
    drain(quick)
    waited: list[float] = []
    quick.runtime.services = replace(quick.runtime.services, sleep=waited.append)
    heard: list[int] = []
    done = dead_actions.redrive(quick, DeadFilter(), by=by, rate=2, told=heard.append)
    assert (done.done, heard) == (4, [2, 4])
    assert len(waited) == 1
    assert 0.5 < waited[0] <= 1.0


def test_a_cap_is_said(quick: CloudQ) -> None:
    for _ in range(5):
        quick.tasks["shop.charge"].delay("gone")
    drain(quick)
    found = dead_letters.search(quick, most=3)
    assert (found.matched, found.complete) == (3, False)
    assert found.scope == "3 of the first 3 dead letters"


def test_a_queue_that_is_not_there_is_told(quick: CloudQ, by: Actor) -> None:
    quick.tasks["shop.charge"].delay("gone")
    with pytest.raises(Exception, match="did you mean 'mail'"):
        dead_letters.search(quick, queue="mial")
    with pytest.raises(Exception, match="did you mean 'mail'"):
        dead_actions.purge(quick, "mial", by=by)
    assert "mial" not in queues.queue_names(quick)


# ---- the filter


NAMES = st.sampled_from(["shop.charge", "shop.add", "mail.send", "a[b]", "x*y"])
REASONS = st.sampled_from(
    [
        None,
        "ValueError: no stock",
        "cloudq.errors.WorkerLost: it died",
        "not today",
        "KeyError: 'a'",
    ]
)


@st.composite
def letters(draw: st.DrawFn) -> list[Seen]:
    """Make letters of some tasks, reasons and ages, some of them unreadable."""
    found: list[Seen] = []
    for number in range(draw(st.integers(0, 12))):
        sent = draw(st.one_of(st.none(), st.floats(0, 1_000_000)))
        peeked = Peeked(
            id=f"m{number}",
            body=b"{}",
            attempts=1,
            handle=number,
            sent_at=sent,
            reason=draw(REASONS),
        )
        message = TaskMessage(id=f"t{number}", task=draw(NAMES))
        readable = draw(st.booleans())
        found.append(
            Seen(queue="q", peeked=peeked, message=message, calls=[message])
            if readable
            else Seen(queue="q", peeked=peeked, problem="unreadable")
        )
    return found


@given(letters(), st.sampled_from(["reason", "exception", "task", "age"]))
def test_each_group_s_filter_chooses_exactly_the_group(
    found: list[Seen], by: dead_letters.By
) -> None:
    now = 1_000_000.0
    groups = dead_letters.grouped(found, by, now)
    chosen = [[seen.id for seen in found if g.filter.matches(seen, now)] for g in groups]
    assert [len(each) for each in chosen] == [group.count for group in groups]
    assert sorted(id for each in chosen for id in each) == sorted(seen.id for seen in found)


@given(
    letters(),
    st.builds(
        DeadFilter,
        task=st.one_of(st.none(), NAMES),
        error=st.one_of(st.none(), st.sampled_from(["stock", "DIED", "zzz"])),
        exception=st.one_of(st.none(), st.sampled_from(["ValueError", "errors.WorkerLost"])),
        older_than=st.one_of(st.none(), st.floats(0, 2_000_000)),
        newer_than=st.one_of(st.none(), st.floats(0, 2_000_000)),
    ),
)
def test_a_letter_fits_all_conditions_or_is_not_chosen(
    found: list[Seen], chosen: DeadFilter
) -> None:
    now = 1_000_000.0
    parts = [
        DeadFilter(**{name: getattr(chosen, name)})
        for name in ("task", "error", "exception", "older_than", "newer_than")
    ]
    for seen in found:
        assert chosen.matches(seen, now) == all(part.matches(seen, now) for part in parts)
        assert DeadFilter().matches(seen, now)


def test_the_payloads_of_a_deleted_letter_go_with_it(tmp_path: Path, by: Actor) -> None:
    """Those of a letter that is kept, or sent again, stay with it."""
    broker = f"sqlite:///{tmp_path}/large.db"
    store = tmp_path / "payloads"
    with CloudQ(
        "large", broker=broker, payload_store=f"file://{store}", payload_store_over=5000
    ) as app:

        @app.task(name="shop.refuse", dead_letter=True, max_retries=0)
        def refuse(why: str) -> None:
            raise ValueError("no")

        first = refuse.delay(os.urandom(6000).hex())
        refuse.delay(os.urandom(6000).hex())
        drain(app)
        assert _files(store) == 2
        done = dead_actions.delete(app, DeadFilter(ids=(first.id,)), by=by)
        assert (done.done, _files(store)) == (1, 1)
        [left] = dead_letters.search(app).letters
        dead_actions.redrive(app, [left], by=by)
        assert _files(store) == 1
        drain(app)
        dead_actions.redrive(app, DeadFilter(), by=by, edit=Edit(args=["short"]))
        assert _files(store) == 1  # the earlier call may be delivered again


def _files(folder: Path) -> int:
    return sum(1 for each in folder.rglob("*") if each.is_file())


def test_of_megabytes_only_what_is_shown_is_looked_at() -> None:
    """A secret may begin in what is looked at, and end far behind it."""
    long = "password='" + "a b " * 250_000 + "' "
    unread = Peeked(id="p", body=long.encode(), attempts=1, handle="p")
    body = Seen(queue="q", peeked=unread, problem="unreadable").arguments()
    assert body.startswith("password='***'")
    for args, kwargs in (([long, 1], {}), ([], {"a": long}), ([[long] * 9], {"b": [long] * 9})):
        message = TaskMessage(id="a", task="t", args=args, kwargs=kwargs)
        seen = Seen(queue="q", peeked=unread, message=message, calls=[message])
        tracemalloc.start()
        shown = seen.arguments(160)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert "a b" not in shown
        assert "***" in shown
        assert peak < 500_000, "the whole text was copied"


def test_a_secret_in_a_large_body_that_cannot_be_read_is_not_shown() -> None:
    body = json.dumps({"v": 99, "task": "t", "kwargs": {"card": "4111"}, "more": "x" * 20_000})
    unread = Peeked(id="p", body=body.encode(), attempts=1, handle="p")
    redaction = Redaction(("card",), {})
    seen = Seen(queue="q", peeked=unread, problem="unreadable", redaction=redaction)
    assert "4111" not in seen.arguments()
    assert "***" in seen.arguments(100)
