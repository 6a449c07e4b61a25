"""Secrets of calls are hidden in whatever form a text has them, and tasks get them as they are."""

from __future__ import annotations

import html
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    Field,
    RootModel,
    SecretBytes,
    SecretStr,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from cloudq import CloudQ, ConfigurationError, InvalidArguments, get_task_logger
from cloudq.dashboard.actions.edits import edit_of
from cloudq.driver import Delivery
from cloudq.driver.log import Log
from cloudq.execution.consume import log_outcome
from cloudq.execution.outcomes import Job
from cloudq.messages.hiding import LEAST, Hiding
from cloudq.messages.redaction import Redaction
from cloudq.testing import drain
from cloudq.text import HIDING, masked

CARD = "4111-canary"
WRITES: list[Callable[[str], str]] = [str, repr, ascii, json.dumps, html.escape, quote]


@pytest.fixture
def app() -> Iterator[CloudQ]:
    with CloudQ("hidden", broker=f"memory://{uuid.uuid4().hex}", redact=["pin*"]) as made:
        yield made


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=LEAST), st.data())
def test_a_secret_is_found_in_each_form(secret: str, data: st.DataObject) -> None:
    once, twice = (data.draw(st.sampled_from(WRITES)) for _ in range(2))
    unlikely = f"<{secret}>"  # else the words around it may have it too
    shown = Hiding([unlikely]).text(f"around {twice(once(unlikely))} it")
    assert unlikely not in shown
    assert "***" in shown


def test_values_of_all_kinds_are_found() -> None:
    class Model(BaseModel):
        inside: dict[str, list[str]]

    @dataclass
    class Held:
        secret: SecretBytes

    hide = Hiding(
        [
            *(41114111, Decimal("41.11"), date(2030, 1, 2), b"by\xfftes", {"name": "in-a-dict"}),
            *(
                {"in-a-set"},
                Model(inside={"a": ["in-a-model"]}),
                Held(SecretBytes(b"held-1")),
                0.25,
            ),
        ]
    )
    text = (
        "41114111 41,114,111 41.11 2030-01-02 b'by\\xfftes' 6279ff746573 in-a-dict in-a-set "
        "in-a-model held-1 0.25"
    )
    assert set(hide.text(text).split()) <= {"***", "b'***'"}
    assert hide.text("the name of it") == "the name of it"  # keys are names


@pytest.mark.parametrize("value", ["", "1", "no", "123", True, None, 7])
def test_short_values_garble_no_text(value: object) -> None:
    text = "1 of 123: no, True and None, at 7"
    assert Hiding([value]).text(text) == text


def test_what_pydantic_quotes_is_cut_out() -> None:
    class Number(BaseModel):
        number: int

    secret = "x" * 30 + CARD * 9
    with pytest.raises(ValueError, match="number") as raised:
        Number(number=secret)  # type: ignore[arg-type]
    said = str(raised.value)
    assert "xxxx" in said
    assert "xxxx" not in Hiding([secret]).text(said)


def test_a_task_gets_what_is_hidden(app: CloudQ) -> None:
    got: list[Any] = []

    @app.task(name="take", secret=["card", "rest", "more"], bind=True)
    def take(self: Any, card: str, *rest: Any, pins: Any = None, **more: Any) -> None:
        got.append([card, rest, pins, more])
        assert CARD not in repr(self.request)
        assert CARD not in self.request.argsrepr + self.request.kwargsrepr

    take.delay(CARD, SecretStr(CARD), pins={"pin1": CARD}, other=CARD)
    take.apply((CARD, SecretStr(CARD)), {"pins": {"pin1": CARD}, "other": CARD}).get()
    drain(app)
    want = [CARD, (SecretStr(CARD),), {"pin1": CARD}, {"other": CARD}]
    assert got == [want, want]


class Chosen(BaseModel):
    card: SecretStr = Field(validation_alias=AliasChoices("cc", "number"))


class Deep(BaseModel):
    card: SecretStr = Field(validation_alias=AliasPath("payment", "cc"))


class Whole(RootModel[SecretStr]): ...


class Pair(NamedTuple):
    order: int
    card: SecretStr


class Table(TypedDict):
    order: int
    card: SecretStr


@dataclass
class Base:
    card: SecretStr


@dataclass
class Derived(Base):
    order: int = 1


@pydantic_dataclass
class Named:
    card: SecretStr = Field(alias="cc")


@pytest.mark.parametrize(
    ("hint", "given"),
    [
        (Chosen, {"cc": CARD}),
        (Chosen, {"number": CARD}),
        (Deep, {"payment": {"cc": CARD}}),
        (Whole, CARD),
        (list[Whole], [CARD]),
        (Pair, [7, CARD]),
        (Table, {"order": 7, "card": CARD}),
        (Derived, {"card": CARD}),
        (Named, {"cc": CARD}),
    ],
)
def test_a_plain_value_is_hidden_where_its_hint_has_a_secret(
    app: CloudQ, hint: Any, given: Any
) -> None:
    def take(value: Any) -> None: ...

    take.__annotations__["value"] = hint
    task: Any = app.task(name="take")(take)
    assert CARD not in repr(task.s(given))
    assert CARD not in repr(task.s({"list": [given]}))
    assert "shown" in repr(task.s({"order": "shown"})) or hint in (Whole, list[Whole], Pair)


def test_a_log_line_with_a_traceback_has_no_secret(
    app: CloudQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="fail", secret=["card"], max_retries=0)
    def fail(card: str) -> None:
        raise ValueError(card)

    message = app.publisher.builder.of_call(fail, fail._call_options, (CARD,), {})  # pyright: ignore
    delivery = Delivery(queue="default", id="1", body=b"", receipt=None, attempts=1, lease=0.0)
    settlement = app.executor().run(Job(delivery=delivery, message=message))
    assert HIDING.get() is None
    log_outcome(Log("cloudq.test"), settlement, delivery, traceback=True)
    assert "Traceback" in caplog.text
    assert "ValueError: ***" in caplog.text
    assert CARD not in caplog.text
    assert CARD not in repr(settlement.record)
    assert CARD in str(settlement.error)  # which hooks get as it is


def test_records_of_a_task_s_logger_are_without_secrets_for_any_handler(app: CloudQ) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    log = get_task_logger(f"hidden.{uuid.uuid4().hex}")
    log.addHandler(Keep())
    log.setLevel("DEBUG")

    @app.task(name="logs", secret=["card"])
    def logs(card: str) -> None:
        log.info("took %r", card)
        try:
            raise KeyError(card)
        except KeyError:
            log.exception("broken %d", 1)

    logs.delay(CARD)
    drain(app)
    log.info("took %r", CARD)
    texts = [logging.Formatter().format(record) for record in records]
    assert [CARD in text for text in texts] == [False, False, True]
    assert "took '***'" in texts[0]


def test_the_next_call_is_not_hidden_by_the_one_before(app: CloudQ) -> None:
    @app.task(name="fail", secret=["card"], max_retries=0)
    def fail(card: str, other: str) -> None:
        raise ValueError(other)

    first, second = fail.delay("word-1", "word-2"), fail.delay("word-2", "word-1")
    drain(app)
    assert [str(each.get(propagate=False)) for each in (first, second)] == ["word-2", "word-1"]
    assert masked("word-1 word-2") == "word-1 word-2"


def test_an_exception_keeps_its_class_and_its_parts(app: CloudQ) -> None:
    @app.task(name="fail", secret=["card"], max_retries=0)
    def fail(card: str, cvv: int = 0) -> None:
        raise OSError(5, f"refused {card}", card)

    raised = fail.delay(CARD)
    drain(app)
    error: Any = raised.get(propagate=False)
    assert type(error) is OSError
    assert (error.errno, error.strerror, error.filename) == (5, "refused ***", "***")


def test_a_secret_makes_no_key_by_its_text(app: CloudQ) -> None:
    @app.task(name="once", unique="{key}")
    def once(key: SecretStr) -> None: ...

    with pytest.raises(InvalidArguments, match="a secret makes no key"):
        once.delay(SecretStr(CARD))


def test_no_key_is_made_of_what_is_secret_in_arguments(app: CloudQ) -> None:
    class Paid(BaseModel):
        order: int
        card: SecretStr

    for option in ("unique", "concurrency", "group_key", "dedup_key"):
        with pytest.raises(ConfigurationError, match="and pin_1 is secret: a key is shown"):
            app.task(name="refused", **{option: "of:{pin_1}"})(lambda pin_1: None)  # type: ignore

    @app.task(name="whole", unique="of:{given}")
    def whole(given: Any) -> None: ...

    @app.task(name="part", unique="of:{given[pin]}")
    def part(given: Any) -> None: ...

    @app.task(name="model", unique="of:{paid.card}")
    def model(paid: Paid) -> None: ...

    @app.task(name="hinted", unique="of:{key}")
    def hinted(key: SecretStr) -> None: ...

    @app.task(name="order", unique="of:{paid.order}:{given[host]}")
    def order(paid: Paid, given: Any) -> None: ...

    paid = Paid(order=7, card=SecretStr(CARD))
    given = {"host": "db", "pin": CARD}
    sends: list[Callable[[], Any]] = [
        lambda: whole.delay(given),
        lambda: whole.delay([SecretStr(CARD)]),
        lambda: whole.delay(paid),
        lambda: part.delay(given),
        lambda: model.delay(paid),
        lambda: hinted.delay(CARD),  # type: ignore[arg-type]
    ]
    for send in sends:
        with pytest.raises(InvalidArguments, match="a secret makes no key"):
            send()
    assert whole.delay({"host": "db"})
    assert order.delay(paid, given)
    assert len(drain(app)) == 2


def test_an_edit_leaves_the_secrets_that_it_was_shown_hidden(app: CloudQ) -> None:
    @app.task(name="pay", secret=["card"])
    def pay(card: str, amount: int, more: object = None) -> None: ...

    args, kwargs = [CARD, 1], {"more": {"pin": 12, "x": [{"pin": 3}]}}
    shown = app.runtime.redaction.shown("pay", args, kwargs)
    assert shown == (["***", 1], {"more": {"pin": "***", "x": [{"pin": "***"}]}})
    edit = edit_of(
        '["***", 2]',
        '{"more": {"pin": "***", "x": [{"pin": "***"}], "y": 1}}',
        args_before=args,
        kwargs_before=kwargs,
        shown=shown,
    )
    assert edit is not None
    assert edit.args == [CARD, 2]
    assert edit.kwargs == {"more": {"pin": 12, "x": [{"pin": 3}], "y": 1}}


def test_a_body_that_cannot_be_read_is_shown_without_what_is_named_secret() -> None:
    rules = Redaction(["card"], {})
    body = json.dumps({"v": 9, "task": "t", "args": [], "kwargs": {"card": CARD}})
    assert CARD not in rules.body(body)
    assert rules.body("{no json") == "{no json"
