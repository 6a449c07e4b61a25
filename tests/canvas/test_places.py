"""Each place of a signature is a call of its own, and what is empty is left out."""

from __future__ import annotations

from typing import Any

import pytest

from cloudq import CloudQ, EncodeError, InvalidArguments, Node, State, chain, chord, group
from cloudq.testing import drain
from tests.support.bench import Bench
from tests.worker.flow_tasks import Tasks


@pytest.fixture
def t(app: Bench) -> Tasks:
    return Tasks(app)


def leaves(result: Any) -> list[str]:
    """The ids of all calls of a workflow, by its result."""
    found: list[str] = []
    waiting = [result]
    while waiting:
        each = waiting.pop()
        if each.parent is not None:
            waiting.append(each.parent)
        inside = getattr(each, "results", None)
        if inside is None:
            found.append(each.id)
        else:
            waiting += inside
    return found


# One signature `s` and what is made of it: the number of its runs, and the value.
TWICE: dict[str, tuple[Any, int, Any]] = {
    "group": (lambda s, t: group([s] * 5), 5, ["N"] * 5),
    "group of a generator": (lambda s, t: group(s for _ in range(5)), 5, ["N"] * 5),
    "chain": (lambda s, t: chain(s, s, s), 3, "N"),
    "chain by |": (lambda s, t: s | s | s, 3, "N"),
    "chord": (lambda s, t: chord([s] * 5, t.same.s()), 5, ["N"] * 5),
    "header and body": (lambda s, t: chord([s, s], s), 3, "N"),
    "chord of chains": (lambda s, t: chord([chain(s, s)] * 3, t.same.s()), 6, ["N"] * 3),
    "group of one group": (lambda s, t: group([group([s, s])] * 2), 4, ["N"] * 4),
    "chain of one chain": (lambda s, t: chain(chain(s, s), chain(s, s)), 4, "N"),
    "chord of one chord": (
        lambda s, t: chord([chord([s, s], t.same.s())] * 2, t.same.s()),
        4,
        [["N"] * 2] * 2,
    ),
    "group | group": (lambda s, t: group([s, s]) | group([s, s]) | t.same.s(), 4, ["N"] * 2),
    "callbacks of its own": (lambda s, t: group([s.clone().link(s)] * 2), 4, ["N"] * 2),
    "a chain as a callback": (lambda s, t: s.clone().link(chain(s, s)), 3, "N"),
}


@pytest.mark.parametrize("name", TWICE)
def test_each_place_of_a_signature_is_a_call_of_its_own(app: Bench, t: Tasks, name: str) -> None:
    make, runs, value = TWICE[name]
    node = make(t.same.si("N"), t)
    result = node.delay()
    app.work()
    assert result.get(timeout=0) == value
    assert t.runs.count(("same", "N")) == runs
    assert len(set(leaves(result))) == len(leaves(result))


@pytest.mark.parametrize("name", TWICE)
def test_so_it_is_with_options_arguments_and_without_a_queue(
    app: Bench, t: Tasks, name: str
) -> None:
    make, runs, value = TWICE[name]
    result = make(t.same.si("N"), t).apply_async(expires=1000)
    app.work()
    assert result.get(timeout=0) == value
    assert t.runs.count(("same", "N")) == runs
    t.runs.clear()
    assert make(t.same.si("N"), t).apply().get() == value
    assert t.runs.count(("same", "N")) == runs


def test_a_replacement_and_an_added_member_that_have_one_signature_twice(
    app: Bench, t: Tasks
) -> None:
    @app.task(name="becomes", bind=True)
    def becomes(self: Any) -> None:
        one = t.same.si(1)
        self.add_to_chord(chain(one, one))
        self.replace(chord([one, one], t.total.s()))

    result = chord([becomes.s()], t.total.s()).delay()
    app.work()
    assert result.get(timeout=0) == 3
    assert t.runs.count(("same", 1)) == 4


def test_error_callbacks_that_have_one_signature_twice(app: Bench, t: Tasks) -> None:
    one = t.same.si(1)
    t.fail.s().link_error(chain(one, one, one)).delay()
    app.work()
    assert t.runs == [("same", 1)] * 3


def test_a_copy_shares_nothing(app: Bench, t: Tasks) -> None:
    one = t.same.s([1])
    both = group([one, one]).clone()
    both.tasks[0].args[0].append(2)  # type: ignore[attr-defined]
    both.tasks[0].set(countdown=1)
    assert both.tasks[1].args == one.args == ([1],)  # type: ignore[attr-defined]
    assert not both.tasks[1].options
    assert both.tasks[0].app is app


def test_one_task_id_at_two_places_is_refused(app: Bench, t: Tasks) -> None:
    named = t.same.si(1).set(task_id="named")
    for node in (group([named] * 2), chain(named, named), chord([named], named)):
        with pytest.raises(InvalidArguments, match="'named' too"):
            node.delay()
    assert app.left() == 0


# What is empty, and what it comes to, which was tried with Celery 5.7.
EMPTY: dict[str, tuple[Any, Any]] = {
    "group(chain(), one)": (lambda t: group(chain(), t.same.s(1)), [1]),
    "chord([chain()], same)": (lambda t: chord([chain()], t.same.s()), []),
    "chord([chain(), one], same)": (lambda t: chord([chain(), t.same.s(1)], t.same.s()), [1]),
    "chain(chain(), one)": (lambda t: chain(chain(), t.same.s(1)), 1),
    "chain(one, chain())": (lambda t: chain(t.same.s(1), chain()), 1),
    "one | chain()": (lambda t: t.same.s(1) | chain(), 1),
    "chain() | one": (lambda t: chain() | t.same.s(1), 1),
    "group(chain())": (lambda t: group(chain()), []),
    "group(group())": (lambda t: group(group()), []),
    "one | group()": (lambda t: t.same.s(1) | group(), 1),
    "chain(one, group())": (lambda t: chain(t.same.s(1), group()), 1),
    "chain(one, group(), same)": (lambda t: chain(t.same.s(1), group(), t.same.s()), 1),
    "chain(group(), one, same)": (lambda t: chain(group(), t.same.s(1), t.same.s()), 1),
    "group | group() | same": (lambda t: group(t.same.s(1)) | group() | t.same.s(), [1]),
    "chord([group()], same)": (lambda t: chord([group()], t.same.s()), []),
    "chord([chain(one, group())], same)": (
        lambda t: chord([chain(t.same.s(1), group())], t.same.s()),
        [1],
    ),
    "chord([one], group())": (lambda t: chord([t.same.s(1)], group()), []),
    "group([chain(group())])": (lambda t: group([chain(group())]), []),
    "group of a generator with an empty chain": (
        lambda t: group(node for node in (chain(), t.same.s(1))),
        [1],
    ),
    "chain(one | group(), same)": (lambda t: chain(t.same.s(1) | group(), t.same.s()), 1),
    "chain(one | same | group(), group(same))": (
        lambda t: chain(t.same.s(1) | t.same.s() | group(), group(t.same.s(), t.same.s())),
        [1, 1],
    ),
    "chain(one, group(group()), same)": (
        lambda t: chain(t.same.s(1), group(group()), t.same.s()),
        1,
    ),
    "one | group(group())": (lambda t: t.same.s(1) | group(group()), 1),
    "group(group()) | same": (lambda t: group(group()) | t.same.s(), []),
    "chain(chain(chain()), one)": (lambda t: chain(chain(chain()), t.same.s(1)), 1),
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_empty_is_left_out(app: Bench, t: Tasks, name: str) -> None:
    make, value = EMPTY[name]
    result = make(t).delay()
    app.work()
    assert result.get(timeout=0) == value
    assert make(t).apply().get() == value


def test_arguments_go_to_the_first_task_after_what_is_empty(app: Bench, t: Tasks) -> None:
    result = chain(chain(), group(), t.add.s(2)).delay(1)
    app.work()
    assert result.get(timeout=0) == 3
    assert chain().delay() is None
    assert chain(chain(), group()).delay() is None


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda t: chord([t.same.s(1)], chain()), "body: the chain is empty"),
        (lambda t: group(t.same.s(1), chain().link(t.same.s())), "member 2: the chain is empty"),
        (lambda t: chain(t.same.s(1), chain().link(t.same.s())), "step 2: the chain is empty"),
    ],
)
def test_what_cannot_be_left_out_is_named(app: Bench, t: Tasks, make: Any, place: str) -> None:
    node: Node[Any] = make(t)
    with pytest.raises(InvalidArguments, match=place):
        node.delay()
    assert app.left() == 0


@pytest.mark.parametrize("size", [0, -1])
def test_chunks_of_nothing_are_refused(app: Bench, t: Tasks, size: int) -> None:
    with pytest.raises(InvalidArguments, match="the size of chunks is"):
        t.add.chunks([(1, 2)], size)


def test_a_task_that_is_replaced_by_nothing_fails(app: Bench, t: Tasks) -> None:
    @app.task(name="ends", bind=True, max_retries=0)
    def ends(self: Any) -> None:
        self.replace(chain())

    result = ends.delay()
    app.work()
    assert result.state is State.FAILURE
    with pytest.raises(InvalidArguments, match="the chain is empty"):
        result.get(timeout=0)


def test_only_what_was_sent_is_among_the_children(app: Bench, t: Tasks) -> None:
    @app.task(name="calls", bind=True)
    def calls(self: Any) -> str:
        app.wire.down.add("send")
        for send in (lambda: t.same.delay(1), lambda: app.send_task("same", (1,))):
            with pytest.raises(Exception, match="down"):
                send()
        app.wire.down.clear()
        return t.same.delay(2).id

    result = calls.delay()
    app.work()
    assert [child.id for child in result.children] == [result.get(timeout=0)]


@pytest.mark.parametrize("levels", [300, 1200, 5000])
def test_values_nested_too_deep_are_refused_with_our_error(plain: CloudQ, levels: int) -> None:
    @plain.task(name="note")
    def note(value: Any) -> None: ...

    deep: Any = ()
    for _ in range(levels):
        deep = {"inside": (deep,)}
    for make in (
        lambda: note.s(deep).delay(),
        lambda: chain(note.si(1), note.si(deep)).delay(),
        lambda: group([note.s(value=deep)]).delay(),
    ):
        with pytest.raises(EncodeError, match="nest"):
            make()
    assert drain(plain) == []


# A signature `s`, a task that fails or succeeds, and the number of the calls of `s`.
CALLED_BACK: dict[str, tuple[Any, int]] = {
    "link=[s, s]": (lambda s, ok, bad: ok.apply_async(link=[s, s]), 2),
    "link=(s, s, s)": (lambda s, ok, bad: ok.apply_async(link=(s, s, s)), 3),
    "link_error=[s, s]": (lambda s, ok, bad: bad.apply_async(link_error=[s, s]), 2),
    "in both": (lambda s, ok, bad: ok.apply_async(link=[s, s], link_error=[s]), 2),
    "set": (lambda s, ok, bad: ok.clone().set(link=[s, s]).apply_async(), 2),
    "chain": (lambda s, ok, bad: (ok | ok).apply_async(link=[s, s]), 2),
    "step and chain": (lambda s, ok, bad: (ok | ok.clone().link(s)).apply_async(link=s), 2),
    "chain that fails": (lambda s, ok, bad: (ok | bad).apply_async(link_error=[s, s]), 2),
    "group": (lambda s, ok, bad: group(ok, ok).apply_async(link=[s, s]), 2),
    "group that fails": (lambda s, ok, bad: group(bad, bad).apply_async(link_error=[s, s]), 4),
    "chord": (lambda s, ok, bad: chord([ok, ok], ok).apply_async(link=[s, s]), 2),
    "member and body": (lambda s, ok, bad: chord([ok.clone().link(s), ok], s).apply_async(), 2),
    "chord that fails": (
        lambda s, ok, bad: chord([ok, bad], ok).apply_async(link_error=[s, s]),
        2,
    ),
    "callback of a callback": (
        lambda s, ok, bad: ok.apply_async(link=[s.clone().set(link=[s, s])]),
        3,
    ),
    "link twice": (lambda s, ok, bad: ok.clone().link(s).link(s).apply_async(), 1),  # as in Celery
    "on_error twice": (lambda s, ok, bad: bad.clone().on_error(s).on_error(s).apply_async(), 1),
}


@pytest.mark.parametrize("name", CALLED_BACK)
@pytest.mark.parametrize("eager", [False, True], ids=["sent", "eager"])
def test_each_place_of_a_callback_is_a_call_of_its_own(name: str, eager: bool) -> None:
    runs: list[str] = []
    app = CloudQ("called", broker=f"memory://{name.encode().hex()}", task_always_eager=eager)

    @app.task(name="called")
    def called(*args: Any) -> None:
        runs.append(called.request.id)

    @app.task(name="ok")
    def ok(*args: Any) -> None: ...

    @app.task(name="bad", max_retries=0)
    def bad(*args: Any) -> None:
        raise ValueError("bad")

    make, count = CALLED_BACK[name]
    with app:
        make(called.s(), ok.s(), bad.s())
        drain(app)
    assert len(runs) == count
    assert len(set(runs)) == count


ERRBACKS: dict[str, tuple[Any, int]] = {
    "of a step and of its chain": (
        lambda t, e: chain(t.same.s("N"), t.fail.s().on_error(e)).on_error(e),
        1,
    ),
    "of a chain in a chain": (
        lambda t, e: chain(t.same.s("N"), chain(t.same.s(), t.fail.si()).on_error(e)).on_error(e),
        1,
    ),
    "of the chain after a chord": (
        lambda t, e: chord([t.fail.s(), t.same.s("N")], chain(t.total.s(), t.same.s()).on_error(e)),
        1,
    ),
    "of a group in a chain": (
        lambda t, e: chain(t.same.s("N"), group(t.fail.si(), t.fail.si()).on_error(e)).on_error(e),
        2,
    ),
    "of a step, and another of its chain": (
        lambda t, e: chain(t.same.s("N"), t.fail.si().on_error(e)).on_error(t.told.si("other")),
        2,
    ),
}


@pytest.mark.parametrize("eager", [False, True], ids=["sent", "eager"])
@pytest.mark.parametrize("name", ERRBACKS)
def test_a_step_that_has_the_errback_of_its_chain_calls_it_once_as_in_celery(
    app: Bench, t: Tasks, name: str, eager: bool
) -> None:
    """So a chain whose steps have an errback each may have the same for all of them."""
    make, count = ERRBACKS[name]
    node = make(t, t.told.s())
    node.apply() if eager else node.delay()
    app.work()
    assert [run[0] for run in t.runs].count("told") == count
