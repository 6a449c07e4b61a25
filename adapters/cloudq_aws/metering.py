"""Reports each request of a boto3 client to a meter, with the tries that the SDK made for it.

It listens to botocore's events, so that it sees every call, also those that no driver method makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from cloudq.driver.billing import (
    ACK,
    DELETE,
    EXTEND,
    GET,
    LOOK,
    OTHER,
    POLL,
    PUT,
    QUERY,
    RECEIVE,
    SEND,
    UPDATE,
    Meter,
    Spot,
)
from cloudq_aws.lean.early import listen
from cloudq_aws.prices import DYNAMODB, S3, SQS

if TYPE_CHECKING:
    from botocore.model import OperationModel

_SQS_CALLS: Mapping[str, str] = {
    "SendMessageBatch": SEND,
    "ReceiveMessage": RECEIVE,
    "DeleteMessageBatch": ACK,
    "ChangeMessageVisibilityBatch": EXTEND,
}
_DYNAMODB_CALLS: Mapping[str, str] = {
    "BatchWriteItem": PUT,
    "BatchGetItem": GET,
    "UpdateItem": UPDATE,
    "PutItem": UPDATE,
    "Query": QUERY,
    "GetItem": LOOK,
}
_S3_CALLS: Mapping[str, str] = {
    "PutObject": PUT,
    "CreateMultipartUpload": PUT,
    "UploadPart": PUT,
    "CompleteMultipartUpload": PUT,
    "GetObject": GET,
    "ListObjectsV2": QUERY,
    "DeleteObjects": DELETE,
}
# Bytes of the attribute with which each message is sent: its name, its type and a UUID.
_ATTRIBUTE = 51
_GIVEN = "cloudq_given"

_Given = Mapping[str, Any]


def meter_sqs(client: object, *, prefix: str) -> Meter:
    """Count a client's requests by queue; `prefix` is that of all queues' names."""
    meter = Meter(SQS)

    def answered(model: OperationModel, parsed: _Given, context: dict[str, Any], **_: Any) -> None:
        given: _Given = context.get(_GIVEN, {})
        call = _SQS_CALLS.get(model.name, OTHER)
        queue = given.get("QueueUrl") or given.get("QueueName", "")
        place = queue.rpartition("/")[2].removeprefix(prefix)
        items, size = len(given.get("Entries", ())), 0
        if call == RECEIVE:
            bodies = [message.get("Body", "") for message in parsed.get("Messages", ())]
            items, size = len(bodies), _size(bodies)
            call = RECEIVE if items else POLL
        elif call == SEND:
            size = _size([entry["MessageBody"] for entry in given["Entries"]])
        tries = _tries(parsed)
        if tries == 1:
            meter.count(call, place, items=items, size=size)
            return
        # An answer that is lost or comes too late is billed as well.
        (rate,) = SQS.calls[call]
        spot = Spot(call, place, rate.price_at(place))
        meter.add(spot, tries, items, tries * rate.units(items, size))

    _listen(client, "sqs", answered, _keep)
    return meter


def meter_dynamodb(client: object) -> Meter:
    """Count a client's requests by the kind of item, in the units that DynamoDB says they took."""
    meter = Meter(DYNAMODB)

    def answered(model: OperationModel, parsed: _Given, context: dict[str, Any], **_: Any) -> None:
        given: _Given = context.get(_GIVEN, {})
        call = _DYNAMODB_CALLS.get(model.name)
        if call is None:
            return
        place, items, call = _asked(given, call)
        (rate,) = DYNAMODB.calls[call]
        spot = Spot(call, place, rate.price)
        if "Error" in parsed:
            # A condition that fails is billed as the write would be; what is throttled is not.
            failed = parsed["Error"].get("Code") == "ConditionalCheckFailedException"
            meter.add(spot, _tries(parsed), items, rate.units(1, 0) if failed else 0)
            return
        meter.add(spot, _tries(parsed), items, _used(parsed) or rate.units(items, 0))

    _listen(client, "dynamodb", answered, _asking)
    return meter


def meter_s3(client: object, *, prefix: str) -> Meter:
    """Count a client's requests by the kind of blob; `prefix` is that of all keys."""
    meter = Meter(S3)

    def answered(model: OperationModel, parsed: _Given, context: dict[str, Any], **_: Any) -> None:
        given: _Given = context.get(_GIVEN, {})
        kind = str(given.get("Key", "")).removeprefix(prefix).partition("/")[0]
        call = _S3_CALLS.get(model.name, OTHER)
        objects = len(given["Delete"]["Objects"]) if call == DELETE else 1
        meter.count(call, kind, requests=_tries(parsed), items=objects)

    _listen(client, "s3", answered, _keep)
    return meter


def _listen(
    client: object, service: str, answered: Callable[..., None], given: Callable[..., Any]
) -> None:
    listen(client, f"provide-client-params.{service}", given)
    listen(client, f"after-call.{service}", answered)


def _keep(params: _Given, context: dict[str, Any], **_: Any) -> None:
    context[_GIVEN] = params


def _asking(
    params: dict[str, Any], context: dict[str, Any], model: OperationModel, **_: Any
) -> dict[str, Any] | None:
    """Have DynamoDB say what a request took."""
    context[_GIVEN] = params
    if model.name not in _DYNAMODB_CALLS:
        return None
    return {**params, "ReturnConsumedCapacity": "TOTAL"}


def _asked(given: _Given, call: str) -> tuple[str, int, str]:
    """Return the kind of item that a request is about, their number, and its call."""
    tables = given.get("RequestItems")
    if tables is None:
        key: Any = given.get("Key") or given.get("Item")
        partition: Any = key["pk"] if key else given["ExpressionAttributeValues"][":pk"]
        return _kind(partition), 1, call
    (wanted,) = tables.values()
    if call == GET:
        keys = wanted["Keys"]
        return _kind(keys[0]["pk"]), len(keys), GET if wanted["ConsistentRead"] else LOOK
    if "DeleteRequest" in wanted[0]:
        return _kind(wanted[0]["DeleteRequest"]["Key"]["pk"]), len(wanted), DELETE
    return _kind(wanted[0]["PutRequest"]["Item"]["pk"]), len(wanted), PUT


def _used(parsed: _Given) -> float:
    """Return the units that an answer says; 0 where it does not, as of an emulator."""
    told: Any = parsed.get("ConsumedCapacity") or []
    tables = cast("list[Any]", told) if isinstance(told, list) else [told]
    return sum(float(table.get("CapacityUnits", 0)) for table in tables)


def _kind(partition: Mapping[str, str]) -> str:
    return partition.get("S", "").partition("#")[0]


def _tries(parsed: _Given) -> int:
    return 1 + parsed.get("ResponseMetadata", {}).get("RetryAttempts", 0)


def _size(bodies: Sequence[str]) -> int:
    text = "".join(bodies)
    return _ATTRIBUTE * len(bodies) + (len(text) if text.isascii() else len(text.encode()))
