"""Bundles on the wire: what is written is read, and what is forged harms nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudq.errors import DecodeError, EncodeError
from cloudq.messages.body import decode, encode
from cloudq.messages.bundle import Bundle, Unread, read_bundle, write_bundle
from cloudq.messages.codec import Codec
from cloudq.messages.ids import BundleIds, bundled_id, is_bundle, new_bundle, place_of
from cloudq.messages.message import DEFAULTS, TaskMessage, new_id
from cloudq.messages.plain_calls import PlainCalls
from cloudq.messages.size import MOST_CONTAINERS
from cloudq.messages.values import from_wire, to_wire

LIMIT = 1 << 20
GOLDEN = Path(__file__).parent / "golden" / "v3-bundle.json"

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def calls(count: int, **fields: Any) -> list[TaskMessage]:
    bundle = new_bundle()
    given: dict[str, Any] = {"task": "t", "queue": "default", "sent_at": 5.0, **fields}
    return [
        TaskMessage(id=bundled_id(bundle, number), args=[number], **given)
        for number in range(count)
    ]


def read(body: bytes) -> Bundle:
    return read_bundle(body, limit=LIMIT)


def call_of(bundle: Bundle, at: int) -> TaskMessage:
    call = bundle.calls[at]
    assert isinstance(call, TaskMessage), call
    return call


def test_what_is_written_is_read() -> None:
    messages = calls(3)
    assert list(read(write_bundle(messages)).calls) == messages


def test_what_all_calls_share_stands_once() -> None:
    body = write_bundle(calls(100, headers={"traceparent": "x" * 50}))
    assert body.count(b"traceparent") == 1
    assert body.count(b'"default"') == 1
    assert len(body) < 100 * 25


def test_calls_may_differ_in_everything() -> None:
    bundle = new_bundle()
    messages = [
        TaskMessage(id=bundled_id(bundle, 0), task="a", args=[1], queue="q", sent_at=1.0),
        TaskMessage(id=bundled_id(bundle, 7), task="b", kwargs={"n": 2}, queue="q", sent_at=1.0),
        TaskMessage(id=bundled_id(bundle, 9), task="a", queue="q", expires=9.0, sent_at=1.0),
    ]
    assert list(read(write_bundle(messages)).calls) == messages


@given(st.lists(st.tuples(st.lists(JSON, max_size=3), st.booleans()), min_size=1, max_size=5))
def test_any_arguments_come_back(rows: list[tuple[list[Any], bool]]) -> None:
    bundle = new_bundle()
    messages = [
        TaskMessage(
            id=bundled_id(bundle, number),
            task="t",
            args=[to_wire(arg) for arg in args],
            shadow="s" if shadow else None,
        )
        for number, (args, shadow) in enumerate(rows)
    ]
    found = read(write_bundle(messages))
    for at, (args, _) in enumerate(rows):
        assert repr(from_wire(call_of(found, at).args)) == repr(from_wire([*map(to_wire, args)]))


def test_one_may_be_as_long_as_the_limit() -> None:
    messages = calls(2)
    body = write_bundle(messages)
    assert list(read_bundle(body, limit=len(body)).calls) == messages
    with pytest.raises(DecodeError, match="oversized"):
        read_bundle(body, limit=len(body) - 1)


def test_numbers_that_json_s_writers_would_change_are_read_as_they_are() -> None:
    large = 123456789012345678901234567890
    args = f"[{large},1]"
    shared = '"all":{"task":"t","queue":"q"}'
    body = f'{{"v":3,"id":"{new_bundle()}",{shared},"calls":[{{"n":0,"args":{args}}}'
    found = read(f'{body},{{"n":1,"args":{args}}},{{"n":2,"args":{args},"shadow":"s"}}]}}'.encode())
    for at in range(3):
        again = decode(encode(call_of(found, at)), limit=LIMIT)
        assert from_wire(again.args) == [large, 1]


def test_the_golden_bundle_is_read() -> None:
    """Its file may have been sent by a release: it is never changed."""
    found = read(GOLDEN.read_bytes())
    assert [call_of(found, at).id[-4:] for at in range(2)] == ["0000", "0001"]
    assert [call_of(found, at).args for at in range(2)] == [[2, 3], [4, 5]]
    assert {call_of(found, at).task for at in range(2)} == {"shop.tasks.add"}


def test_another_writer_may_order_its_keys_as_it_likes() -> None:
    plain = json.loads(GOLDEN.read_bytes())
    odd = json.dumps({"calls": plain["calls"], "id": plain["id"], "all": plain["all"], "v": 3})
    found = Codec().read(odd.encode(), queue="default", limit=LIMIT)
    assert isinstance(found, Bundle)
    assert len(found.calls) == 2


@pytest.mark.parametrize("form", [{"compression": "zlib"}, {"signed": True}])
def test_sealed_bundles_come_back(form: dict[str, Any]) -> None:
    from cloudq.messages.signing import Keyring

    signed = form.pop("signed", False)
    keys = {"k": b"0" * 32}
    codec = Codec(
        keyring=Keyring(keys=keys, signs="k") if signed else Keyring(),
        apps=frozenset({"cloudq"}),
        signed_only=signed,
    )
    messages = calls(200, **form)
    body = codec.encode_bundle(messages)
    assert body.startswith(b'{"v":2,')
    found = codec.read(body, queue="default", limit=LIMIT)
    assert isinstance(found, Bundle)
    assert list(found.calls) == messages


def test_an_unsigned_bundle_is_refused_where_signatures_are_required() -> None:
    codec = Codec(signed_only=True)
    with pytest.raises(DecodeError, match="unsigned"):
        codec.read(write_bundle(calls(2)), queue="default", limit=LIMIT)


WHOLE = [
    ({"id": "nobody's"}, "not the name of a bundle"),
    ({"calls": []}, "and calls"),
    ({"calls": {}}, "and calls"),
    ({"all": [1]}, "an object in all"),
    ({"calls": [{"n": 0, "task": "t"}] * 10_001}, "at most 10,000"),
    ({"v": True}, "no cloudq version"),
]


@pytest.mark.parametrize(("change", "reason"), WHOLE)
def test_what_is_no_bundle_is_refused_as_a_whole(change: dict[str, Any], reason: str) -> None:
    plain = {"v": 3, "id": new_bundle(), "all": {"task": "t"}, "calls": [{"n": 0}], **change}
    with pytest.raises(DecodeError, match=reason):
        read(json.dumps(plain).encode())


@pytest.mark.parametrize(
    "bad",
    [
        5,
        {},
        {"n": -1},
        {"n": 65_536},
        {"n": True},
        {"n": 0},
        {"n": 3, "args": 5},
        {"n": 3, "task": ""},
        {"n": 3, "kwargs": {"a": [[[]] * 2]}, "retries": -1},
        {"n": 3, "args": json.loads("[" * 120 + "]" * 120)},
    ],
)
def test_a_call_that_cannot_be_read_harms_no_neighbour(bad: object) -> None:
    rows = [{"n": 0, "args": [1]}, bad, {"n": 9, "args": [2]}]
    plain = {"v": 3, "id": new_bundle(), "all": {"task": "t"}, "calls": rows}
    found = read(json.dumps(plain).encode())
    assert [type(call) for call in found.calls] == [TaskMessage, Unread, TaskMessage]


def nested(levels: int, inner: object = 1) -> Any:
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize("levels", [110, 250, 251, 600, 900])
@pytest.mark.parametrize("name", ["args", "kwargs", "headers", "chain", "link", "root", "odd"])
def test_a_call_that_nests_too_deep_harms_no_neighbour(name: str, levels: int) -> None:
    bundle = new_bundle()
    deep: Any = nested(levels)
    value = deep if name in ("args", "root", "odd") else {"x": deep}
    bad = {"n": 0, "task": "t", name: [value] if name in ("chain", "link") else value}
    found = read(json.dumps({"v": 3, "id": bundle, "calls": [bad, {"n": 1, "task": "t"}]}).encode())
    assert call_of(found, 1).task == "t"
    if name == "odd" or (name in ("chain", "link") and levels < 200):
        assert call_of(found, 0).task == "t"
        return
    unread = found.calls[0]
    assert isinstance(unread, Unread)
    assert json.loads(unread.body)["id"] == bundled_id(bundle, 0)
    with pytest.raises(DecodeError):  # it is not run without what is left out
        Codec().decode(unread.body, queue="default", limit=LIMIT)


@given(
    where=st.sampled_from(["all", "call", "bare"]), levels=st.integers(0, 1000), fields=st.data()
)
def test_no_call_raises_out_of_the_bundle_whatever_its_shape_and_depth(
    where: str, levels: int, fields: Any
) -> None:
    names = st.sampled_from([*DEFAULTS, "id", "task", "n", "odd"])
    inner = fields.draw(st.none() | st.just({}) | st.just({"n": 0}))
    forged = fields.draw(
        st.dictionaries(names, st.sampled_from([nested(levels, inner), [nested(levels)], {"x": 1}]))
    )
    shared = forged if where == "all" else {}
    bad = nested(levels, inner) if where == "bare" else forged if where == "call" else {"n": 0}
    rows = [bad, {"n": 1, "task": "t", "args": [7]}]
    body = {"v": 3, "id": new_bundle(), "all": shared, "calls": rows}
    found = read(json.dumps(body).encode())
    assert len(found.calls) == 2
    for call in found.calls:
        written = call.body if isinstance(call, Unread) else encode(call)
        json.loads(written)
    if where != "all":
        assert call_of(found, 1).args == [7]


def test_a_mistake_that_all_share_makes_all_unreadable() -> None:
    plain = {"v": 3, "id": new_bundle(), "all": {"task": 7}, "calls": [{"n": 0}, {"n": 1}]}
    assert all(isinstance(call, Unread) for call in read(json.dumps(plain).encode()).calls)


def test_a_single_call_s_reader_says_that_it_met_a_bundle() -> None:
    with pytest.raises(DecodeError, match="a bundle of 3 calls"):
        Codec().decode(write_bundle(calls(3)), queue="default", limit=LIMIT)


def test_calls_do_not_share_what_a_task_may_change() -> None:
    found = read(write_bundle(calls(3, headers={"a": "b"})))
    call_of(found, 1).headers["a"] = "changed"
    assert call_of(found, 2).headers == {"a": "b"}


def test_calls_do_not_share_what_lies_within_what_they_share() -> None:
    shared = {"kwargs": {"rows": [[1], {"a": [2]}]}, "headers": {"a": "b"}}
    found = read(write_bundle(calls(3, **shared)))
    for at in range(3):
        call = call_of(found, at)
        assert (call.kwargs, call.headers, call.args) == (*shared.values(), [at])
        call.kwargs["rows"][0].append("changed")
        call.kwargs["rows"][1]["a"].append("changed")
        call.headers["a"] = "changed"


def test_shared_arguments_that_nest_too_deep_concern_each_call() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    body = write_bundle(calls(3, kwargs={"a": 1})).replace(
        b'{"a":1}', json.dumps({"a": deep}).encode()
    )
    assert all(isinstance(call, Unread) and "deeper" in call.reason for call in read(body).calls)


def test_what_the_first_call_has_of_its_own_is_shared_by_the_others() -> None:
    rows = [{"n": 0, "args": ["own"]}, {"n": 1}, {"n": 2, "args": []}]
    shared = {"task": "t", "args": ["shared"]}
    body = json.dumps({"v": 3, "id": new_bundle(), "all": shared, "calls": rows}).encode()
    found = read(body)
    assert [call_of(found, at).args for at in range(3)] == [["own"], ["shared"], []]


def test_calls_do_not_share_what_none_was_given() -> None:
    found = read(write_bundle(calls(3)))
    changed, other = call_of(found, 1), call_of(found, 2)
    for name, value in vars(changed).items():
        if isinstance(value, dict | list):
            assert value is not vars(other)[name], name
            assert value is not DEFAULTS.get(name), name


def test_a_time_in_which_calls_hardly_differ_is_that_of_the_first() -> None:
    bundle = new_bundle()
    messages = [
        TaskMessage(id=bundled_id(bundle, n), task="t", sent_at=5.0 + n / 8, args=[n])
        for n in range(3)
    ]
    found = read(write_bundle(messages))
    assert [call_of(found, at).sent_at for at in range(3)] == [5.0] * 3


def test_a_bundle_of_too_many_values_is_neither_sent_nor_read() -> None:
    many = [[]] * MOST_CONTAINERS
    [call] = calls(1)
    with pytest.raises(EncodeError, match="200,000 lists and objects"):
        write_bundle([call.model_copy(update={"args": many})])
    body = json.dumps({"v": 3, "id": new_bundle(), "all": {"args": many}, "calls": [{"n": 0}]})
    with pytest.raises(DecodeError, match="oversized: a message of more than 200,000 lists"):
        read(body.encode())


@pytest.mark.parametrize(
    ("rows", "plain"),
    [
        ([{"n": 0, "args": [1]}, {"n": 1, "args": [2]}], True),
        ([{"n": 0, "args": [1], "kwargs": {"a": 1}}, {"n": 7}], True),
        ([{"n": 0, "args": [1]}, {"n": 0, "args": [2]}], False),
        ([{"n": 0, "args": [1]}, {"n": 1, "shadow": "s"}], False),
        ([{"n": 0, "args": [1]}, {"n": 1, "args": [nested(200)]}], False),
    ],
)
def test_calls_that_differ_in_nothing_but_plain_arguments_are_known_as_such(
    rows: list[dict[str, Any]], plain: bool
) -> None:
    body = {"v": 3, "id": new_bundle(), "all": {"task": "t", "queue": "q"}, "calls": rows}
    found = read(json.dumps(body).encode())
    assert isinstance(found.calls, PlainCalls) is plain
    for row, call in zip(rows, found.calls, strict=True):
        assert isinstance(call, Unread) or (call.task, call.args) == ("t", row.get("args", []))


@pytest.mark.parametrize("body", [b'{"v":3,', b'{"v":3,"id":1e400,'])
def test_a_bundle_that_was_cut_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match="undecodable: "):
        read(body)


def test_as_many_calls_are_read_as_a_bundle_may_have() -> None:
    rows = [{"n": n} for n in range(9_998)]
    rows += [{"n": 65_534}, {"n": 65_535, "shadow": "the last place that there is"}]
    body = json.dumps({"v": 3, "id": new_bundle(), "all": {"task": "t"}, "calls": rows})
    found = read(body.encode())
    assert len(found.calls) == 10_000
    assert [call_of(found, at).id[-4:] for at in (9_998, 9_999)] == ["fffe", "ffff"]


def test_of_what_has_no_room_in_a_body_the_rest_is_kept_as_it_came() -> None:
    rows = [nested(900), {"n": 1, "task": "t", "args": [nested(900)], "retries": 2}]
    found = read(json.dumps({"v": 3, "id": new_bundle(), "calls": rows}).encode())
    bare, call = found.calls
    assert isinstance(bare, Unread)
    assert isinstance(call, Unread)
    assert json.loads(bare.body) == {"unread": bare.reason}
    kept = json.loads(call.body)
    assert (kept.keys(), kept["retries"]) == ({"v", "id", "task", "args", "retries"}, 2)
    assert "left out: " in kept["args"]


# ---- ids


@given(st.integers(0, 0xFFFF))
def test_an_id_tells_its_place(number: int) -> None:
    bundle = new_bundle()
    assert place_of(bundled_id(bundle, number)) == (bundle, number)


@given(st.text(max_size=40) | st.uuids().map(str) | st.uuids(version=4).map(str))
def test_the_ids_of_others_are_in_no_bundle(text: str) -> None:
    assert place_of(text) is None or text[14] == "8"


def test_ids_are_uuids() -> None:
    from uuid import UUID

    ids = {bundled_id(new_bundle(), number) for number in range(100)}
    assert len(ids) == 100
    assert {UUID(id).version for id in ids} == {8}
    assert {str(UUID(id)) for id in ids} == ids
    assert place_of(new_id()) is None


def test_calls_are_numbered_by_keys_and_sizes() -> None:
    ids = BundleIds(3)
    places = [place_of(ids.next("a")) for _ in range(7)]
    assert [place.number for place in places if place] == [0, 1, 2, 0, 1, 2, 0]
    assert len({place.bundle for place in places if place}) == 3
    other = place_of(ids.next("b"))
    assert other is not None
    assert other.number == 0


def test_uppercase_and_signs_are_no_places() -> None:
    bundle = new_bundle()
    for digits in ("00AB", "+001", " 001", "0x01", "1_00"):
        assert place_of(bundle + digits) is None
    assert not is_bundle("x" * 32)
