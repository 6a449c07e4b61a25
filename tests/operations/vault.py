"""An app with secrets in its arguments, which its tasks quote wherever they can."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, SecretStr

from cloudq import CloudQ, Reject, get_task_logger
from cloudq.monitoring.notifications import Failure, notify_failures

HERE = Path(os.environ.get("VAULT", "."))
KEYS = os.environ.get("VAULT_KEY")
ENCRYPTED: dict[str, Any] = {"encryption_keys": {"k": KEYS}} if KEYS else {}

log = get_task_logger(__name__)


def to_file(failure: Failure) -> None:
    """Write a report of a failure into a file, as a mail would be sent."""
    with (HERE / "mails.txt").open("a") as file:
        file.write(f"{failure.subject}\n{failure.text}\n{failure!r}\n")


if os.environ.get("VAULT_TRACES"):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    out = (HERE / "spans.txt").open("a", buffering=1)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
    trace.set_tracer_provider(provider)

app = CloudQ(
    "vault",
    broker=f"sqlite:///{HERE}/vault.db",
    redact=["password_*"],
    task_events="tracked",
    task_track_started=True,
    tracing=bool(os.environ.get("VAULT_TRACES")),
    default_retry_delay=0.0,
    max_retries=0,
    middleware=[notify_failures(to_file, every=0)],
    **ENCRYPTED,
)


class Order(BaseModel):
    """An order with a card."""

    card: SecretStr
    amount: int = 1


@app.task(name="pay", secret=["card"])
def pay(amount: int, card: str = "") -> int:
    """Succeed."""
    return amount


@app.task(name="fail", secret=["card"])
def fail(amount: int, card: str = "") -> None:
    """Quote the card in an exception, its cause, its notes, its arguments and its attributes."""
    try:
        raise KeyError(card)
    except KeyError as cause:
        error = ValueError(f"bad {card!r}", card, {"card": card}, json.dumps([card]))
        error.add_note(f"the card was {card}")
        error.data = {"card": card}  # type: ignore[attr-defined]
        raise error from cause


@app.task(name="again", secret=["card"], bind=True, max_retries=1)
def again(self: Any, *, card: str) -> None:
    """Quote it in a retry."""
    raise self.retry(exc=ValueError(card), countdown=0)


@app.task(name="spent", secret=["card"], bind=True)
def spent(self: Any, card: str) -> None:
    """Have no retries left."""
    raise self.retry(countdown=0)


@app.task(name="many", secret=["cards"])
def many(*cards: str) -> None:
    """Quote all of them, in a group."""
    raise ExceptionGroup(cards[0], [ValueError(each) for each in cards])


@app.task(name="named", secret=["more"])
def named(**more: Any) -> None:
    """Quote what has any name."""
    raise LookupError(more)


@app.task(name="key")
async def key(value: SecretStr | None) -> None:
    """Quote a secret of pydantic's."""
    assert value is not None
    raise OSError(5, value.get_secret_value(), value.get_secret_value())


@app.task(name="loose")
def loose(value: Any) -> None:
    """Quote a secret that no hint tells of."""
    raise ValueError(value["in"][0].get_secret_value())


@app.task(name="order")
def order(given: Order) -> None:
    """Quote a secret in a model."""
    raise RuntimeError(given.card.get_secret_value())


@app.task(name="config")
def config(given: dict[str, Any]) -> None:
    """Quote a value whose key the settings name."""
    raise ValueError(given["database"][0]["Password_1"])


@app.task(name="buried", secret=["card"], dead_letter=True)
def buried(card: str) -> None:
    """Leave a dead letter."""
    raise ValueError(card)


@app.task(name="refused", secret=["card"])
def refused(card: str) -> None:
    """Reject it, with a reason."""
    raise Reject(f"not this one: {card}")


@app.task(name="checked", secret=["number"])
def checked(number: Annotated[int, Field(gt=0)]) -> None:
    """Take a number."""


@app.task(name="logs", secret=["card"])
def logs(card: str) -> None:
    """Log it."""
    log.warning("took %s", card)
    log.warning("took %r", [card])
    logging.getLogger("other").warning("took %s", card)


@app.task(name="joined", secret=["card"])
def joined(values: list[int], card: str) -> None:
    """Be the body of a chord."""
    raise ValueError(card)


@app.task(name="told")
def told(request: Any, error: Any, trace: Any) -> None:
    """Be an error callback that fails too."""
    raise ValueError(repr([request, error, trace]))
