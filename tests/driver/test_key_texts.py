"""Keys become names that each service takes: what it takes stays, and none meets another."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.driver import Delivery, Key, Outgoing
from cloudq_aws import dynamodb_items, eventbridge
from cloudq_aws import messages as sqs
from cloudq_azure import messages as servicebus
from cloudq_azure import tables_keys
from cloudq_gcp import firestore_items
from cloudq_gcp import messages as pubsub


def repeated(text: str, count: int) -> str:
    return text * count


KEYS: st.SearchStrategy[str] = st.one_of(
    st.text(min_size=1, max_size=400),
    st.text(alphabet="ab~/. é世𝄞\x00\n", min_size=1, max_size=2048),
    st.builds(repeated, st.sampled_from("a~é世𝄞/%"), st.integers(1, 2048)),
)
# The alphabet of SQS's API reference, letter by letter.
SQS = set("""abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789""")
SQS |= set("""!"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~""")


def entry(message: Outgoing) -> tuple[str, str]:
    made = sqs.outgoing_entry(0, message, fifo=True)
    return made.get("MessageGroupId", ""), made.get("MessageDeduplicationId", "")


@given(KEYS, KEYS)
def test_sqs_takes_every_group_and_id(group: str, id: str) -> None:
    ordered = Outgoing(id=id, body=b"{}", group=group, dedup=group)
    for text in (*entry(ordered), *entry(Outgoing(id=id, body=b"{}"))):
        assert 1 <= len(text) <= 128
        assert set(text) <= SQS


@given(KEYS, KEYS, KEYS)
def test_copies_and_schedules_have_the_group_of_the_first_message(
    group: str, id: str, other: str
) -> None:
    first, _ = entry(Outgoing(id=id, body=b"{}", group=group))
    delivery = Delivery(queue="q", id=id, body=b"{}", receipt="r", attempts=1, lease=1, group=first)
    copy = sqs.dead_entry(0, delivery, reason="r", source="q", fifo=True)
    assert copy.get("MessageGroupId") == first
    target = eventbridge._target(  # pyright: ignore[reportPrivateUsage]
        "{}", queue="q", role="r", dead="", retries=1, max_age=60, group=group
    )
    assert target["SqsParameters"] == {"MessageGroupId": first}


def document_id(text: str) -> str:
    return firestore_items.document_id(Key(text))


FORMS = {
    "SQS": (sqs.key_text, 128),
    "Service Bus": (servicebus.key_text, 128),
    "Pub/Sub": (pubsub.key_text, 1024),
    "DynamoDB": (dynamodb_items.partition_text, 2048),
    "Firestore": (document_id, 1500),
    "Tables": (tables_keys.partition_key, 512),
}


@pytest.mark.parametrize("service", FORMS)
@given(KEYS, KEYS)
def test_keys_stay_apart_and_short(service: str, one: str, two: str) -> None:
    form, most = FORMS[service]
    assert form(one) == form(one)
    assert (form(one) == form(two)) == (one == two)
    assert (form("x" * 5000 + one) == form("x" * 5000 + two)) == (one == two)
    assert len(form(one).encode()) <= most or service == "Service Bus"
    assert len(form(one).encode("utf-16-le")) <= 2 * most


@given(st.text(alphabet=sorted(SQS), min_size=1, max_size=128))
def test_what_sqs_takes_stays(key: str) -> None:
    assert sqs.key_text(key) == key
    assert servicebus.key_text(key) == key
    assert pubsub.key_text(key) == key


@given(KEYS)
def test_a_key_that_was_fitted_fits(key: str) -> None:
    for form in (sqs.key_text, servicebus.key_text, pubsub.key_text):
        assert form(form(key)) == form(key)


@given(KEYS)
def test_a_document_id_of_firestore_is_one(key: str) -> None:
    id = firestore_items.document_id(Key(key))
    assert "/" not in id
    assert id not in (".", "..")
    assert not re.fullmatch("__.*__", id, re.DOTALL)
    assert firestore_items.sort_key(f"a/{id}") == "-"


@given(KEYS)
def test_a_partition_key_of_tables_has_only_what_tables_takes(key: str) -> None:
    assert re.fullmatch(r"[^/\\#?\x00-\x1f\x7f-\x9f]{1,512}", tables_keys.partition_key(key))


def test_a_shortened_key_can_be_read() -> None:
    assert sqs.key_text("Bestellung für Müller").startswith("Bestellung_f_r_M_ller~")
    assert re.fullmatch(r"x{40}~[0-9a-f]{64}", servicebus.key_text("x" * 129))


@pytest.mark.parametrize("key", ["\ud800", "a\udfff" * 200])
def test_half_a_surrogate_pair_is_a_key_too(key: str) -> None:
    for form in (sqs.key_text, servicebus.key_text):
        assert form(key).isascii()
