"""Bad workflows: one clear error that names the part at fault, and nothing half-published."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudq import (
    ChordError,
    CloudQ,
    ConfigurationError,
    EncodeError,
    InvalidArguments,
    Node,
    PartlyStarted,
    PublishError,
    Signature,
    State,
    chain,
    chord,
    group,
)
from cloudq.driver import Code, Outgoing
from tests.canvas.workflow_cases import nested
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def refused(app: Bench, node: Any, error: type[Exception], match: str) -> None:
    """The workflow is refused, and nothing was sent or stored."""
    app.store.calls.clear()
    with pytest.raises(error, match=match):
        node.delay()
    assert app.left() == 0
    assert not app.store.calls


class Unsendable:
    """No wire value."""


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda t, x: t.same.s(1) | t.same.si(x), r"step 2: same: argument 1:"),
        (lambda t, x: group(t.same.s(1), t.same.s(value=x)), r"member 2: same: argument value:"),
        (lambda t, x: chord([t.same.s(1)], t.same.si(x)), r"body: same: argument 1:"),
        (
            lambda t, x: chord([t.same.s(1) | t.same.si(x), t.same.s(2)], t.total.s()),
            r"member 1: step 2: same: argument 1:",
        ),
        (lambda t, x: t.same.s(1).link(t.add.s(x)), r"callback 1: add: argument 1:"),
    ],
)
def test_what_cannot_be_sent_is_named_by_its_place(
    app: Bench, t: Tasks, make: Any, place: str
) -> None:
    refused(app, make(t, Unsendable()), EncodeError, place + ".*Unsendable")


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (
            lambda t, x: group(t.same.s(1), chain(t.same.s(x), t.same.s())),
            r"^member 2: step 1: same",
        ),
        (lambda t, x: chord([t.same.s(1), t.same.s(value=[x])], t.total.s()), r"^member 2: same"),
        (lambda t, x: chord([t.same.s(1)], t.same.si(x)), r"^body: same: argument 1: "),
        (lambda t, x: t.same.s(1).link(t.same.si({x: 1})), r"^callback 1: same: argument 1: "),
        (lambda t, x: group(t.same.s(v) for v in (1, 2, x)), r"^member 3: same: argument 1: "),
        (lambda t, x: chord((t.same.s(v) for v in (1, x)), t.total.s()), r"^member 2: same: "),
    ],
)
def test_a_text_that_is_no_unicode_is_named_by_its_place(
    app: Bench, t: Tasks, make: Any, place: str
) -> None:
    with pytest.raises(EncodeError, match=place + ".*surrogates"):
        make(t, "a\ud800").delay()
    assert app.left() == 0


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda t: t.add.s(1, 2) | t.add.s(3, 4), r"step 2: add.*too many positional"),
        (lambda t: t.add.s(1, 2) | t.add.s(), r"step 2: add.*missing a required argument"),
        (lambda t: group(t.same.s(1), t.add.s(1)), r"member 2: add.*missing a required"),
        (lambda t: chord([t.same.s(1)], t.total.s(b=1)), r"body: total.*there is no parameter 'b'"),
        (lambda t: chord((t.same.s(1) for _ in range(2)), t.add.s()), r"add.*missing"),
        (lambda t: t.add.s(1, 2).link(t.add.s(1, 2)), r"callback 1: add.*too many"),
    ],
)
def test_arguments_that_do_not_fit_are_named_by_their_place(
    app: Bench, t: Tasks, make: Any, place: str
) -> None:
    refused(app, make(t), InvalidArguments, place)


class Bad:
    """Makes signatures with wrong options, and good ones."""

    def __init__(self, t: Tasks, options: Any) -> None:
        self.t = t
        self.options = options

    def good(self) -> Signature[Any]:
        return self.t.same.si(1)

    def __call__(self) -> Signature[Any]:
        return self.t.same.si(1).set(**self.options)


WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"countdown": "5"}, "countdown is '5'"),
    ({"task_ids": ["a"]}, "there is no call option 'task_ids': did you mean task_id"),
    ({"soft_time_limit": 5, "time_limit": 1}, "soft_time_limit .* must be below"),
    ({"headers": {"n": 1}}, r"headers\.n: "),
    ({"shadow": "a\nb"}, "shadow: "),
    ({"unique_key": "a"}, "unique_key is for single calls"),
]


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda bad: chain(bad(), bad.good()), r"step 1: "),
        (lambda bad: chain(bad.good(), bad()), r"step 2: "),
        (lambda bad: chain(bad.good(), group(bad.good(), bad())), r"step 2: member 2: "),
        (lambda bad: chord([bad.good()], bad()), r"body: "),
        (lambda bad: chord([bad()], bad.good()), r"member 1: "),
        (lambda bad: group(chain(bad.good(), bad()), bad.good()), r"member 1: step 2: "),
        (lambda bad: bad.good().link(bad()), r"callback 1: "),
        (lambda bad: bad.good().link_error(bad()), r"error callback 1: "),
        (lambda bad: chain(bad.good(), bad.good().link_error(bad())), r"step 2: error callback 1"),
    ],
)
def test_options_are_checked_at_every_place_before_anything_is_sent(
    app: Bench, t: Tasks, make: Any, place: str
) -> None:
    for options, why in WRONG_OPTIONS:
        refused(app, make(Bad(t, options)), InvalidArguments, place + ".*" + why)


def test_an_option_that_no_queue_has_is_refused_at_a_later_place(app: Bench, t: Tasks) -> None:
    bad = t.same.s().set(priority=9)
    refused(app, chain(t.same.s(1), bad), ConfigurationError, "step 2: .*priority")


def test_a_member_that_is_added_to_a_chord_is_checked_as_one_from_the_start(app: Bench) -> None:
    @app.task(name="same")
    def same(value: int) -> int:
        return value

    @app.task(name="adds", bind=True)
    def adds(self: Any) -> int:
        for wrong in (same.s(), same.s(1).set(countdown="5"), same.s(1) | same.s(2)):
            with pytest.raises(InvalidArguments):
                self.add_to_chord(wrong)
        return 1

    result = chord([adds.s()], app.task(name="total")(sum).s()).delay()
    app.work()
    assert result.get(timeout=0) == 1


def test_a_workflow_that_contains_itself_is_refused(app: Bench, t: Tasks) -> None:
    loop: chain[Any] = chain(t.same.s(1), t.same.s())
    loop.tasks.append(loop)
    refused(app, loop, InvalidArguments, "step 3: the workflow contains itself")
    with pytest.raises(InvalidArguments, match="contains itself"):
        _ = loop | t.same.s()
    called = t.same.s(1)
    called.links.append(called)
    refused(app, called, InvalidArguments, "callback 1: the workflow contains itself")
    circle = group(t.same.s(1))
    circle.tasks.append(circle)
    refused(app, circle, InvalidArguments, "member 2: the workflow contains itself")


def deep(t: Tasks, depth: int) -> Node[Any]:
    node: Node[Any] = t.same.si(1)
    for _ in range(depth):
        node = chord([node], t.total.s())
    return node


def test_a_workflow_may_be_nested_so_deep_and_no_deeper(app: Bench, t: Tasks) -> None:
    refused(app, deep(t, 100), InvalidArguments, "nested deeper than 100 levels")
    refused(app, deep(t, 5000), InvalidArguments, "nested deeper than 100 levels")
    result = (t.same.s(0) | deep(t, 95)).delay()  # as JSON, inside of a message
    app.work()
    assert result.get(timeout=0) == 1


def test_many_groups_in_a_row(app: Bench, t: Tasks) -> None:
    node: Node[Any] = group(t.same.s(1), t.same.s(2))
    for _ in range(80):
        node = node | group(t.same.si(1), t.same.si(2))
    result = (node | t.total.s()).delay()
    app.work()
    assert result.get(timeout=0) == 3


def test_a_fan_out_over_the_cap_is_refused(app: Bench, t: Tasks) -> None:
    app.conf.max_fan_out = 5
    refused(app, group([t.same.s(n) for n in range(6)]), InvalidArguments, "more than 5 tasks")
    refused(app, group(t.same.s(n) for n in range(6)), InvalidArguments, "more than 5 tasks")
    refused(app, nested(t, 2), InvalidArguments, "max_fan_out")
    assert group(t.same.s(n) for n in range(5)).delay() is not None


def test_a_task_that_replaces_itself_for_ever_is_stopped(app: Bench) -> None:
    app.conf.max_depth = 5

    def again(self: Any) -> None:
        self.replace(self.s())

    result = app.task(name="again", bind=True)(again).delay()
    assert len(app.work()) == 6
    with pytest.raises(RecursionError, match="5 deep"):
        result.get(timeout=0)


def test_a_bad_replacement_fails_the_task(app: Bench, t: Tasks) -> None:
    def bad(self: Any) -> None:
        self.replace(t.same.s(Unsendable()))

    result = app.task(name="bad", bind=True)(bad).delay()
    app.work()
    with pytest.raises(EncodeError, match="Unsendable"):
        result.get(timeout=0)


@pytest.mark.parametrize("given", ["ok", None, 3], ids=str)
def test_a_replacement_that_is_no_signature_is_refused(app: Bench, given: Any) -> None:
    def done(self: Any) -> None:
        self.replace(given)

    result = app.task(name="done", bind=True)(done).delay()
    app.work()
    kind = type(given).__name__
    with pytest.raises(InvalidArguments, match=rf"^done: replace\(\) takes .*, not a {kind}: give"):
        result.get(timeout=0)


@pytest.mark.parametrize("depth", [400, 20_000])
def test_a_replacement_whose_arguments_are_too_deep_is_refused_with_our_error(
    app: Bench, t: Tasks, depth: int
) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]

    def replaces(self: Any) -> None:
        self.replace(t.same.s(deep))

    result = app.task(name="replaces", bind=True)(replaces).delay()
    app.work()
    with pytest.raises(EncodeError, match="deep"):
        result.get(timeout=0)


@pytest.mark.parametrize("wrong", ["later step", "callback", "member", "body"])
def test_a_replacement_with_a_wrong_option_starts_nothing(app: Bench, t: Tasks, wrong: str) -> None:
    odd = t.same.s().set(countdown="soon")
    workflow = {
        "later step": t.same.s(1) | odd,
        "callback": t.same.s(1).on_error(odd),
        "member": group(t.same.s(1), t.same.s(2) | odd),
        "body": chord([t.same.s(1)], odd),
    }[wrong]

    def replaces(self: Any) -> None:
        self.replace(workflow)

    result = app.task(name="replaces", bind=True)(replaces).delay()
    app.work()
    with pytest.raises(InvalidArguments, match="countdown"):
        result.get(timeout=0)
    assert not t.runs


def test_a_group_sent_in_part_says_what_was_sent(app: Bench, t: Tasks) -> None:
    members = [t.same.s(n).set(task_id=f"id-{n}") for n in range(4)]
    app.wire.refuse = lambda m: Code.INVALID if m.id == "id-2" else None
    with pytest.raises(PartlyStarted, match="1 task not sent") as caught:
        group(members).delay()
    assert caught.value.sent == ("id-0", "id-1", "id-3")
    assert caught.value.unsent == ("id-2",)
    assert app.left() == 3


def test_a_group_that_was_not_sent_at_all_is_a_publish_error(app: Bench, t: Tasks) -> None:
    app.wire.refuse = lambda m: Code.INVALID
    with pytest.raises(PublishError):
        group(t.same.s(1), t.same.s(2)).delay()


def test_a_chord_sent_in_part_fails_its_body(app: Bench, t: Tasks) -> None:
    body = t.total.s().set(task_id="the-body")
    members = [t.same.s(n).set(task_id=f"id-{n}") for n in range(3)]
    app.wire.refuse = lambda m: Code.INVALID if m.id == "id-2" else None
    with pytest.raises(PartlyStarted):
        chord(members, body).delay()
    app.work()
    with pytest.raises(ChordError, match="only a part of its header was sent"):
        app.AsyncResult("the-body").get(timeout=0)
    assert ("total", [0, 1]) not in t.runs


@pytest.mark.parametrize("joined", [False, True])
def test_a_generator_that_raises_tells_what_was_sent(app: Bench, t: Tasks, joined: bool) -> None:
    def members() -> Iterator[Any]:
        for number in range(1500):
            yield t.same.s(number)
        raise OSError("the file has ended")

    node: Any = group(members())
    if joined:
        node = chord(members(), t.total.s().set(task_id="the-body"))
    with pytest.raises(PartlyStarted, match="1,000 members sent: OSError") as caught:
        node.delay()
    assert len(caught.value.sent) == app.left() == 1000
    assert isinstance(caught.value.__cause__, OSError)
    if joined:
        assert app.state("the-body") is State.FAILURE


def test_a_broker_that_fails_in_the_middle_of_a_stream(app: Bench, t: Tasks) -> None:
    sent: list[Outgoing] = []

    def refuse(message: Outgoing) -> Code | None:
        sent.append(message)
        return Code.INVALID if len(sent) > 1990 else None

    app.wire.refuse = refuse
    with pytest.raises(PartlyStarted, match="10 tasks not sent") as caught:
        group(t.same.s(number) for number in range(3000)).delay()
    assert len(caught.value.sent) == 1990
    assert len(caught.value.unsent) == 10


@pytest.mark.slow
def test_a_generator_is_read_as_it_is_sent(tmp_path: Path) -> None:
    """At most one portion of members is in memory; what is left are the results, small ones."""
    count = 100_000 if os.environ.get("CLOUDQ_DRILL") == "full" else 4_000
    with CloudQ("stream", broker=f"sqlite:///{tmp_path}/q.db") as app:
        t = Tasks(app)
        group(t.same.s(n) for n in range(10)).delay()  # what is made once
        ahead: list[int] = []

        def members() -> Iterator[Any]:
            for number in range(count):
                if number % 1000 == 0:
                    ahead.append(number - (app.broker.admin.stats("default").ready or 0) + 10)
                yield t.same.s(number)

        tracemalloc.start()
        result = group(members()).delay()
        left, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(result) == count
        assert max(ahead) <= 1000
        assert left < count * 1000
        assert peak - left < 12_000_000, (left, peak)
        assert app.broker.admin.stats("default").ready == count + 10


@pytest.mark.slow
def test_a_join_of_many_members_lies_in_small_items(app: Bench, t: Tasks) -> None:
    """DynamoDB takes 400 KB an item, which the ids of 10,000 members alone would fill."""
    count = 4_000
    sizes: list[int] = []
    put = app.store.inner.put

    def measured(items: Any) -> Any:
        sizes.extend(len(str(dict(item.fields))) for item in items)
        return put(items)

    app.store.inner.put = measured  # type: ignore[method-assign]
    chord((t.same.s(n) for n in range(count)), t.total.s()).delay()
    assert len(sizes) > count / 100
    assert max(sizes) < 20_000


def test_an_eager_workflow_that_contains_itself_is_refused(app: Bench, t: Tasks) -> None:
    loop: chain[Any] = chain(t.same.s(1))
    loop.tasks.append(loop)
    with pytest.raises(InvalidArguments, match="contains itself"):
        loop.apply()
