"""The result store on DynamoDB.

Its URL is `dynamodb://table?region=&endpoint_url=&profile=&client=&consistent=`.

One table holds everything. Its layout, which is the same for every release of the format:

    pk       S   partition key: `Key.partition`
    sk       S   sort key: `Key.sort`
    expires  N   when the item ends, epoch seconds, rounded up; the table's TTL attribute
    others       each field under its own name: S, B, N, BOOL, NULL or SS

A field that is called like one of the first three is stored as `field:pk` and so on; a field
`float:x` marks the whole number in `x` as a float (see `dynamodb_items`). DynamoDB deletes
expired items days late, so that every read and every condition here looks at `expires` itself.

`consistent=false` makes `query` eventually consistent, at half the price.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from cloudq.clock import Backoff
from cloudq.driver import (
    Address,
    Change,
    Code,
    ConditionFailed,
    Failure,
    Item,
    Key,
    Page,
    StoreLimits,
)
from cloudq.errors import ConfigurationError
from cloudq_aws.answers import cut, told
from cloudq_aws.client import Access, access
from cloudq_aws.dynamodb_items import (
    EXPIRES,
    LONGEST_SORT,
    PARTITION,
    SORT,
    expires_in,
    from_attributes,
    key_attributes,
    key_in,
    partition_text,
    size,
    stored_key,
    to_attributes,
)
from cloudq_aws.dynamodb_update import Expressions, holds_on_nothing, made_of_nothing
from cloudq_aws.errors import AwsError, advice, error_code, response_of
from cloudq_aws.metering import meter_dynamodb

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        KeysAndAttributesTypeDef,
        QueryInputTypeDef,
        WriteRequestTypeDef,
    )

_ITEM = 400 * 1024
# Rounds in a row in which DynamoDB processes nothing of a batch, until that counts as throttled;
# the first and the longest pause before what is left is sent again, which it asks for. They grow
# only while nothing passes.
_ROUNDS = 8
_PAUSE, _LONGEST_PAUSE = 0.05, 6.4
# Each round of an update that meets an expired item means that another writer got ahead.
_RACES = 20
_REFUSED = "ConditionalCheckFailedException"
_BOOLEANS = {"true": True, "false": False, "": True}

_Wanted = Mapping[Key, "WriteRequestTypeDef"]


def open_backend(address: Address) -> DynamoDB:
    """The driver of a `dynamodb://` URL. Raises `ConfigurationError`."""
    if address.path:
        raise ConfigurationError(
            f"{address.url} has a path: write the table's name first, and its region as an option,"
            f" dynamodb://{address.path.strip('/') or 'cloudq'}?region=eu-west-1"
        )
    reach = access(address, options=("client", "consistent"))
    consistent = _BOOLEANS.get(address.options.get("consistent", ""))
    if consistent is None:
        raise ConfigurationError(f"consistent in {address.url} is true or false")
    return DynamoDB(reach, table=address.host or "cloudq", consistent=consistent)


class DynamoDB:
    """A `BackendDriver` and `StoreAdmin` on one table."""

    limits = StoreLimits(put=25, get=100, item=_ITEM, bills_kilobytes=True)

    def __init__(self, reach: Access, *, table: str, consistent: bool = True) -> None:
        self.client = cast("DynamoDBClient", reach.client("dynamodb"))
        self.meter = meter_dynamodb(self.client)
        self._table = table
        self._consistent = consistent

    def put(self, items: Sequence[Item]) -> Sequence[Failure]:
        """Write whole items in one batch; of two with one key, the last counts."""
        large = [index for index, item in enumerate(items) if _too_large(item)]
        failures = [
            Failure(index=index, code=Code.TOO_LARGE, reason=_describe(items[index]))
            for index in large
        ]
        # One item over the limit would make DynamoDB refuse the others with it.
        wanted: dict[Key, WriteRequestTypeDef] = {
            item.key: {"PutRequest": {"Item": to_attributes(item)}}
            for index, item in enumerate(items)
            if index not in large
        }
        left = self._write(wanted)
        failures += _throttled(
            index for index, item in enumerate(items) if stored_key(item.key) in left
        )
        return failures

    def delete(self, keys: Sequence[Key]) -> Sequence[Failure]:
        """Delete items in one batch; a missing one is no failure."""
        wanted: dict[Key, WriteRequestTypeDef] = {
            key: {"DeleteRequest": {"Key": key_attributes(key)}} for key in keys
        }
        left = self._write(wanted)
        return _throttled(index for index, key in enumerate(keys) if stored_key(key) in left)

    def _write(self, wanted: _Wanted) -> set[Key]:
        # Returns the keys that DynamoDB did not write in any round.
        requests: dict[Key, Any] = {stored_key(key): request for key, request in wanted.items()}
        backoff = Backoff(_PAUSE, _LONGEST_PAUSE)
        while requests and backoff.failures < _ROUNDS:
            reply = self.client.batch_write_item(
                RequestItems={self._table: list(requests.values())}
            )
            unwritten: list[WriteRequestTypeDef] = self._own(told(reply, "UnprocessedItems")) or []
            left = {_key_of(request) for request in unwritten}
            if left - requests.keys():
                raise cut("it has an item that was not sent")
            if len(left) < len(requests):
                backoff.succeeded()
            if left:
                time.sleep(backoff.failed())
            # Sent again is what the caller gave, not what the answer shows.
            requests = {key: request for key, request in requests.items() if key in left}
        return set(requests)

    def _own(self, tables: Mapping[str, Any]) -> Any:
        """Return what an answer says of the table, if anything. Raises for another one."""
        if tables.keys() - {self._table}:
            raise cut("it is about another table")
        return tables.get(self._table)

    def get(self, keys: Sequence[Key], *, consistent: bool) -> Mapping[Key, Item]:
        """Read items in one batch; raises when DynamoDB leaves some out in every round."""
        asked = {stored_key(key): key for key in keys}
        wanted: dict[Key, Any] = {name: key_attributes(key) for name, key in asked.items()}
        found: dict[Key, Item] = {}
        backoff = Backoff(_PAUSE, _LONGEST_PAUSE)
        while wanted and backoff.failures < _ROUNDS:
            request: KeysAndAttributesTypeDef = {
                "Keys": list(wanted.values()),
                "ConsistentRead": consistent,
            }
            reply = self.client.batch_get_item(RequestItems={self._table: request})
            now = time.time()
            unread = self._own(told(reply, "UnprocessedKeys"))
            answers = told(reply, "Responses")
            read: list[Any] = self._own(answers) or [] if unread else told(answers, self._table)
            for attributes in read:
                key = asked.get(key_in(attributes))
                if key is None:
                    raise cut("it has an item that was not asked for")
                if not _expired(attributes, now):
                    found[key] = from_attributes(attributes, key)
            left = set(map(key_in, told(unread, "Keys"))) if unread else set[Key]()
            if left - wanted.keys():
                raise cut("it has a key that was not asked for")
            # 16 MB an answer leaves keys out too; only an answer without any item means throttling.
            if len(left) < len(wanted):
                backoff.succeeded()
            else:
                time.sleep(backoff.failed())
            wanted = {name: key for name, key in wanted.items() if name in left}
        if wanted:
            raise AwsError(f"DynamoDB left {len(wanted)} keys unread", code=Code.THROTTLED)
        return found

    def update(self, key: Key, change: Change) -> Item:
        """Change one item in one request; two or more if an expired one is still in its place.

        The first request holds only where the item is absent or alive. If it fails on an expired
        item, which counts as absent, the checks are decided here, on no field at all, and a new
        item is put in its place whole, on the condition that what is there has expired by the same
        clock. If that fails, somebody else was faster (or the TTL was), and all begins again: no
        state between the two requests can be mistaken for another.
        """
        if size(change.set.items()) + size(change.add.items()) > _ITEM:
            raise AwsError(f"the change of {key} is over {_ITEM} bytes", code=Code.TOO_LARGE)
        for _ in range(_RACES):
            now = time.time()
            try:
                return self._update_alive(key, change, now)
            except Exception as error:
                standing = _standing(error)
            if standing and key_in(standing) != stored_key(key):
                raise cut("it is about another item")
            if not standing or not _expired(standing, now):
                raise ConditionFailed(from_attributes(standing, key) if standing else None)
            if not all(map(holds_on_nothing, change.when)):
                raise ConditionFailed(None)
            item = made_of_nothing(key, change)
            if self._replace_expired(item, now):
                return from_attributes(to_attributes(item), key)
        raise AwsError(f"too many writers at {key}", code=Code.THROTTLED)

    def _update_alive(self, key: Key, change: Change, now: float) -> Item:
        build = Expressions()
        conditions = [build.alive(now), *map(build.check, change.when)]
        extra: dict[str, Any] = {}
        if expression := build.update(change):
            extra["UpdateExpression"] = expression
        reply = self.client.update_item(
            TableName=self._table,
            Key=key_attributes(key),
            ConditionExpression=" AND ".join(conditions),
            ExpressionAttributeNames=build.names,
            ExpressionAttributeValues=build.values,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **extra,
        )
        attributes = told(reply, "Attributes")
        if key_in(attributes) != stored_key(key):
            raise cut("it is about another item")
        return from_attributes(attributes, key)

    def _replace_expired(self, item: Item, now: float) -> bool:
        build = Expressions()
        condition = build.expired(now)
        try:
            self.client.put_item(
                TableName=self._table,
                Item=to_attributes(item),
                ConditionExpression=condition,
                ExpressionAttributeNames=build.names,
                ExpressionAttributeValues=build.values,
            )
        except Exception as error:
            _standing(error)
            return False
        return True

    def query(self, partition: str, *, after: str | None, limit: int) -> Page:
        """Read a partition in order, from the sort key behind `after`."""
        items: list[Item] = []
        while True:
            request: QueryInputTypeDef = {
                "TableName": self._table,
                "KeyConditionExpression": "#pk = :pk",
                "ExpressionAttributeNames": {"#pk": PARTITION},
                "ExpressionAttributeValues": {":pk": {"S": partition_text(partition)}},
                "ConsistentRead": self._consistent,
                "Limit": limit - len(items),
            }
            if after is not None:
                request["ExclusiveStartKey"] = key_attributes(Key(partition, after))
            reply = self.client.query(**request)
            now = time.time()
            read = told(reply, "Items")
            if told(reply, "Count") != len(read):
                raise cut(f"it has {len(read)} items and counts {reply['Count']}")
            after = _end(reply, Key(partition_text(partition), after or ""))
            items += [
                from_attributes(found, Key(partition, key_in(found).sort))
                for found in read
                if not _expired(found, now)
            ]
            # A page of 1 MB, or of expired items, ends early.
            if after is None or len(items) >= limit:
                return Page(items=items, next=after)

    def create_store(self) -> None:
        """Make the table, billed by request, with its TTL; point-in-time recovery stays off."""
        try:
            self.client.create_table(
                TableName=self._table,
                AttributeDefinitions=[
                    {"AttributeName": PARTITION, "AttributeType": "S"},
                    {"AttributeName": SORT, "AttributeType": "S"},
                ],
                KeySchema=[
                    {"AttributeName": PARTITION, "KeyType": "HASH"},
                    {"AttributeName": SORT, "KeyType": "RANGE"},
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        except self.client.exceptions.ResourceInUseException:
            return
        waiter = self.client.get_waiter("table_exists")
        waiter.wait(TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        self.client.update_time_to_live(
            TableName=self._table,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES},
        )

    def check_store(self) -> None:
        """Read an item that is not there: it needs no right that a worker lacks."""
        self.client.get_item(TableName=self._table, Key=key_attributes(Key("check", "-")))

    def error_code(self, error: Exception) -> Code:
        """Return the code of an error of this driver."""
        return error_code(error)

    def advice(self, error: Exception) -> str | None:
        """Return what to do about an error; None for the advice that goes by its code."""
        return advice(error)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def _standing(error: Exception) -> Mapping[str, Any] | None:
    # The item on which a condition failed; every other error is raised again.
    response = response_of(error)
    if response is None or response.get("Error", {}).get("Code") != _REFUSED:
        raise error
    return cast("Mapping[str, Any] | None", response.get("Item"))


def _end(reply: Mapping[str, Any], start: Key) -> str | None:
    """Return the sort key where a page says that it ends; None if it is the last one.

    Raises for a page that is not behind `start`, and in order: a query would never end.
    """
    last, behind = reply.get("LastEvaluatedKey"), start.sort
    for key in map(key_in, reply["Items"]):
        if key.partition != start.partition or key.sort <= behind:
            raise cut("it has an item that was not asked for")
        behind = key.sort
    if not last:
        return None
    end = key_in(last)
    if end.partition != start.partition or not start.sort < end.sort >= behind:
        raise cut("its end is none of what was asked for")
    return end.sort


def _expired(attributes: Mapping[str, Any], now: float) -> bool:
    expires = expires_in(attributes)
    return expires is not None and expires <= now


def _too_large(item: Item) -> bool:
    if len(item.key.sort.encode()) > LONGEST_SORT:
        return True
    keys = (("pk", item.key.partition), ("sk", item.key.sort))
    return size((*keys, *item.fields.items())) > _ITEM


def _describe(item: Item) -> str:
    if len(item.key.sort.encode()) > LONGEST_SORT:
        return f"the sort key {item.key.sort[:40]}... is over DynamoDB's {LONGEST_SORT} bytes"
    return f"item {item.key.partition}/{item.key.sort} is over DynamoDB's {_ITEM} bytes"


def _throttled(indexes: Iterable[int]) -> list[Failure]:
    reason = "DynamoDB left it unprocessed: the table is throttled"
    return [Failure(index=index, code=Code.THROTTLED, reason=reason) for index in indexes]


def _key_of(request: WriteRequestTypeDef) -> Key:
    put = request.get("PutRequest")
    return key_in(told(put, "Item") if put else told(told(request, "DeleteRequest"), "Key"))
