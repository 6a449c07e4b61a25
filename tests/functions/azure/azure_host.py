"""The parts of Azure Functions' host and worker around a function, with the SDK's converters.

The host is a program of its own and is imitated here. The SDK's decorators, bindings and
converters are real, and so are the queue and its leases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, get_type_hints

from azure.functions import FunctionApp, meta
from azure.functions.decorators.function_app import Function
from azure.functions.servicebus import ServiceBusMessageInConverter
from azure.functions.timer import TimerRequestConverter

from cloudq.broker.broker import Broker
from cloudq.driver import Delivery

Datum = meta.Datum


def functions(function_app: FunctionApp) -> dict[str, Function]:
    """The functions that the worker would index, by name."""
    return {function.get_function_name(): function for function in function_app.get_functions()}


def binding(function: Function) -> dict[str, Any]:
    """The one binding of a function, as the worker tells it to the host."""
    (found,) = json.loads(function.get_function_json())["bindings"]
    return found


class QueueHost:
    """Leases messages, hands them to a function, and completes or abandons them."""

    def __init__(self, function: Function, broker: Broker, *, lock: float = 60.0) -> None:
        self.binding = binding(function)
        self.function = function.get_user_function()
        self.broker = broker
        self.lock = lock
        name = self.binding["name"]
        assert get_type_hints(self.function)["return"] is type(None)
        annotation = get_type_hints(self.function)[name]
        assert ServiceBusMessageInConverter.check_input_type_annotation(annotation)
        self.error: Exception | None = None

    def pump(self, count: int = 1) -> list[Delivery]:
        """One call of the function with `count` messages; gives what it was called with."""
        deliveries: list[Delivery] = []
        queue = self.binding["queueName"]
        while len(deliveries) < count:
            left = count - len(deliveries)
            got = self.broker.receive(queue, count=left, wait=5, lease=self.lock)
            assert got, f"{len(deliveries)} of {count} messages are there"
            deliveries += got
        many = self.binding["cardinality"] == "MANY"
        assert many or count == 1
        data, metadata = self._many(deliveries) if many else self._one(deliveries[0])
        value = ServiceBusMessageInConverter.decode(data, trigger_metadata=metadata)
        self.error = None
        try:
            self.function(**{self.binding["name"]: value})
        except Exception as error:
            self.error = error
            self.broker.release(deliveries)
        else:
            # A message that the function has dead-lettered by itself has no lock any more.
            self.broker.ack(deliveries)
        return deliveries

    def _one(self, delivery: Delivery) -> tuple[Datum, dict[str, Datum]]:
        now = datetime.now(UTC)
        metadata = {
            "MessageId": Datum(delivery.id, "string"),
            "DeliveryCount": Datum(delivery.attempts, "int"),
            "LockToken": Datum(token(delivery), "string"),
            "EnqueuedTimeUtc": Datum(now.isoformat(), "string"),
            "LockedUntil": Datum((now + timedelta(seconds=self.lock)).isoformat(), "string"),
            "UserProperties": Datum("{}", "json"),
        }
        if delivery.group is not None:
            metadata["SessionId"] = Datum(delivery.group, "string")
        return Datum(delivery.body, "bytes"), metadata

    def _many(self, deliveries: Sequence[Delivery]) -> tuple[Datum, dict[str, Datum]]:
        now = datetime.now(UTC)
        until = (now + timedelta(seconds=self.lock)).isoformat()
        count = len(deliveries)
        metadata = {
            "MessageIdArray": _strings([d.id for d in deliveries]),
            "DeliveryCountArray": Datum(json.dumps([d.attempts for d in deliveries]), "json"),
            "LockTokenArray": _strings([token(d) for d in deliveries]),
            "EnqueuedTimeUtcArray": Datum(json.dumps([now.isoformat()] * count), "json"),
            "LockedUntilArray": Datum(json.dumps([until] * count), "json"),
            "UserPropertiesArray": Datum(json.dumps([{}] * count), "json"),
        }
        bodies = SimpleNamespace(bytes=[delivery.body for delivery in deliveries])
        return Datum(bodies, "collection_bytes"), metadata


def token(delivery: Delivery) -> str:
    """The lock token in a receipt, as the host tells it."""
    return str(delivery.receipt)


def _strings(values: list[str]) -> Datum:
    return Datum(SimpleNamespace(string=values), "collection_string")


def fire(function: Function, *, past_due: bool = False, due: datetime | None = None) -> None:
    """Call a timer's function as the host does at the time that it has noted as the next one."""
    user: Callable[..., None] = function.get_user_function()
    name = binding(function)["name"]
    assert TimerRequestConverter.check_input_type_annotation(get_type_hints(user)[name])
    info: dict[str, Any] = {"IsPastDue": past_due, "Schedule": {"AdjustForDST": True}}
    if due is not None:
        nothing = "0001-01-01T00:00:00+00:00"
        noted = {"Last": nothing, "Next": due.isoformat(), "LastUpdated": nothing}
        info["ScheduleStatus"] = noted
    user(
        **{name: TimerRequestConverter.decode(Datum(json.dumps(info), "json"), trigger_metadata={})}
    )
