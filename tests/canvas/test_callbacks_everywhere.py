"""Callbacks and options of a call count wherever its signature stands, or are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import pytest

from cloudq import CloudQ, EncodeError, InvalidArguments, chain, chord, group
from cloudq.tasks.signature import Signature
from cloudq.testing import drain

Named = StrEnum("Named", {"VALUE": "value"})


class Tasks:
    """Tasks that say what ran, in order."""

    def __init__(self, app: CloudQ) -> None:
        self.app = app
        self.ran: list[Any] = []

        @app.task(name="one")
        def one(value: Any = 1) -> Any:
            self.ran.append(("one", value))
            return value

        @app.task(name="fails")
        def fails(*values: Any) -> None:
            raise ValueError("no")

        @app.task(name="after")
        def after(value: Any) -> None:
            self.ran.append(("after", value))

        @app.task(name="wrong")
        def wrong() -> None:
            self.ran.append("wrong")

        self.one, self.fails, self.after, self.wrong = one, fails, after, wrong


@pytest.fixture
def t(plain: CloudQ) -> Tasks:
    return Tasks(plain)


PLACES: list[Callable[[Tasks, Any], Any]] = [
    lambda t, call: call.delay(),
    lambda t, call: chain(t.one.si(0), call).delay(),
    lambda t, call: chain(call, t.one.si(0)).delay(),
    lambda t, call: group(call, t.one.si(0)).delay(),
    lambda t, call: chord([t.one.si(0)], call).delay(),
    lambda t, call: chord([call], t.one.si(0)).delay(),
    lambda t, call: t.one.si(0).link(call).delay(),
    lambda t, call: t.app.signature(chain(t.one.si(0), call).to_dict()).delay(),
    lambda t, call: chain(t.one.si(0), call).apply(),
]
CALLS: list[Callable[[Tasks], Any]] = [
    lambda t: t.one.signature((5,), immutable=True, link=t.after.s()),
    lambda t: t.one.options(link=[t.after.s()]).si(5),
    lambda t: t.app.signature("one", (5,), immutable=True, link=(t.after.s(),)),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_callback_among_the_options_runs_at_every_place(t: Tasks, place: Any) -> None:
    for call in CALLS:
        t.ran.clear()
        place(t, call(t))
        drain(t.app)
        assert [each for each in t.ran if each[1] == 5] == [("one", 5), ("after", 5)]


@pytest.mark.parametrize("place", PLACES)
def test_an_error_callback_among_the_options_runs_at_every_place(t: Tasks, place: Any) -> None:
    place(t, t.fails.signature((), link_error=t.wrong.si()))
    drain(t.app)
    assert t.ran.count("wrong") == 1


def test_callbacks_of_a_call_that_runs_here_run_here(t: Tasks) -> None:
    assert t.one.apply((5,), link=t.after.s()).get() == 5
    assert t.ran == [("one", 5), ("after", 5)]
    t.fails.apply(link_error=t.wrong.si())
    assert t.ran[2:] == ["wrong"]
    t.app.configure(task_always_eager=True)
    t.app.publish([t.one.options(link=t.after.s()).prepare(6)])
    assert t.ran[3:] == [("one", 6), ("after", 6)]


def test_calls_that_are_published_together_have_no_callbacks(t: Tasks) -> None:
    for odd, why in (
        (t.one.options(link=t.after.s()).prepare(1), "one: a prepared call has no link"),
        (t.one.options(link_error=t.after.s()).prepare(1), "one: a prepared call has no link"),
        (t.one.s(1), r"publish was given one\(1\): give task\.prepare"),
        (5, "publish was given 5"),
    ):
        with pytest.raises(InvalidArguments, match=why):
            t.app.publish([t.one.prepare(1), odd])  # type: ignore[list-item]
    assert drain(t.app) == []


def test_calls_over_many_items_have_the_options_of_their_task(t: Tasks) -> None:
    elsewhere = t.one.options(queue="other", headers={"a": "b"})
    for node in (
        elsewhere.map([1]),
        elsewhere.starmap([(1,)]),
        elsewhere.chunks([(1,)], 1),
        chain(t.one.si(0), elsewhere.map([1])),
    ):
        t.ran.clear()
        node.delay()
        drain(t.app, ["default"])
        assert ("one", 1) not in t.ran
        drain(t.app, ["other"])
        assert ("one", 1) in t.ran


def test_calls_over_many_items_take_no_value_of_the_task_before_as_in_celery(t: Tasks) -> None:
    for node in (t.one.map([1, 2]), t.one.starmap([(1,), (2,)]), t.one.chunks([(1,), (2,)], 1)):
        t.ran.clear()
        before = chain(t.one.si(0), node).delay()
        drain(t.app)
        assert t.ran == [("one", 0), ("one", 1), ("one", 2)]
        assert before.get(timeout=0) in ([1, 2], [[1], [2]])


@pytest.mark.parametrize(
    "make",
    [
        lambda t, odd: group(odd),
        lambda t, odd: chain(odd),
        lambda t, odd: chain(t.one.s(), odd),
        lambda t, odd: group([t.one.s(), odd]),
        lambda t, odd: chord(odd, t.one.s()),
        lambda t, odd: chord([t.one.s()], odd or 0),
        lambda t, odd: t.one.s() | odd,
        lambda t, odd: group(t.one.s()) | odd,
    ],
)
def test_what_is_no_signature_is_refused_where_it_is_written(t: Tasks, make: Any) -> None:
    for odd in (5, None, t.one, "one", SimpleNamespace(), lambda: 1):
        with pytest.raises(InvalidArguments, match=r"is no signature: write task\.s\("):
            make(t, odd)


def test_what_is_no_callback_is_refused_whole(t: Tasks) -> None:
    for odd in (5, "after", b"after", t.after, SimpleNamespace()):
        for option in ("link", "link_error"):
            with pytest.raises(InvalidArguments, match=rf"^{option} is .*: give signatures"):
                t.one.apply_async((1,), **{option: odd})  # type: ignore[arg-type]
            with pytest.raises(InvalidArguments, match=rf"^{option} is .*: give signatures"):
                t.one.s(1).set(**{option: odd})  # type: ignore[arg-type]
    assert drain(t.app) == []


def test_a_value_that_cannot_be_copied_cannot_be_sent(t: Tasks) -> None:
    values = (threading.Lock(), (n for n in [1]), memoryview(b"a"), [threading.Lock()])
    for value in values:
        for node in (
            chain(t.one.s(1), t.one.si(value)),
            group(t.one.s(value)),
            chord([t.one.s(1)], t.one.si(value=value)),
            t.one.s(1).link(t.one.si(value)),
            t.one.s(1).link_error(t.one.si(value)),
            t.one.map([value]),
        ):
            with pytest.raises(EncodeError):
                node.delay()
    assert drain(t.app) == []


def test_a_name_that_is_a_member_of_an_enum_is_a_name_in_workflows_too(t: Tasks) -> None:
    kwargs: Any = {Named.VALUE: 5}
    t.one.apply_async(kwargs=kwargs)
    chain(t.one.si(0), t.one.signature(kwargs=kwargs, immutable=True)).delay()
    chain(t.one.s(), t.one.si(0)).apply_async(kwargs=kwargs)
    drain(t.app)
    assert t.ran.count(("one", 5)) == 3


def test_a_parameter_may_be_named_self(plain: CloudQ) -> None:
    @plain.task(name="take")
    def take(**named: Any) -> Any:
        return named

    sent = [take.delay(self=1), take.s(self=1).delay(), take.si().delay(self=1)]
    sent += plain.publish([take.prepare(self=1)])
    sent.append(take.delay_on_commit(self=1))
    drain(plain)
    assert [each.get(timeout=0) for each in sent] == [{"self": 1}] * 2 + [{}] + [{"self": 1}] * 2
    assert take(self=1) == {"self": 1}


UNSTARTED: list[Callable[[Tasks, Any], Any]] = [
    lambda t, call: call.on_error(t.after.s()),
    lambda t, call: chord([t.one.s()], call).on_error(t.after.s()),
    lambda t, call: chain(chord([t.one.s()], call), t.one.s()).on_error(t.after.s()),
    lambda t, call: chord([t.one.s()], chord([t.one.s()], call)).on_error(t.after.s()),
    lambda t, call: group([chord([t.one.s()], call)]).on_error(t.after.s()),
]


@pytest.mark.parametrize("body", UNSTARTED)
@pytest.mark.parametrize("start", ["delay", "apply"])
def test_the_error_callback_of_a_body_runs_whatever_the_body_is(
    t: Tasks, body: Callable[[Tasks, Any], Any], start: str
) -> None:
    node = chord([t.fails.s(), t.one.s()], body(t, t.one.s()))
    getattr(node, start)()
    drain(t.app)
    assert [name for name, _ in t.ran].count("after") == 1


@pytest.mark.parametrize("kind", ["link", "link_error"])
def test_more_callbacks_than_a_message_may_have_are_refused_at_the_call(
    t: Tasks, kind: Any
) -> None:
    call = t.one.s().set(**{kind: [t.after.s() for _ in range(1000)]})
    add = call.link if kind == "link" else call.on_error
    add(t.after.s())  # it is there
    refused = r"one\(\): 1,001 callbacks of one kind: 1,000 at most"
    for more in (lambda: add(t.after.s(1)), lambda: call.set(**{kind: [t.after.s(1)]})):
        with pytest.raises(InvalidArguments, match=refused):
            more()
    read = call.to_dict()
    read[kind].append(t.after.s(1).to_dict())
    with pytest.raises(InvalidArguments, match="1,001 callbacks of one kind: 1,000 at most"):
        t.app.signature(read).delay()
    with pytest.raises(InvalidArguments, match="step 2: 1,001 callbacks of one kind"):
        chain(t.one.s(), t.app.signature(read)).delay()
    assert drain(t.app) == []


def test_calls_that_differ_in_a_value_are_not_written_to_compare_them(
    t: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    to_dict = Signature.to_dict
    monkeypatch.setattr(Signature, "to_dict", lambda self: written.append(self) or to_dict(self))
    call = t.one.s()
    for number in range(50):
        call.link(t.after.s(number)).link(t.after.s(str(number)))
    assert len(call.links) == 100
    assert len(written) < 3000  # those of number and text; comparing all would be near 10,000
    call.link(t.after.s(0)).link(t.after.s(True)).link(t.after.s(1.0))
    assert len(call.links) == 100


@pytest.mark.parametrize("start", ["delay", "apply"])
def test_what_follows_gets_the_value_of_a_call_whose_result_is_ignored(
    t: Tasks, start: str
) -> None:
    ignored = t.one.s(5).set(ignore_result=True)
    getattr(chain(ignored.clone().link(t.after.s()), t.one.s()), start)()
    getattr(chord([ignored], t.one.s()), start)()
    drain(t.app)
    assert t.ran.count(("one", 5)) == 3
    assert ("after", 5) in t.ran
    assert ("one", [5]) in t.ran
