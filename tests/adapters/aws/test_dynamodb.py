"""DynamoDB passes the contracts, over a local server and over moto."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from cloudq.driver import Address, Change, Check, Code, ConditionFailed, Item, Key, Op
from cloudq.driver.advice import explain
from cloudq.errors import ConfigurationError
from cloudq.testing import BackendContract, UpdateContract
from cloudq.testing.waiting import at_once
from cloudq_aws.dynamodb import DynamoDB, open_backend
from cloudq_aws.dynamodb_items import key_attributes, to_attributes
from localstack.servers import Endpoint
from tests.servers import skip_gap, unique

# Part of a test's name -> what moto does otherwise than DynamoDB; the other stand-in runs them.
MOTO_GAPS = {
    "racing_increments": "moto loses updates of parallel threads",
    "racing_writers": "moto loses updates of parallel threads",
    "one_of_many_claims": "moto lets two parallel conditions hold",
    "discarding_a_member_twice": "moto loses updates of parallel threads",
    "one_of_many_wins": "moto lets two parallel conditions hold",
    "moto-yes-=-1": "moto takes true for 1",
    "moto-n-<-6-False": "moto fails to compare a number with a string",
    "moto-gone-=-None": "moto takes an absent attribute for NULL",
}


@pytest.fixture(scope="module", params=["ministack", "moto"])
def place(request: pytest.FixtureRequest) -> Iterator[Address]:
    """The URL of a table in each stand-in for DynamoDB; the table is not there yet."""
    table = unique("cloudq")
    if request.param == "moto":
        with mock_aws():
            yield Address(scheme="dynamodb", host=table)
        return
    endpoint = request.getfixturevalue("aws")
    yield Address(scheme="dynamodb", host=table, options={"endpoint_url": endpoint.url})


@pytest.fixture(scope="module")
def drivers(place: Address) -> Iterator[tuple[DynamoDB, DynamoDB]]:
    """Two on one table for all tests: to make a client takes 0.2 s, and keys are a test's own."""
    driver, another = open_backend(place), open_backend(place)
    driver.create_store()
    yield driver, another
    driver.client.delete_table(TableName=place.host)
    another.close()
    driver.close()


@pytest.fixture
def address(request: pytest.FixtureRequest, place: Address) -> Address:
    """The table's URL."""
    if "endpoint_url" not in place.options:
        skip_gap(request, MOTO_GAPS)
    return place


@pytest.fixture
def driver(address: Address, drivers: tuple[DynamoDB, DynamoDB]) -> DynamoDB:
    """A driver on the table."""
    return drivers[0]


class BackendFixtures:
    has_missing_store = True

    @pytest.fixture
    def driver(self, driver: DynamoDB) -> DynamoDB:
        return driver

    @pytest.fixture
    def another(self, drivers: tuple[DynamoDB, DynamoDB]) -> DynamoDB:
        return drivers[1]

    @pytest.fixture
    def missing_store(self, aws: Endpoint) -> Iterator[DynamoDB]:
        options = {"endpoint_url": aws.url}
        missing = open_backend(Address(scheme="dynamodb", host=unique(), options=options))
        yield missing
        missing.close()


class TestBackend(BackendFixtures, BackendContract):
    pass


class TestUpdate(BackendFixtures, UpdateContract):
    pass


def requests(driver: DynamoDB) -> list[str]:
    """The operations that the driver sends from now on, as they go."""
    sent: list[str] = []
    driver.client.meta.events.register(
        "before-call.dynamodb", lambda model, **_: sent.append(model.name)
    )
    return sent


@pytest.fixture
def key() -> Key:
    """A key in the table of `driver`."""
    return Key(unique(), "item")


NUMBERS = (
    *(2, 2.0, 0.0, -0.0, 0.1 + 0.2, 1e22, 12345678901234567.0),
    *(1e300, -1e-300, 5e-324, 1e-129, 1.7976931348623157e308, float("inf")),
    *(10**38 - 1, 10**38, -(2**200)),
)


class TestValues:
    @pytest.mark.parametrize(
        "value",
        NUMBERS,
    )
    def test_numbers_come_back_exactly_and_with_their_type(
        self, driver: DynamoDB, key: Key, value: float
    ) -> None:
        for write in (
            lambda: driver.put([Item(key=key, fields={"n": value})]),
            lambda: driver.update(key, Change(set={"n": value})),
        ):
            write()
            found = driver.get([key], consistent=True)[key].fields["n"]
            assert (type(found), repr(found)) == (type(value), repr(value))

    def test_a_number_changes_its_type_with_its_value(self, driver: DynamoDB, key: Key) -> None:
        steps: list[tuple[Change, int | float]] = [
            (Change(set={"n": 2.0}), 2.0),
            (Change(increment={"n": 1}), 3.0),
            (Change(set={"n": 2}), 2),
            (Change(increment={"n": 0.5}), 2.5),
            (Change(increment={"n": 0.5}), 3.0),
            (Change(remove=frozenset({"n"})), 0),
            (Change(increment={"n": 4}), 4),
        ]
        for change, expected in steps:
            found = driver.update(key, change).fields.get("n", 0)
            assert (type(found), found) == (type(expected), expected)

    def test_fields_may_be_called_like_the_layout_or_a_reserved_word(
        self, driver: DynamoDB, key: Key
    ) -> None:
        names = ("pk", "sk", "expires", "field:x", "float:x", "x", "status", "a.b", "size", "ü #1")
        fields = dict.fromkeys(names, 1.0)
        assert not driver.put([Item(key=key, fields=fields)])
        check = tuple(Check(field=name, op=Op.EQ, value=1.0) for name in names)
        item = driver.update(key, Change(increment=dict.fromkeys(names, 1), when=check))
        assert (dict(item.fields), item.expires) == (dict.fromkeys(names, 2.0), None)


class TestExpiry:
    def test_racing_writers_revive_an_expired_item_once(self, driver: DynamoDB, key: Key) -> None:
        dead = Item(key=key, fields={"old": 1, "n": 100}, expires=time.time() - 5)
        assert not driver.put([dead])
        at_once(8, lambda _: driver.update(key, Change(increment={"n": 1})))
        assert dict(driver.get([key], consistent=True)[key].fields) == {"n": 8}

    def test_one_of_many_claims_an_expired_item(self, driver: DynamoDB, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"owner": -1}, expires=time.time() - 5)])
        free = Check(field="owner", op=Op.ABSENT)

        def claim(number: int) -> bool:
            try:
                driver.update(key, Change(set={"owner": number}, when=(free,)))
            except ConditionFailed as failed:
                return failed.current is None
            return True

        assert at_once(8, claim).count(True) == 1

    def test_the_table_deletes_by_the_same_attribute(
        self, driver: DynamoDB, address: Address
    ) -> None:
        reply = driver.client.describe_time_to_live(TableName=address.host)
        assert reply["TimeToLiveDescription"].get("AttributeName") == "expires"

    def test_a_page_of_expired_items_does_not_end_a_query(self, driver: DynamoDB) -> None:
        name, past = unique(), time.time() - 5
        items = [
            Item(key=Key(name, f"{number:02}"), fields={}, expires=past if number < 15 else None)
            for number in range(20)
        ]
        assert not driver.put(items)
        page = driver.query(name, after=None, limit=3)
        assert [item.key.sort for item in page.items] == ["15", "16", "17"]
        assert page.next == "17"


class TestRequests:
    def test_a_batch_and_a_conditional_update_are_one_request_each(
        self, driver: DynamoDB, key: Key
    ) -> None:
        sent = requests(driver)
        items = [Item(key=Key(key.partition, f"{n}"), fields={"n": n}) for n in range(25)]
        driver.put(items)
        driver.get([item.key for item in items], consistent=False)
        driver.update(key, Change(set={"a": 1}, when=(Check(field="a", op=Op.ABSENT),)))
        with pytest.raises(ConditionFailed):
            driver.update(key, Change(set={"a": 1}, when=(Check(field="a", op=Op.ABSENT),)))
        driver.query(key.partition, after=None, limit=100)
        driver.delete([item.key for item in items])
        assert sent == [
            "BatchWriteItem",
            "BatchGetItem",
            "UpdateItem",
            "UpdateItem",
            "Query",
            "BatchWriteItem",
        ]

    def test_the_last_of_two_items_with_one_key_counts(self, driver: DynamoDB, key: Key) -> None:
        assert not driver.put([Item(key=key, fields={"n": n}) for n in range(3)])
        assert driver.get([key, key], consistent=True)[key].fields == {"n": 2}
        assert not driver.delete([key, key])

    def test_one_item_over_the_limit_leaves_the_others_written(
        self, driver: DynamoDB, key: Key
    ) -> None:
        large = Item(key=Key(key.partition, "large"), fields={"x": "x" * 410_000})
        (failure,) = driver.put([large, Item(key=key, fields={})])
        assert (failure.index, failure.code) == (0, Code.TOO_LARGE)
        assert key in driver.get([key], consistent=True)


class TestThrottling:
    """Answers that no local server gives, so that botocore's own Stubber gives them."""

    @pytest.fixture
    def stubbed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[DynamoDB, Stubber]]:
        monkeypatch.setattr("cloudq_aws.dynamodb._PAUSE", 0.0)
        driver = open_backend(Address(scheme="dynamodb", host="table"))
        with Stubber(driver.client) as stubber:
            yield driver, stubber
        driver.close()

    def test_unprocessed_items_are_sent_again_and_no_others(
        self, stubbed: tuple[DynamoDB, Stubber]
    ) -> None:
        driver, stubber = stubbed
        one, two = ({"PutRequest": {"Item": to_attributes(item)}} for item in ITEMS)
        told = {"ReturnConsumedCapacity": "TOTAL"}  # for the bill
        stubber.add_response(
            "batch_write_item",
            {"UnprocessedItems": {"table": [two]}},
            {"RequestItems": {"table": [one, two]}, **told},
        )
        done = {"UnprocessedItems": {}}
        rest = {"RequestItems": {"table": [two]}, **told}
        stubber.add_response("batch_write_item", done, rest)
        assert not driver.put(ITEMS)

    def test_a_batch_of_which_a_part_passes_each_time_is_never_given_up(
        self, stubbed: tuple[DynamoDB, Stubber]
    ) -> None:
        driver, stubber = stubbed
        items = [Item(key=Key("a", str(number)), fields={}) for number in range(20)]
        requests = [{"PutRequest": {"Item": to_attributes(item)}} for item in items]
        for passed in range(1, 21):
            left = {"table": requests[passed:]} if passed < 20 else {}
            stubber.add_response("batch_write_item", {"UnprocessedItems": left})
        assert not driver.put(items)
        keys = [key_attributes(item.key) for item in items]
        for passed in range(1, 21):
            read = {"Responses": {"table": [to_attributes(items[passed - 1])]}}
            left = {"table": {"Keys": keys[passed:]}} if passed < 20 else {}
            stubber.add_response("batch_get_item", {**read, "UnprocessedKeys": left})
        assert len(driver.get([item.key for item in items], consistent=True)) == 20

    def test_what_stays_unprocessed_is_throttled(self, stubbed: tuple[DynamoDB, Stubber]) -> None:
        driver, stubber = stubbed
        left = [{"PutRequest": {"Item": to_attributes(ITEMS[1])}}]
        for _ in range(8):
            stubber.add_response("batch_write_item", {"UnprocessedItems": {"table": left}})
        (failure,) = driver.put(ITEMS)
        assert (failure.index, failure.code) == (1, Code.THROTTLED)

    def test_unread_keys_are_read_again(self, stubbed: tuple[DynamoDB, Stubber]) -> None:
        driver, stubber = stubbed
        found = [{"Responses": {"table": [to_attributes(item)]}} for item in ITEMS]
        unread = {"table": {"Keys": [key_attributes(ITEMS[1].key)]}}
        stubber.add_response("batch_get_item", {**found[0], "UnprocessedKeys": unread})
        stubber.add_response("batch_get_item", {**found[1], "UnprocessedKeys": {}})
        keys = [item.key for item in ITEMS]
        assert driver.get(keys, consistent=True) == dict(zip(keys, ITEMS, strict=True))

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("AccessDeniedException", Code.DENIED),
            ("ProvisionedThroughputExceededException", Code.THROTTLED),
            ("UnrecognizedClientException", Code.CREDENTIALS),
            ("RequestTimeTooSkewed", Code.CREDENTIALS),
            ("RequestSkewed", Code.CREDENTIALS),
            ("RequestEntityTooLarge", Code.TOO_LARGE),
            ("InternalServerError", Code.UNREACHABLE),
            ("SomethingNew", Code.UNKNOWN),
        ],
    )
    def test_errors_have_codes(
        self, stubbed: tuple[DynamoDB, Stubber], name: str, code: Code
    ) -> None:
        driver, stubber = stubbed
        stubber.add_client_error("get_item", name, http_status_code=400)
        with pytest.raises(ClientError) as caught:
            driver.check_store()
        assert driver.error_code(caught.value) is code

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("RequestTimeTooSkewed", "The difference is too large."),
            ("InvalidSignatureException", "Signature expired: 1 is now earlier than 2"),
        ],
    )
    def test_a_clock_that_is_off_is_to_be_set(
        self, stubbed: tuple[DynamoDB, Stubber], name: str, message: str
    ) -> None:
        driver, stubber = stubbed
        stubber.add_client_error("get_item", name, message, http_status_code=403)
        with pytest.raises(ClientError) as caught:
            driver.check_store()
        code = driver.error_code(caught.value)
        told = explain("read", code, caught.value, missing="", driver=driver)
        assert told.startswith("cannot read: this machine's clock is minutes off the service's")
        assert driver.advice(TimeoutError()) is None


ITEMS = [Item(key=Key("a", str(number)), fields={"n": number}) for number in range(2)]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (Address(scheme="dynamodb", path="x", url="dynamodb:///x"), "as an option, dynamodb://"),
        (Address(scheme="dynamodb", options={"consistent": "maybe"}), "true or false"),
        (
            Address(scheme="dynamodb", options={"ttl": "1"}),
            "no option 'ttl'; it knows client, consistent,",
        ),
    ],
)
def test_a_wrong_url_says_what_is_right(address: Address, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_backend(address)
