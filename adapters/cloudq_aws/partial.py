"""Batches from which one element is held back, and what their answers then say.

For `cloudq.testing.FaultProxy(..., batches=held_back)` before an emulator of SQS or DynamoDB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

_SQS = frozenset({"SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"})


Part = tuple[bytes | None, Callable[[Any], Any]]
"""The body of the rest, None if there is none; and what adds to the rest's answer that the element
has failed."""


def held_back(headers: Mapping[str, str], body: bytes, choose: Callable[[int], int]) -> Part | None:
    """Hold back the element that `choose` names by its place; None if this is no batch."""
    operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
    if operation in _SQS:
        return _of_sqs(json.loads(body), choose)
    if operation == "BatchWriteItem":
        return _of_dynamodb(json.loads(body), choose, None, "UnprocessedItems")
    if operation == "BatchGetItem":
        return _of_dynamodb(json.loads(body), choose, "Keys", "UnprocessedKeys")
    return None


def _of_sqs(request: dict[str, Any], choose: Callable[[int], int]) -> Part:
    entries: list[dict[str, Any]] = request["Entries"]
    held = entries.pop(choose(len(entries)))

    def told(answer: Any) -> Any:
        failed = {
            "Id": held["Id"],
            "Code": "InternalError",
            "Message": "as planned",
            "SenderFault": False,
        }
        done: list[Any] = answer.get("Successful") or []
        return {"Successful": done, "Failed": [*(answer.get("Failed") or ()), failed]}

    return (json.dumps(request).encode() if entries else None), told


def _of_dynamodb(
    request: dict[str, Any], choose: Callable[[int], int], member: str | None, unprocessed: str
) -> Part:
    items: dict[str, Any] = request["RequestItems"]
    table, wanted = next(iter(items.items()))
    elements: list[Any] = wanted if member is None else wanted[member]
    held = elements.pop(choose(len(elements)))

    def told(answer: Any) -> Any:
        left: list[Any] = [held]
        unfinished: dict[str, Any] = answer.get(unprocessed) or {}
        before: Any = unfinished.get(table)
        if before:
            more: list[Any] = before if member is None else before[member]
            left += more
        whole: Any = left if member is None else dict(wanted, **{member: left})
        answer[unprocessed] = {table: whole}
        if member is not None:
            answer.setdefault("Responses", {})
        return answer

    return (json.dumps(request).encode() if elements else None), told
