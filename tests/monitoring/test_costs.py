"""Counts become dollars by the rules of each service, shared among tasks without a rest."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq import ConfigurationError
from cloudq.driver.adapters import adapter
from cloudq.driver.billing import (
    ACK,
    GET,
    LOOK,
    POLL,
    PUT,
    RECEIVE,
    SEND,
    UPDATE,
    Rate,
    Spent,
    Spot,
    Tariff,
)
from cloudq.monitoring.costs.bill import bill
from cloudq.monitoring.costs.plan import Plan, dollars, measured, parts, tasks_a_day
from cloudq.monitoring.costs.prices import (
    PriceTable,
    check_region,
    checked_prices,
    known_tariffs,
    prices_in_file,
)
from cloudq.monitoring.costs.savings import savings
from cloudq.monitoring.costs.sheet import (
    OTHERS,
    Called,
    Handled,
    Sheet,
    Usage,
    from_bytes,
    to_bytes,
)


def tariff(url: str) -> Tariff:
    found = adapter(url).load_tariff()
    assert found is not None
    return found


SQS, DYNAMODB = tariff("sqs://"), tariff("dynamodb://")
AWS = PriceTable([SQS, DYNAMODB])
CLOUDS = {
    "sqs": "dynamodb",
    "pubsub": "firestore",
    "servicebus": "aztables",
}


class TestRates:
    @pytest.mark.parametrize(
        ("size", "units"), [(0, 1), (1, 1), (65_536, 1), (65_537, 2), (1_048_576, 16)]
    )
    def test_sqs_bills_each_started_64_kb_of_a_request(self, size: int, units: int) -> None:
        (rate,) = SQS.calls[SEND]
        assert rate.units(10, size) == units

    @pytest.mark.parametrize(
        ("items", "size", "units"), [(1, 300, 1), (1, 1025, 2), (25, 25 * 300, 25), (2, 4000, 4)]
    )
    def test_dynamodb_bills_each_item_that_is_written(
        self, items: int, size: int, units: int
    ) -> None:
        (rate,) = DYNAMODB.calls[PUT]
        assert rate.units(items, size) == units

    def test_a_read_that_may_be_behind_is_half(self) -> None:
        (look,), (get,) = DYNAMODB.calls[LOOK], DYNAMODB.calls[GET]
        assert get.units(3, 3 * 4097) == 6
        assert look.units(3, 3 * 4097) == 3
        assert look.units(1, 100) == 0.5

    def test_pubsub_bills_bytes_and_a_thousand_at_least(self) -> None:
        (rate,) = tariff("pubsub://").calls[SEND]
        assert [rate.units(1, size) for size in (10, 999, 1000, 64_000)] == [
            1000,
            1000,
            1000,
            64_000,
        ]
        assert ACK not in tariff("pubsub://").calls

    def test_service_bus_bills_each_message(self) -> None:
        (rate,) = tariff("servicebus://").calls[SEND]
        assert rate.units(10, 10 * 500) == 10
        assert rate.units(2, 2 * 96_000) == 4

    def test_an_update_in_firestore_is_a_read_and_a_write(self) -> None:
        rates = tariff("firestore://").calls[UPDATE]
        assert {rate.price for rate in rates} == {"firestore_write", "firestore_read"}

    def test_an_ordered_queue_has_its_own_price(self) -> None:
        (rate,) = SQS.calls[ACK]
        assert rate.price_at("orders") == "sqs_request"
        assert rate.price_at("orders.fifo") == "sqs_fifo_request"

    @given(st.integers(1, 1000), st.integers(0, 10**7), st.integers(1, 10**6))
    def test_no_byte_is_free_and_none_is_billed_twice(
        self, items: int, size: int, step: int
    ) -> None:
        whole = Rate(price="p", step=step)
        each = replace(whole, each=True)
        assert (whole.units(items, size) - 1) * step < size or whole.units(items, size) == 1
        assert whole.units(items, size) * step >= size
        assert each.units(items, size) >= max(items, whole.units(items, size))
        assert each.units(items, size) == items * max(1, ceil(size / items / step))

    def test_every_price_is_named_once_and_every_rate_has_one(self) -> None:
        tariffs = known_tariffs()
        names = [name for each in tariffs for name in each.prices]
        assert len(names) == len(set(names)) >= 9
        for each in tariffs:
            used = {
                name
                for rates in each.calls.values()
                for rate in rates
                for name in (rate.price, rate.ordered or rate.price)
            }
            assert used == set(each.prices)
            assert each.source.startswith("https://")
            assert each.regions


def sheet(*rows: tuple[str, str, str, float, float, float], **tasks: Handled) -> Sheet:
    """A sheet of rows, and of tasks on the queue `q` unless they are named `queue__task`."""
    made = Sheet()
    for call, place, price, requests, items, units in rows:
        made.spent[Spot(call, place, price)] = Spent(requests, items, units)
    for name, row in tasks.items():
        queue, _, task = name.rpartition("__")
        made.handled[Called(queue or "q", task)] = row
    return made


def handled(tasks: float, size: float = 500, stored: float = 500) -> Handled:
    return Handled(
        tasks=tasks, messages=tasks, size=size * tasks, records=tasks, stored=stored * tasks
    )


class TestBill:
    def test_a_task_alone_on_its_queue_has_the_queue_s_bill(self) -> None:
        made = bill(
            sheet(
                (SEND, "q", "sqs_request", 100, 1000, 100),
                (RECEIVE, "q", "sqs_request", 100, 1000, 100),
                (ACK, "q", "sqs_request", 100, 1000, 100),
                (POLL, "q", "sqs_request", 7, 0, 7),
                (PUT, "task", "dynamodb_write", 100, 1000, 1000),
                (UPDATE, "workers", "dynamodb_write", 240, 240, 240),
                a=handled(1000),
            ),
            AWS,
        )
        lines = {line.task: line for line in made.lines}
        assert lines["a"].requests == 400
        assert lines["a"].dollars == pytest.approx(300 * 0.4e-6 + 1000 * 0.625e-6)
        assert lines["(idle polls)"].dollars == pytest.approx(7 * 0.4e-6)
        assert lines["(heartbeats)"].dollars == pytest.approx(240 * 0.625e-6)
        assert made.total.estimated == 0

    def test_messages_share_a_queue_and_sizes_the_writes(self) -> None:
        made = bill(
            sheet(
                (SEND, "q", "sqs_request", 40, 40, 40),
                (ACK, "q", "sqs_request", 40, 40, 40),
                (PUT, "task", "dynamodb_write", 40, 40, 100),
                (UPDATE, "series", "dynamodb_write", 20, 20, 20),
                (UPDATE, "bundle", "dynamodb_write", 5, 5, 10),
                small=handled(30, stored=500),
                large=handled(10, stored=10 * 1024),
            ),
            AWS,
        )
        lines = {line.task: line for line in made.lines}
        assert lines["small"].units == pytest.approx(60 + 130 * 30 / 130)
        assert lines["large"].units == pytest.approx(20 + 130 * 100 / 130)

    def test_what_no_worker_has_sent_is_estimated(self) -> None:
        counted = sheet(
            (SEND, "q", "sqs_request", 5, 5, 5),
            (ACK, "q", "sqs_request", 100, 105, 100),
            a=handled(105),
        )
        alone = bill(counted, AWS)
        assert alone.total.estimated == 100
        assert alone.total.requests == 205
        together = bill(counted, AWS, sent_together=10)
        assert together.total.estimated == 10
        assert together.total.dollars == pytest.approx(115 * 0.4e-6)

    def test_large_messages_are_several_units_in_what_is_estimated_too(self) -> None:
        counted = sheet((ACK, "q", "sqs_request", 1, 1, 1), a=handled(1, size=100_000))
        assert bill(counted, AWS).total.units == 1 + 2

    @given(
        st.dictionaries(
            st.tuples(st.sampled_from(["q", "p", "o.fifo"]), st.sampled_from("abc")),
            st.builds(
                Handled,
                tasks=st.integers(0, 10**6),
                messages=st.integers(0, 10**6),
                size=st.integers(0, 10**9),
                records=st.integers(0, 10**6),
                stored=st.integers(0, 10**9),
            ),
            max_size=6,
        ),
        st.dictionaries(
            st.sampled_from(
                [
                    Spot(SEND, "q", "sqs_request"),
                    Spot(RECEIVE, "p", "sqs_request"),
                    Spot(POLL, "p", "sqs_request"),
                    Spot(ACK, "o.fifo", "sqs_fifo_request"),
                    Spot(PUT, "task", "dynamodb_write"),
                    Spot(LOOK, "task", "dynamodb_read"),
                    Spot(UPDATE, "join", "dynamodb_write"),
                    Spot("gossip", "", ""),
                ]
            ),
            st.builds(
                Spent,
                requests=st.integers(1, 10**6),
                items=st.integers(0, 10**6),
                units=st.integers(0, 10**6),
            ),
        ),
    )
    def test_nothing_is_lost_and_nothing_is_billed_twice(
        self, tasks: dict[tuple[str, str], Handled], spent: dict[Spot, Spent]
    ) -> None:
        counted = Sheet(spent=spent, handled={Called(*name): row for name, row in tasks.items()})
        made = bill(counted, AWS)
        total = made.total
        dollars = sum(AWS.dollars(spot.price, row.units) for spot, row in spent.items())
        requests = sum(row.requests for row in spent.values())
        assert total.requests - total.estimated == pytest.approx(requests)
        assert total.dollars >= dollars * (1 - 1e-9)
        if not total.estimated:
            assert total.dollars == pytest.approx(dollars)
        for lines in (made.by(task=False), made.by(queue=False), made.by()):
            assert sum(line.dollars for line in lines) == pytest.approx(total.dollars)
            assert sum(line.requests for line in lines) == pytest.approx(total.requests)


class TestHeartbeats:
    @given(
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 9999)),
        st.dictionaries(st.integers(500_000, 500_023), st.integers(1, 99)),
    )
    def test_small_counts_come_back_as_they_were(
        self, rows: dict[str, int], profile: dict[int, int]
    ) -> None:
        usage = Usage()
        for task, count in rows.items():
            usage.day.sheet.spent[Spot(SEND, task, "sqs_request")] = Spent(1, 2, count)
            usage.hour.sheet.handled[Called("q", task)] = Handled(tasks=count, messages=count)
        if profile:
            usage.day.profile |= {**profile, min(profile): 99}
        assert from_bytes(to_bytes(usage)) == usage

    @given(st.floats(0, 1e15))
    def test_large_counts_keep_four_digits(self, count: float) -> None:
        usage = Usage()
        usage.day.sheet.spent[Spot(SEND, "q", "sqs_request")] = Spent(count, 0, 0)
        read = from_bytes(to_bytes(usage))
        assert read is not None
        (row,) = read.day.sheet.spent.values()
        assert row.requests == pytest.approx(count, rel=0.001, abs=0.051)

    def test_a_heartbeat_stays_small_with_a_thousand_tasks(self) -> None:
        usage = Usage()
        for number in range(1000):
            called = Called(f"queue-{number % 7}", f"shop.tasks.a_long_name_of_task_{number}")
            usage.day.sheet.handled[called] = handled(number + 1)
            usage.hour.sheet.handled[called] = handled(number + 1)
        written = to_bytes(usage)
        assert len(written) <= 1300
        read = from_bytes(written)
        assert read is not None
        rows = read.day.sheet.handled
        assert sum(row.tasks for row in rows.values()) == pytest.approx(500 * 1001, rel=0.001)
        assert any(called.task == OTHERS for called in rows)
        assert Called("queue-5", "shop.tasks.a_long_name_of_task_999") in rows


class TestPlan:
    @pytest.mark.parametrize(
        ("text", "tasks"),
        [
            ("5M/day", 5e6),
            ("200/s", 200 * 86_400),
            ("1.5k/hour", 36_000),
            ("1/min", 1440),
            ("30 / month", 1),
            ("7 per week", 1),
            ("2G/days", 2e9),
            ("10b/d", 10e9),
        ],
    )
    def test_a_number_of_tasks_in_a_time(self, text: str, tasks: float) -> None:
        assert tasks_a_day(text) == pytest.approx(tasks)

    @pytest.mark.parametrize(
        "text",
        ["5Q", "5Q/day", "-5M/day", "0/day", "5M", "", "/day", "5M/year", "nan/day", "1e9/s"],
    )
    def test_what_is_no_number_of_tasks_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError, match=r"such as 5M/day or 200/s"):
            tasks_a_day(text)
        with pytest.raises(ConfigurationError, match="at most"):
            tasks_a_day("999999999999G/s")

    def test_the_known_figures_of_aws(self) -> None:
        """A million calls one by one: $1.20 for SQS, and 0.69 for the record and the look."""
        million = Plan(tasks=1e6, received=1, acked=1, reads=0, workers=0, payload=500, result=200)
        found = parts(million, SQS, DYNAMODB, AWS)
        assert dollars(found) == pytest.approx(1.2 + 0.625 + 0.0625)
        tens = replace(million, received=10, acked=10, together=10)
        assert dollars(parts(tens, SQS, DYNAMODB, AWS)) == pytest.approx(0.12 + 0.6875)

    @pytest.mark.parametrize("cloud", CLOUDS)
    def test_each_cloud_has_a_price_for_each_part(self, cloud: str) -> None:
        broker, store = tariff(f"{cloud}://"), tariff(f"{CLOUDS[cloud]}://")
        found = parts(Plan(tasks=1000), broker, store, PriceTable([broker, store]))
        free = {part.name for part in found if not part.dollars}
        assert len(found) == 8
        assert free <= {"ack, 10 a request", "idle polls"}
        assert parts(Plan(tasks=1000), None, None, AWS) == []

    @given(
        tasks=st.floats(1, 1e12),
        payload=st.integers(1, 10**6),
        bundle=st.integers(1, 1000),
        workers=st.integers(0, 100),
    )
    def test_more_tasks_cost_more_and_bundles_never_do(
        self, tasks: float, payload: int, bundle: int, workers: int
    ) -> None:
        plan = Plan(tasks=tasks, payload=payload, workers=workers, heartbeat=0)
        now = dollars(parts(plan, SQS, DYNAMODB, AWS))
        twice = dollars(parts(replace(plan, tasks=2 * tasks, workers=0), SQS, DYNAMODB, AWS))
        alone = dollars(parts(replace(plan, workers=0), SQS, DYNAMODB, AWS))
        assert twice == pytest.approx(2 * alone)
        assert now >= alone * (1 - 1e-9)
        bundled = replace(plan, bundle=bundle, workers=0)
        assert dollars(parts(bundled, SQS, DYNAMODB, AWS)) <= alone * (1 + 1e-9)
        for way in savings(plan, SQS, DYNAMODB, AWS):
            assert 0 < way.share <= 1
            assert way.dollars == pytest.approx(way.share * now * 30)

    def test_savings_name_what_is_not_done_yet(self) -> None:
        plan = Plan(tasks=1e6)
        changes = [way.change for way in savings(plan, SQS, DYNAMODB, AWS)]
        assert changes[0].startswith("bundles of 100")
        assert any(change.startswith("results ignored") for change in changes)
        done = replace(plan, bundle=100, stored=0, reads=0)
        left = [way.change for way in savings(done, SQS, DYNAMODB, AWS)]
        assert not any(change.startswith(("bundles", "results", "sends")) for change in left)

    def test_longer_polls_save_where_a_queue_is_idle(self) -> None:
        plan = Plan(tasks=10, poll_wait=1, heartbeat=0)
        ways = savings(plan, SQS, None, AWS)
        assert ways[0].change.startswith("polls of 20 s")
        assert ways[0].share > 0.9

    def test_a_smaller_message_saves_only_where_its_size_is_billed(self) -> None:
        small, large = Plan(tasks=1e6), Plan(tasks=1e6, payload=80_000)

        def changes(plan: Plan, broker: Tariff) -> str:
            return " ".join(way.change for way in savings(plan, broker, None, PriceTable([broker])))

        assert "smaller" not in changes(small, SQS)
        assert "smaller" in changes(large, SQS)
        assert "smaller" in changes(replace(small, payload=5000), tariff("pubsub://"))

    def test_averages_come_from_what_was_counted(self) -> None:
        counted = sheet(
            (RECEIVE, "q", "sqs_request", 50, 200, 50),
            (ACK, "q", "sqs_request", 20, 200, 20),
            a=handled(150, size=1000, stored=800),
            p__b=replace(handled(50, size=1000, stored=800), records=0, stored=0),
        )
        plan = measured(counted, 3600, Plan(tasks=0))
        assert plan.tasks == 200 * 24
        assert (plan.payload, plan.result, plan.received, plan.acked) == (1000, 500, 4, 10)
        assert (plan.stored, plan.queues) == (0.75, 2)
        assert measured(Sheet(), 3600, Plan(tasks=7)) == Plan(tasks=7)


class TestPrices:
    def test_the_user_s_own_prices_win(self) -> None:
        own = PriceTable([SQS], {"sqs_request": 1.0})
        assert own.dollars("sqs_request", 1_000_000) == 1.0
        assert own.dollars("sqs_fifo_request", 1_000_000) == 0.5
        assert own.dollars("", 5) == own.dollars("unheard", 5) == 0

    def test_a_file_of_prices(self, tmp_path: Path) -> None:
        path = tmp_path / "prices.toml"
        path.write_text("sqs_request = 0.44\n")
        assert prices_in_file(path) == {"sqs_request": 0.44}
        path.write_text("[prices]\nsqs_request = 1\n")
        assert prices_in_file(path) == {"sqs_request": 1.0}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("sqs_requests = 1", "there is no price sqs_requests: did you mean sqs_request?"),
            ("nothing = 1", "there is no price nothing: there are "),
            ("sqs_request = -1", "give dollars, from 0"),
            ("sqs_request = inf", "give dollars, from 0"),
            ("sqs_request = nan", "give dollars, from 0"),
            ("sqs_request = true", "give dollars, such as"),
            ("sqs_request = 'a'", "give dollars, such as"),
            ("sqs_request", "no TOML"),
            ("[[prices]]\na=1", "there is no price prices"),
            ("\x00", "no TOML"),
        ],
    )
    def test_a_wrong_file_is_one_error(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "prices.toml"
        path.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            prices_in_file(path)
        assert said in str(caught.value).replace("'", "")
        assert str(path) in str(caught.value)

    def test_a_file_that_is_not_there_is_one_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"cannot read the prices in .*No such file"):
            prices_in_file(tmp_path / "gone.toml")

    def test_a_region_without_prices_is_refused_unless_they_are_given(self) -> None:
        check_region("us-west-2", [SQS, DYNAMODB], {})
        check_region("anywhere", [tariff("pubsub://")], {})
        with pytest.raises(ConfigurationError, match=r"no prices of SQS in 'mars'.*us-east-1"):
            check_region("mars", [SQS, DYNAMODB], {})
        own = dict.fromkeys((*SQS.prices, *DYNAMODB.prices), 1.0)
        check_region("mars", [SQS, DYNAMODB], checked_prices(own, "here"))
