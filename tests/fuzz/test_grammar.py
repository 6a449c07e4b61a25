"""Bodies that are right by the grammar of a codec, and hostile in every value."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cloudq.messages.compression import COMPRESSIONS, compress
from cloudq.messages.message import DEFAULTS
from tests.fuzz import seeds
from tests.fuzz.app_targets import Functions, Stored
from tests.fuzz.bodies import HOSTILE
from tests.fuzz.campaign import silent
from tests.fuzz.recipes import APP, ENCRYPTION, INNER, QUEUE, Recipe
from tests.fuzz.targets import Messages, SealedPayloads, Shown, Target, Values

EXAMPLES = 5_000 if os.environ.get("CLOUDQ_DRILL") == "full" else 60
_many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# ---- values

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Nd", "Zl"]), max_size=5),
    st.sampled_from(["echo", "boom", "order", QUEUE, "3@join", "json", "", "x" * 300, "1e999"]),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**63, -(2**63) - 1, 10**400]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
_SMALL = [each for each in HOSTILE if len(json.dumps(each, default=str)) < 2000]
_TAGS = (
    *("$datetime", "$date", "$time", "$timedelta", "$decimal", "$uuid", "$bytes", "$int", "$float"),
    *("$set", "$frozenset", "$tuple", "$dict", "$blob", "$file"),
)


def tagged(inner: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Make values with a tag, of the form that the tag has, with hostile parts."""
    pairs = st.lists(st.lists(inner, min_size=2, max_size=2), max_size=3)
    content = st.one_of(inner, st.lists(inner, max_size=4), pairs, st.lists(st.integers()), TEXTS)
    place = st.fixed_dictionaries(
        {
            "key": st.one_of(st.just(seeds.BLOB), TEXTS),
            "size": st.one_of(st.integers(-1, 70), NUMBERS),
            "sha256": st.sampled_from([hashlib.sha256(seeds.HELD).hexdigest(), "0" * 64, ""]),
        },
        optional={"as": st.sampled_from(["json", "text", "bytes", "x"]), "name": TEXTS}
        | {"type": TEXTS, "sealed": st.booleans()},
    )
    return st.one_of(
        st.builds(lambda tag, value: {tag: value}, st.sampled_from(_TAGS), content),
        st.builds(lambda tag, value: {tag: value}, st.sampled_from(["$blob", "$file"]), place),
    )


VALUES: SearchStrategy[Any] = st.recursive(
    st.one_of(SCALARS, st.sampled_from(_SMALL)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3), tagged(inner)
    ),
    max_leaves=12,
)

# ---- messages

CALLS: SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {"task": TEXTS},
        optional={
            "args": st.lists(VALUES, max_size=2),
            "kwargs": st.dictionaries(TEXTS, VALUES, max_size=2),
            "options": st.dictionaries(
                st.sampled_from(["countdown", "eta", "expires", "queue", "task_id", "headers"]),
                VALUES,
                max_size=3,
            ),
            "id": TEXTS,
            "immutable": st.booleans(),
        },
    ),
    lambda inner: st.one_of(
        st.builds(lambda steps: {"chain": steps}, st.lists(inner, max_size=3)),
        st.builds(lambda each: {"group": each}, st.lists(inner, max_size=3)),
        st.builds(lambda each, body: {"chord": each, "body": body}, st.lists(inner), inner),
    ),
    max_leaves=5,
)
_LISTS = frozenset({"chain", "link", "link_error"})
_NUMBERED = frozenset({"sent_at", "not_before", "expires", "retries", "depth", "time_limit"})
_OF_FIELDS: dict[str, SearchStrategy[Any]] = {
    name: st.lists(CALLS, max_size=2)
    if name in _LISTS
    else NUMBERS
    if name in _NUMBERED
    else st.one_of(TEXTS, VALUES)
    for name in DEFAULTS
    if name not in ("id", "task", "args", "kwargs")
}
_TASKS = st.sampled_from(["echo", "boom", "again", "typed", "order", "once", "many", "cloudq.map"])


def calls(**required: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Make the fields of a call."""
    fields = {"args": st.lists(VALUES, max_size=3), "kwargs": st.dictionaries(TEXTS, VALUES)}
    some = st.dictionaries(st.sampled_from(sorted(_OF_FIELDS)), st.none(), max_size=4)
    chosen = some.flatmap(lambda names: st.fixed_dictionaries({n: _OF_FIELDS[n] for n in names}))
    own = st.fixed_dictionaries(required, optional=fields)
    return st.builds(lambda one, other: one | other, own, chosen)


MESSAGES = calls(v=st.just(1), id=st.one_of(st.just("m"), TEXTS), task=_TASKS)
NAMES = st.builds(seeds.new_bundle)
BUNDLES = st.fixed_dictionaries(
    {
        "v": st.just(3),
        "id": NAMES,
        "all": st.one_of(st.just({"task": "echo"}), calls()),
        "calls": st.lists(calls(n=st.one_of(st.integers(0, 3), NUMBERS)), max_size=4),
    }
)
FIELDS = st.fixed_dictionaries(
    {"app": st.just(APP), "queue": st.just(QUEUE), "id": st.just("m")},
    optional={"until": NUMBERS, "task": TEXTS, "more": VALUES},
)
KINDS = ("enveloped", "signed", "encrypted", "both")


@st.composite
def enveloped(draw: Any, trees: SearchStrategy[Any]) -> Recipe:
    """Make a message in an envelope of its own form."""
    notation = draw(st.sampled_from(["json", "json", "msgpack", "yaml"]))
    zipped = draw(st.sampled_from([None, None, *COMPRESSIONS]))
    tree, fields = draw(trees), dict(draw(FIELDS))
    fields |= {} if notation == "json" else {"type": notation}
    fields |= {} if zipped is None else {"zip": zipped}
    if notation != "json" and tree.get("v") == 1:
        tree |= {"serializer": notation}
    kind = draw(st.sampled_from(KINDS))
    return Recipe(tree=tree, notation=notation, zip=zipped, fields=fields, kind=kind)


# ---- YAML, which says more than JSON

YAML_SCALARS = st.one_of(
    st.sampled_from(["~", "yes", "0x1f", "0b1", "0o7", "1:2:3", ".inf", "<<", "=", "2026-11-30"]),
    st.builds(
        "!!{} {}".format,
        st.sampled_from(["int", "float", "bool", "null", "str", "binary"]),
        st.text("01xe.:-_ ~aT", max_size=8),
    ),
    st.builds("!!timestamp {}".format, st.text("0123456789-:TZ. ", max_size=20)),
    st.text("ab01.:-_", min_size=1, max_size=8),
    st.builds(json.dumps, SCALARS),
)
YAML: SearchStrategy[str] = st.recursive(
    YAML_SCALARS,
    lambda inner: st.one_of(
        st.builds(lambda items: f"[{', '.join(items)}]", st.lists(inner, max_size=4)),
        st.builds(
            lambda pairs: "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}",
            st.lists(st.tuples(st.one_of(inner, st.just("? [a]")), inner), max_size=4),
        ),
        st.builds("!!{} {}".format, st.sampled_from(["set", "omap", "pairs", "seq", "map"]), inner),
        st.builds("&a {}".format, inner),
    ),
    max_leaves=8,
)

# ---- Celery's

THEIRS = st.one_of(
    CALLS,
    st.builds(
        lambda kind, value: {"__type__": kind, "__value__": value},
        st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "x"]),
        VALUES,
    ),
    VALUES,
)
HEADERS = st.fixed_dictionaries(
    {"task": st.one_of(_TASKS, st.just("celery.map")), "id": st.just("c")},
    optional={
        name: st.one_of(TEXTS, VALUES)
        for name in ("eta", "expires", "retries", "timelimit", "group", "root_id", "stamps")
    }
    | {"cloudq": st.dictionaries(st.sampled_from(["depth", "group_key", "sent_at"]), VALUES)},
)
CELERY = st.builds(
    lambda args, kwargs, embed, headers, notation: Recipe(
        tree=[args, kwargs, embed],
        notation=notation,
        kind="celery",
        fields={
            "headers": headers,
            "content-type": f"application/{'json' if notation == 'json' else 'x-' + notation}",
            "properties": {"body_encoding": "base64"},
        },
    ),
    st.lists(THEIRS, max_size=2),
    st.dictionaries(TEXTS, THEIRS, max_size=2),
    st.dictionaries(
        st.sampled_from(["callbacks", "errbacks", "chain", "chord"]),
        st.one_of(st.none(), st.lists(CALLS, max_size=2), VALUES),
    ),
    HEADERS,
    st.sampled_from(["json", "msgpack", "yaml"]),
)

# ---- events, and what lies in a store

EVENTS = st.builds(
    lambda to, inner, count, more: Recipe(
        kind="event",
        inner=inner,
        fields={
            "to": to,
            "body": INNER + "64",
            "count": count,
            "headers": {},
            "event": more
            | {
                "Records": [
                    {"eventSource": "aws:sqs", "eventSourceARN": f"a:{QUEUE}", "body": INNER}
                    | {"receiptHandle": "r", "messageId": "m", "attributes": more}
                ],
                "message": {"data": INNER + "64", "messageId": "m"} | more,
            }
            if to != "call"
            else {"task": "echo"} | more,
        },
    ),
    st.sampled_from(["lambda", "push", "event", "servicebus", "call"]),
    st.one_of(st.builds(lambda tree: Recipe(tree=tree), MESSAGES), enveloped(BUNDLES)),
    NUMBERS,
    st.dictionaries(
        st.sampled_from(["args", "kwargs", "schedule", "id", "detail", "attributes", "queue"]),
        VALUES,
        max_size=3,
    ),
)
_RECORD = ("state", "task", "value", "error", "error_type", "error_args", "error_state", "meta")
_TIMED = ("retries", "fence", "started_at", "finished_at", "revoked", "scheduled", "children")
STORED = st.one_of(
    st.builds(
        lambda fields: {"p": "task#t", "s": "-", "f": fields},
        st.fixed_dictionaries(
            {"state": st.sampled_from(["SUCCESS", "FAILURE", "RETRY", "STARTED", "x"])},
            optional={
                name: st.one_of(st.builds(json.dumps, VALUES), SCALARS, TEXTS)
                for name in (*_RECORD[1:], *_TIMED)
            },
        ),
    ),
    st.builds(
        lambda fields: {"p": "workers", "s": "w", "f": {"seen": 4e9} | fields},
        st.dictionaries(
            st.sampled_from(["started", "every", "seen", "queues", "longest", "pid", "commands"]),
            st.one_of(SCALARS, st.builds(json.dumps, VALUES)),
        ),
    ),
    st.builds(
        lambda entry: {"p": "beat#fuzz", "s": "entry#s", "f": {"entry": json.dumps(entry)}},
        st.fixed_dictionaries(
            {
                "task": _TASKS,
                "when": st.one_of(
                    st.builds(lambda n: {"every": n}, NUMBERS),
                    st.builds(lambda n: {"at": n}, TEXTS),
                    st.builds(
                        lambda line: {"crontab": line, "days": "days"},
                        st.text("0123456789*/,- ", max_size=20),
                    ),
                    st.builds(lambda each: {"solar": each}, st.lists(SCALARS, max_size=3)),
                ),
                "args": st.lists(VALUES, max_size=2),
                "kwargs": st.dictionaries(TEXTS, VALUES, max_size=2),
                "options": st.dictionaries(TEXTS, VALUES, max_size=2),
                "timezone": st.sampled_from(["UTC", "Europe/Vienna", "../x", ""]),
                **dict.fromkeys(["expires", "jitter", "catch_up", "enabled"], SCALARS),
                **dict.fromkeys(["start", "end"], st.one_of(st.none(), TEXTS)),
            }
        ),
    ),
)

# ---- what holds


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with silent():
        yield


def _made(target: Target) -> Iterator[Target]:
    with closing(target):
        yield target


@pytest.fixture(scope="module")
def messages() -> Iterator[Target]:
    yield from _made(Messages("messages", 1.0, []))


@pytest.fixture(scope="module")
def celery() -> Iterator[Target]:
    yield from _made(Messages("celery", 1.0, []))


@pytest.fixture(scope="module")
def shown() -> Iterator[Target]:
    yield from _made(Shown())


@pytest.fixture(scope="module")
def values() -> Iterator[Target]:
    yield from _made(Values())


@pytest.fixture(scope="module")
def payloads() -> Iterator[Target]:
    yield from _made(SealedPayloads())


@pytest.fixture(scope="module")
def functions() -> Iterator[Target]:
    yield from _made(Functions())


@pytest.fixture(scope="module")
def stored() -> Iterator[Target]:
    yield from _made(Stored())


@_many
@given(st.one_of(st.builds(lambda t: Recipe(tree=t), MESSAGES), enveloped(MESSAGES)))
def test_messages(messages: Target, shown: Target, recipe: Recipe) -> None:
    messages.run(recipe.body())
    shown.run(recipe.body())


@_many
@given(st.one_of(st.builds(lambda t: Recipe(tree=t), BUNDLES), enveloped(BUNDLES)))
def test_bundles(messages: Target, shown: Target, recipe: Recipe) -> None:
    messages.run(recipe.body())
    shown.run(recipe.body())


@_many
@given(YAML, st.sampled_from(KINDS), FIELDS)
def test_yaml(messages: Target, text: str, kind: str, fields: dict[str, Any]) -> None:
    data = f"{{v: 1, id: m, task: echo, serializer: yaml, args: [{text}]}}".encode(errors="replace")
    fields = {**fields, "type": "yaml"}
    messages.run(Recipe(notation="yaml", data=data, kind=kind, fields=fields).body())


@_many
@given(st.binary(max_size=200), st.sampled_from(KINDS), FIELDS)
def test_msgpack(messages: Target, data: bytes, kind: str, fields: dict[str, Any]) -> None:
    """An array of four, of which the last is anything: any bytes are a value, or end too early."""
    head = b"\x85\xa1v\x01\xa2id\xa1m\xa4task\xa4echo\xaaserializer\xa7msgpack\xa4args\x91"
    fields = {**fields, "type": "msgpack"}
    messages.run(Recipe(notation="msgpack", data=head + data, kind=kind, fields=fields).body())


@_many
@given(
    st.sampled_from(COMPRESSIONS),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
    st.integers(0, 400),
    st.sampled_from(KINDS),
)
def test_compressed(
    messages: Target, name: str, data: bytes, spoilt: list[Any], length: int, kind: str
) -> None:
    frame = bytearray(compress(name, b'{"v":1,"id":"m","task":"echo","args":["%b"]}' % data))
    for place, byte in spoilt:
        frame[place % len(frame)] = byte
    fields = {"app": APP, "queue": QUEUE, "id": "m", "zip": name}
    cut = bytes(frame) if length > len(frame) else bytes(frame[:length])
    messages.run(Recipe(squeezed=cut, zip=name, kind=kind, fields=fields).body())


@_many
@given(CELERY)
def test_celery(celery: Target, recipe: Recipe) -> None:
    celery.run(recipe.body())


@_many
@given(st.one_of(VALUES, tagged(VALUES)))
def test_values(values: Target, tree: Any) -> None:
    values.run(Recipe(tree=tree).body())


@_many
@given(
    st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 3), st.booleans()), max_size=4),
    st.dictionaries(st.sampled_from(["v", "app", "with", "wrapped", "x"]), SCALARS, max_size=2),
)
def test_sealed_payloads(payloads: Target, parts: list[Any], more: dict[str, Any]) -> None:
    """Parts that are sealed with the right key, in any order and number."""
    header, cipher = ENCRYPTION.payload_key(APP)
    made = Recipe(tree={**header, **more}).body() + b"\n"
    for data, index, last in parts:
        bound = f"cloudq payload\n{APP}\n{seeds.BLOB}\n{index}\n{int(last)}".encode()
        made += b"n" * 12 + cipher.encrypt(b"n" * 12, data, bound)
    payloads.run(made)


@_many
@given(EVENTS)
def test_events(functions: Target, recipe: Recipe) -> None:
    functions.run(recipe.body())


@_many
@given(STORED)
def test_stored(stored: Target, tree: Any) -> None:
    stored.run(Recipe(tree=tree).body())


def test_the_parts_that_are_sealed_here_are_those_of_the_product(payloads: Target) -> None:
    """Else the test above would end at the first seal."""
    header, cipher = ENCRYPTION.payload_key(APP)
    bound = f"cloudq payload\n{APP}\n{seeds.BLOB}\n0\n1".encode()
    body = Recipe(tree=header).body() + b"\n" + b"n" * 12 + cipher.encrypt(b"n" * 12, b"x", bound)
    assert payloads.run(body) == "opened"
