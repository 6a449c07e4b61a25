"""Messages that need no pydantic: what is taken without it is what its model makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, nan
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.messages import body
from cloudq.messages.message import FIELDS, TaskMessage, WrongField, new_id, plain
from cloudq.messages.model import model, read_json, validated

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**31 - 1, 2**63, 10**400, -0.0, 0.5, 1.5, 1e12, nan),
    *(inf, -inf, "", "x", "0", "1", "true", "a\nb", "\x7f", "ä", "\u2028", "\ud800", "😀", "\x00"),
    *("1@j", "x@j", "1@", f"1@{'ä' * 255}", "1@a\n", "y" * 32, "y" * 33, "y" * 255, "z" * 256),
    *("k" * 2048, "k" * 2049, [], [1], ["a"], [{}], [{"task": "t"}], [{1: 2}], [[]], (1,), {}),
    *({"a": "b"}, {"a": 1}, {1: "b"}, {"a\n": "b"}, {"\ud800": "b"}, {"a": "\ud800"}, b"x", object),
    *({"a": "h" * 16_384}, {"a": "h" * 16_385}, {f"{n}": "" for n in range(257)}, {"a": None}),
]


def seen(fields: Mapping[str, Any]) -> Any:
    return {name: (type(value), repr(value)) for name, value in fields.items()}


def judged(fields: Mapping[str, Any]) -> Any:
    try:
        return seen(validated(fields))
    except WrongField:
        return None


def check(fields: Mapping[str, Any]) -> None:
    made = plain(FIELDS, fields)
    if made is not None:
        assert seen(made) == judged(fields)


CALL = {"id": "1", "task": "t"}


@pytest.mark.parametrize("name", [*FIELDS, "unknown"])
def test_what_is_taken_without_the_model_is_what_it_makes_of_it(name: str) -> None:
    for value in ODD:
        check({**CALL, name: value})
    check({name: "t"})


@given(
    st.dictionaries(
        st.sampled_from([*FIELDS, "other"]),
        st.sampled_from(ODD) | st.text(max_size=9) | st.integers() | st.floats(),
        max_size=4,
    )
)
def test_so_it_is_with_any_fields(fields: dict[str, Any]) -> None:
    check(fields)
    check(CALL | fields)


# JSON as others may write it: numbers of all forms, keys twice, spaces, odd escapes.
WRITTEN = (
    "0 -0 1 1.0 -1 1e3 1E-2 1e400 9007199254740993 12345678901234567890 0.1 -0.0 1e-400 "
    "123456789.123456789 NaN -Infinity 01 1. +1 1e00"
)
NUMBERS = st.sampled_from(WRITTEN.split())
_LIKE_NUMBERS = ['"1e400"', '"1324e954"', r'"\\"', r'"\\\"1e400"']
TEXTS = st.sampled_from(
    [
        r'"a"',
        '""',
        r'"\u00e4"',
        r'"\ud800"',
        r'"\u2028"',
        r'"\n"',
        '"1@j"',
        '"1e400"',
        *_LIKE_NUMBERS,
    ]
)
VALUES = st.recursive(
    NUMBERS | TEXTS | st.sampled_from(["true", "null", "[]", "{}", " [ ] "]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(TEXTS, inner), max_size=3).map(
            lambda items: "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
        )
    ),
    max_leaves=6,
)
KEYS = st.sampled_from([*FIELDS, "newer", "id", "args", "sent_at"])


@given(st.lists(st.tuples(KEYS, VALUES), max_size=5))
def test_a_body_is_read_as_the_model_reads_it(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f',"{name}":{value}' for name, value in pairs)
    written = f'{{"v":1,"id":"1","task":"t"{text}}}'.encode()
    made = None if body.has_unusual(written) else body._plain(written)
    if made is not None:
        expected = read_json(written)
        assert seen(vars(made)) == seen(vars(expected))
        assert made.model_fields_set == expected.model_fields_set


def test_texts_that_look_like_numbers_are_none() -> None:
    for usual in (b'{"id":"1324e954"}', b'{"id":"a\\\\\\"1e400","n":"12345678901234567890"}'):
        assert not body.has_unusual(usual)
    for unusual in (
        b'{"id":"1324e954","n":1e400}',
        b'{"id":"\\\\","n":12345678901234567890}',
        b'{"id":"1324e954',
        b'{"id":"\\\\\\","n":1e400}',
    ):
        assert body.has_unusual(unusual)


def test_the_ids_of_calls_are_read_without_the_model() -> None:
    for _ in range(500):
        assert not body.has_unusual(b'{"v":1,"id":"%b"}' % new_id().encode())


def test_a_body_that_nests_deeper_than_the_models_parser_reads_is_refused() -> None:
    for depth in (150, 198, 199, 250, 900):
        written = b'{"v":1,"id":"1","task":"t","newer":%b1%b}' % (b"[" * depth, b"]" * depth)
        try:
            read_json(written)
            reads = True
        except WrongField:
            reads = False
        try:
            body.decode(written, limit=10_000)
            assert reads
        except body.DecodeError:
            assert not reads


@pytest.mark.parametrize("id", ["01a22a5d-61d0-74e9-9f17-db721e0563c0", "7e421", "1E+400"])
def test_an_id_that_looks_like_a_number_is_read_without_the_model(id: str) -> None:
    written = b'{"v":1,"id":"%b","task":"t","args":[1,0.5]}' % id.encode()
    assert not body.has_unusual(written)


@pytest.mark.parametrize("number", ["1e400", "-1.5E+400", "[2e999]", "[0, 7e421]", "[\n1e100]"])
def test_a_number_with_a_long_exponent_is_left_to_the_model(number: str) -> None:
    written = b'{"v":1,"id":"1","task":"t","args":[%b]}' % number.encode()
    assert body.has_unusual(written)
    assert body.has_unusual(number.encode())


def test_usual_messages_are_taken_without_the_model() -> None:
    usual: dict[str, Any] = {
        **CALL,
        "args": [1, {"a": 1.5}],
        "kwargs": {"ä": "ö"},
        "sent_at": 1.0,
        "headers": {"traceparent": "00-1"},
        "time_limit": 30,
        "slot": "0@join",
        "idempotency_key": "Müller",
        "chain": [{"task": "t"}],
        "group": None,
    }
    assert plain(FIELDS, usual) is not None
    assert body._plain(orjson.dumps(usual)) == TaskMessage(**usual)


@pytest.mark.parametrize(
    "id",
    ["019b4e12-6e16-75e1-8e90-7e12345678ab", "NaN", r"0\"1e400", r"1e400\\", "1" * 22],
)
def test_an_id_is_no_number_that_the_model_would_have_to_judge(id: str) -> None:
    written = f'{{"v":1,"id":"{id}","task":"t"}}'.encode()
    assert not body.has_unusual(written)
    assert body._plain(written) == read_json(written)
    assert body.has_unusual(written.replace(b'"t"', b'"t","kwargs":{"a":1e400}'))


def test_an_endless_text_full_of_quotes_is_looked_through_once() -> None:
    written = b'{"v":1,"id":1e400,"task":"' + rb"\"" * 300_000
    assert body.has_unusual(written)
    with pytest.raises(body.DecodeError):
        body.decode(written, limit=1_000_000)


def test_what_a_message_holds_is_nobody_elses() -> None:
    args, kwargs, chain = [1], {"a": 1}, [{"task": "t"}]
    message = TaskMessage(id="1", task="t", args=args, kwargs=kwargs, chain=chain)
    message.args.append(2)
    message.kwargs["b"] = 2
    message.chain[0]["id"] = "2"
    assert (args, kwargs, chain) == ([1], {"a": 1}, [{"task": "t"}])
    assert TaskMessage(id="1", task="t").args == []


def test_a_message_does_not_change() -> None:
    message = TaskMessage(id="1", task="t")
    with pytest.raises(AttributeError, match="does not change"):
        message.task = "u"  # pyright: ignore[reportAttributeAccessIssue]
    assert message.model_copy(update={"task": "u"}) == TaskMessage(id="1", task="u")
    assert message.task == "t"


def test_the_model_has_the_fields_of_the_message() -> None:
    assert [*model().model_fields] == [*FIELDS]
