"""`cloudq cost`: tables that fit a terminal, JSON for programs, and one error for bad input."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.driver import Change
from cloudq.driver.billing import ACK, POLL, PUT, RECEIVE, UPDATE, Spent, Spot
from cloudq.monitoring.costs.sheet import Called, Handled, Usage, to_bytes
from cloudq.monitoring.heartbeats import Heartbeat
from tests.cli.conftest import Run

PLAN = ("cost", "--estimate", "5M/day", "-b", "sqs://us-east-1", "--backend", "none")

ESTIMATE = """\
5,000,000 tasks a day on sqs://us-east-1
PART                   REQ/TASK  UNITS/TASK  $/MILLION  $/DAY  $/MONTH
send, 1 a request         1.000       1.000      0.400  2.000    60.00
receive, 10 a request     0.100       0.100     0.0400  0.200    6.000
ack, 10 a request         0.100       0.100     0.0400  0.200    6.000
idle polls                0.000       0.000       0.00   0.00     0.00
total                     1.200       1.200      0.480  2.400    72.00

WOULD SAVE, AT THIS RATE                    $/MONTH   %
bundles of 100 calls (bundle=100)             70.86  98
sends in batches of ten (with app.batch())    54.00  75
"""

BILL = """\
QUEUE    TASK          TASKS  REQ/TASK  UNITS/TASK  $/MILLION   DOLLARS
default  shop.add        900     1.200       2.200      1.105  0.000995
mail     shop.send       100     1.300       2.300      1.145  0.000114
-        (heartbeats)      -         -           -          -  0.000150
default  (idle polls)      -         -           -          -  0.000120
-        total         1,000     1.750       2.750      1.379   0.00138
"""


def counted(*, hour_old: bool = False) -> bytes:
    """The counts of a worker of the shop, in this hour or in the one before the last."""
    usage, now = Usage(), time.time()
    spent = {
        Spot(RECEIVE, "default", "sqs_request"): Spent(90, 900, 90),
        Spot(ACK, "default", "sqs_request"): Spent(90, 900, 90),
        Spot(POLL, "default", "sqs_request"): Spent(300, 0, 300),
        Spot(RECEIVE, "mail", "sqs_request"): Spent(20, 100, 20),
        Spot(ACK, "mail", "sqs_request"): Spent(10, 100, 10),
        Spot(PUT, "task", "dynamodb_write"): Spent(0, 1000, 1000),
        Spot(UPDATE, "workers", "dynamodb_write"): Spent(240, 240, 240),
    }
    handled = {
        Called("default", "shop.add"): Handled(900, 900, 900 * 300, 900, 900 * 310),
        Called("mail", "shop.send"): Handled(100, 100, 100 * 300, 100, 100 * 310),
    }
    spans = [usage.day] if hour_old else [usage.hour, usage.day]
    for span in spans:
        span.sheet.spent |= spent
        span.sheet.handled |= handled
        span.profile[int((now - 7200 * hour_old) // span.length)] = 750
    return to_bytes(usage)


def beat(project: Path, usage: bytes, name: str = "one") -> None:
    """Store a heartbeat with counts, as a worker with a billed queue would."""
    with CloudQ("shop", broker=f"sqlite:///{project}/shop.db") as app:
        heartbeats = app.control.heartbeats
        heartbeats.exchange(Heartbeat(hostname=name, seen=time.time()), usage=usage)


SHOP_ON_SQS = ("-b", "sqs://us-east-1", "--backend", "sqlite:///shop.db")


class TestEstimate:
    def test_a_plan_is_a_table_of_its_parts(self, command: Run) -> None:
        ran = command(*PLAN)
        assert ran.code == 0, ran.err
        assert ran.out == ESTIMATE
        assert "prices: SQS us-east-1 2026-11" in ran.err
        assert "assumed: messages of 500 bytes" in ran.err

    def test_its_json_has_the_same_numbers(self, command: Run) -> None:
        ran = command(*PLAN, "--json")
        assert ran.json["dollars_a_month"] == pytest.approx(72)
        assert ran.json["parts"][0]["name"] == "send, 1 a request"
        assert ran.json["savings"][0]["dollars"] == pytest.approx(70.86, abs=0.01)
        assert ran.json["prices"][0]["source"] == "https://aws.amazon.com/sqs/pricing/"

    def test_what_is_given_is_reckoned_with(self, command: Run) -> None:
        ran = command(*PLAN, "--json", "--sent-together", "10", "--price", "sqs_request=0.8")
        assert ran.json["dollars_a_day"] == pytest.approx(0.3 * 5 * 0.8)
        ran = command(*PLAN, "--json", "--payload", "80000", "--result", "9", "--workers", "3")
        assert ran.json["plan"]["payload"] == 80_000
        assert ran.json["plan"]["workers"] == 3

    def test_the_plan_of_each_cloud(self, command: Run) -> None:
        for broker, store in (
            ("pubsub://p", "firestore://p/c"),
            ("servicebus://n", "aztables://account/t"),
        ):
            ran = command(
                "cost", "--estimate", "1M/day", "-b", broker, "--backend", store, "--json"
            )
            assert ran.code == 0, ran.err
            assert ran.json["dollars_a_day"] > 0

    def test_averages_of_the_app_s_tasks_are_used(self, command: Run, project: Path) -> None:
        usage = counted()
        beat(project, usage)
        ran = command("cost", "--estimate", "1M/day", *SHOP_ON_SQS, "--json")
        # The store of the counts is not billed here, so they are not looked for.
        assert ran.json["plan"]["payload"] == 500


class TestCounted:
    def test_the_bill_is_a_table_by_queue_and_task(self, command: Run, project: Path) -> None:
        beat(project, counted())
        ran = command("cost", *SHOP_ON_SQS)
        assert ran.code == 0, ran.err
        assert re.match(r"\d\d:\d\d to \d\d:\d\d, counted by 1 worker\n", ran.out)
        lines = ran.out.partition("\n")[2]
        assert lines.startswith(BILL), lines
        assert "WOULD SAVE" in lines
        assert "1,000 of 1,750 requests are estimated" in ran.err
        assert "tasks share them by messages" in ran.err

    @pytest.mark.parametrize(
        ("by", "first"), [("queue", "default "), ("task", "shop.add "), ("both", "default  shop")]
    )
    def test_rows_by_queue_or_task(self, command: Run, project: Path, by: str, first: str) -> None:
        beat(project, counted())
        ran = command("cost", "--by", by, *SHOP_ON_SQS)
        assert any(line.startswith(first) for line in ran.lines), ran.out
        total = next(line for line in ran.lines if line.startswith(("total", "-        total")))
        assert total.split()[-1] == "0.00138"

    def test_json_has_each_call_with_its_service(self, command: Run, project: Path) -> None:
        beat(project, counted())
        found = command("cost", *SHOP_ON_SQS, "--json").json
        acks = [call for call in found["calls"] if call["call"] == "ack"]
        assert {(call["service"], call["place"], call["requests"]) for call in acks} == {
            ("SQS", "default", 90),
            ("SQS", "mail", 10),
        }
        assert found["workers"] == 1
        assert found["total"]["dollars"] == pytest.approx((510 + 1000) * 0.4e-6 + 1240 * 0.625e-6)
        assert [line["what"] for line in found["lines"]] == [
            None,
            None,
            "heartbeats",
            "idle polls",
        ]
        assert found["notes"]

    def test_the_last_day_has_more_than_the_last_hour(self, command: Run, project: Path) -> None:
        beat(project, counted(hour_old=True))
        beat(project, counted(), "two")
        assert command("cost", *SHOP_ON_SQS, "--json").json["total"]["tasks"] == 1000
        day = command("cost", "--since", "1d", *SHOP_ON_SQS, "--json").json
        assert day["total"]["tasks"] == 2000
        assert day["workers"] == 2

    def test_a_terminal_of_80_columns_shows_whole_numbers(
        self, command: Run, project: Path
    ) -> None:
        usage = counted()
        beat(project, usage)
        near, far = pty.openpty()
        with os.fdopen(near, "rb", buffering=0) as terminal:
            done = subprocess.Popen(
                [sys.executable, "-m", "cloudq", "cost", *SHOP_ON_SQS],
                cwd=project,
                env={**os.environ, "COLUMNS": "80", "TERM": "dumb"},
                stdout=far,
                stderr=subprocess.DEVNULL,
            )
            os.close(far)
            shown = b""
            while True:
                try:
                    more = terminal.read(65_536)
                except OSError:  # the other end is closed
                    break
                if not more:
                    break
                shown += more
            assert done.wait() == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
        assert max(map(len, lines)) <= 80
        assert any(line.split() == BILL.splitlines()[1].split() for line in lines), lines


class TestNothing:
    @pytest.fixture(autouse=True)
    def _files(self, project: Path) -> None:
        for name in ("cloudq.db", "shop.db"):
            (project / name).touch()

    def test_what_is_not_billed_costs_nothing(self, command: Run) -> None:
        ran = command("cost")
        assert (ran.code, ran.out) == (0, "")
        assert ran.err == "sqlite:///cloudq.db costs nothing: its requests are not billed\n"

    @pytest.mark.parametrize(
        ("words", "env", "said"),
        [
            (SHOP_ON_SQS, {}, "nothing is counted yet: no worker has sent a heartbeat with counts"),
            (("-b", "sqs://us-east-1", "--backend", "none"), {}, "counts in the result store"),
            (SHOP_ON_SQS, {"CLOUDQ_WORKER_HEARTBEAT": "0"}, "worker_heartbeat is 0"),
        ],
    )
    def test_it_says_why_nothing_is_counted(
        self, command: Run, words: tuple[str, ...], env: dict[str, str | None], said: str
    ) -> None:
        ran = command("cost", *words, env=env)
        assert (ran.code, ran.out) == (0, "")
        assert said in ran.err
        assert "cloudq cost --estimate 5M/day" in ran.err

    def test_its_json_is_an_empty_bill(self, command: Run) -> None:
        found = command("cost", *SHOP_ON_SQS, "--json").json
        assert found["lines"] == []
        assert found["total"]["dollars"] == 0

    def test_what_a_stranger_wrote_is_passed_over(self, command: Run, project: Path) -> None:
        with CloudQ("shop", broker=f"sqlite:///{project}/shop.db") as app:
            app.control.heartbeats.exchange(Heartbeat(hostname="odd"), usage=b"odd")
            assert app.backend is not None
            key = next(iter(app.backend.query("workers").items)).key._replace(sort="odder")
            app.backend.update(key, Change(set={"usage": "text"}))
        ran = command("cost", *SHOP_ON_SQS)
        assert ran.code == 0
        assert "nothing is counted yet" in ran.err


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--estimate", "5Q"), "--estimate is '5Q': give the tasks of a time, such as 5M/day"),
            (("--estimate", "-5M/day"), "--estimate is '-5M/day': give the tasks"),
            (("--estimate", "5M/day", "--payload", "0"), "--payload"),
            (("--estimate", "5M/day", "--payload", "99999999999"), "--payload is 99,999,999,999"),
            (("--estimate", "5M/day", "--reads", "nan"), "--reads"),
            (("--estimate", "5M/day", "--reads", "inf"), "--reads is inf: give a number"),
            (("--estimate", "\u0663/day"), "give the tasks of a time"),
            (("--price", "sqs_request=\u0663"), "write it as NAME=0.40"),
            (("--estimate", "5M/day", "-b", "bogus://x"), 'no broker for "bogus://"'),
            (("--estimate", "5M/day", "--backend", "sqs://x"), 'no backend for "sqs://"'),
            (("--since", "2h"), "--since"),
            (("--by", "cat"), "--by"),
            (("--region", "mars"), "there are no prices of SQS in 'mars': the table has us-east-1"),
            (("--price", "sqs_request"), "the price is missing: write it as NAME=0.40"),
            (("--price", "sqs_request=free"), "the price is free: write it as"),
            (("--price", "sqs=1"), "there is no price 'sqs'"),
            (("--prices", "gone.toml"), "cannot read the prices in gone.toml"),
            (("--prices", "shop.py"), "no TOML"),
        ],
    )
    def test_it_is_one_error(self, command: Run, words: tuple[str, ...], said: str) -> None:
        ran = command("cost", "-b", "sqs://us-east-1", "--backend", "none", *words)
        assert (ran.code, ran.out) == (2, "")
        assert said in ran.err
        assert ran.err.startswith("error: ")
        assert ran.err.count("\n") == 1

    def test_a_wrong_setting_is_one_error(self, command: Run) -> None:
        ran = command("cost", "--list-prices", env={"CLOUDQ_PRICES": '{"sqs_requst": 0.4}'})
        assert (ran.code, ran.out) == (2, "")
        assert "the setting prices: there is no price 'sqs_requst': did you mean" in ran.err


def test_the_list_of_prices_shows_the_user_s_own(command: Run, project: Path) -> None:
    (project / "mine.toml").write_text("sqs_request = 0.44\n")
    words = ("cost", "--list-prices", "--prices", "mine.toml")
    ran = command(*words)
    assert any(re.match(r"sqs_request +0\.44 +1M +request of up to 64 KB", x) for x in ran.lines)
    assert "SQS: https://aws.amazon.com/sqs/pricing/" in ran.err
    listed = {each["name"]: each for each in command(*words, "--json").json}
    assert listed["sqs_request"]["dollars"] == 0.44
    assert listed["sqs_request"]["list"] == 0.40
    assert listed["dynamodb_write"]["date"] == "2026-11"
