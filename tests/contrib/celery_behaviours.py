# ruff: noqa: E501, SIM905
"""Celery's behaviours as rows: a name and a small program that returns plain data.

`python celery_behaviours.py celery` runs the rows on the real Celery, `... cloudq` on cloudq's
names for it; both print one JSON of what came, which test_celery_behaviours.py compares.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import islice
from typing import Any
from unittest.mock import patch

ROOT = {"celery": "celery", "cloudq": "cloudq.contrib.celery"}[sys.argv[1]]
WORKER = {"celery": "celery.contrib.testing.worker", "cloudq": "cloudq.contrib.celery.testing"}

C = import_module(ROOT)
canvas, exceptions, results = (
    import_module(f"{ROOT}.{name}") for name in ("canvas", "exceptions", "result")
)
schedules, signals, states = (
    import_module(f"{ROOT}.{name}") for name in ("schedules", "signals", "states")
)
chain, chord, group, signature, Signature = C.chain, C.chord, C.group, C.signature, C.Signature
AsyncResult, EagerResult = results.AsyncResult, results.EagerResult
GroupResult, ResultSet = results.GroupResult, results.ResultSet

# How long a call may take that never comes to an end.
PATIENCE = 6

BACKEND = {"celery": "cache+memory://", "cloudq": "memory://rows"}
app = C.Celery("rows", broker="memory://", backend=BACKEND[sys.argv[1]])
if sys.argv[1] == "celery":
    app.conf.update(broker_transport_options={"polling_interval": 0.02})
app.set_current()

ROWS: dict[str, Callable[[], Any]] = {}
RUNS: list[Any] = []


def row(name: str, program: Callable[[], Any] | None = None) -> Any:
    """Add a row: `row(name, lambda: ...)`, or over a function."""
    if program is None:
        return lambda function: row(name, function)
    assert name not in ROWS, name
    ROWS[name] = program
    return program


@app.task(name="rows.note")
def note(*args: Any) -> str:
    RUNS.append(list(args))
    return "N"


@app.task(name="rows.add")
def add(x: int, y: int) -> int:
    RUNS.append([x, y])
    return x + y


@app.task(name="rows.total")
def total(values: Any = None) -> Any:
    return sum(values)


@app.task(name="rows.show")
def show(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


@app.task(name="rows.fail")
def fail(*args: Any) -> None:
    raise KeyError("b")


@app.task(name="rows.silent", ignore_result=True)
def silent() -> int:
    return 1


@app.task(name="rows.field", bind=True)
def field(self: Any, name: str, *args: Any) -> Any:
    return plain(getattr(self.request, name))


@app.task(name="rows.flaky", bind=True, max_retries=2, default_retry_delay=0)
def flaky(self: Any, times: int) -> int:
    if self.request.retries < times:
        raise self.retry(exc=ValueError("again"))
    return self.request.retries


@app.task(name="rows.errback")
def errback(request: Any, exc: Any, traceback: Any) -> None:
    kinds = [request.id is not None, type(exc).__name__, type(traceback).__name__]
    RUNS.append([*kinds, request.task, list(request.args)])


def plain(value: Any) -> Any:
    """Give what JSON can hold of a value."""
    if isinstance(value, BaseException):
        return [caught_by(value), plain(list(value.args))]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in sorted(value.items(), key=str)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(one) for one in value)
    return type(value).__name__


def raised(program: Callable[[], Any]) -> Any:
    """Say of a program which `except` catches what it raises; or that it raises nothing."""
    try:
        program()
    except BaseException as error:
        return caught_by(error)
    return "nothing"


CAUGHT = (
    "TaskRevokedError NotRegistered MaxRetriesExceededError TimeoutError ChordError Retry Ignore "
    "Reject"
)


def caught_by(error: BaseException) -> str:
    for name in CAUGHT.split():
        if isinstance(error, getattr(exceptions, name)):
            return name
    mine = type(error)
    return mine.__name__ if mine.__module__ in (__name__, "builtins") else builtins_of(mine)[0]


def kind(sig: Any) -> str:
    """Name the class of a signature as programs do: Celery's are made by others of that name."""
    return type(sig).__name__.removeprefix("_")


def builtins_of(kind: type) -> list[str]:
    """Name the classes of Python's own that a class is one of."""
    return [one.__name__ for one in kind.__mro__ if one.__module__ == "builtins"]


def get(result: Any, **options: Any) -> Any:
    return result.get(timeout=PATIENCE, **options)


def fresh() -> None:
    """Forget the runs that were noted, those of calls under way too."""
    noted = -1
    while noted != len(RUNS):
        noted = len(RUNS)
        time.sleep(0.2)
    RUNS.clear()


def settled(expected: int) -> Any:
    """Wait until so many runs were noted, and a moment for those too many."""
    until = time.monotonic() + PATIENCE
    while len(RUNS) < expected and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)
    return len(RUNS)


def runs_of(expected: int, start: Callable[[], Any]) -> Callable[[], Any]:
    """A row that counts how often tasks ran."""

    def program() -> Any:
        fresh()
        value = get(start())
        return [settled(expected), plain(value)]

    return program


@contextmanager
def settings(**values: Any) -> Any:
    """Set settings of the app for the time of a block."""
    before = {name: getattr(app.conf, name) for name in values}
    app.conf.update(values)
    try:
        yield
    finally:
        app.conf.update(before)


def made(name: str = "made", **options: Any) -> Any:
    """An app that nothing else uses."""
    return C.Celery(name, broker="memory://", set_as_current=False, **options)


# One signature at several places.
S, M, T = note.si(), note.s(), total.s()
row("same: group of five", runs_of(5, lambda: group([S] * 5)()))
row("same: group of a generator", runs_of(5, lambda: group(S for _ in range(5))()))
row("same: group of arguments", runs_of(3, lambda: group(S, S, S)()))
row("same: chain", runs_of(3, lambda: chain(S, S, S)()))
row("same: chain by |", runs_of(3, lambda: (S | S | S)()))
row("same: chord", runs_of(4, lambda: chord([S] * 3, S)()))
row("same: chord by |", runs_of(4, lambda: (group([S] * 3) | S)()))
row("same: chord of a generator", runs_of(4, lambda: chord((S for _ in range(3)), S)()))
row("same: chord of a chain", runs_of(4, lambda: chord([chain(S, S, S)], S)()))
row("same: chord of one chain thrice", runs_of(7, lambda: chord([chain(S, S)] * 3, S)()))


@row("same: group of a chain twice")
def _() -> Any:
    same = chain(S, S)
    return runs_of(4, lambda: group([same, same])())()


@row("same: group of a group twice")
def _() -> Any:
    same = group([S, S])
    return runs_of(4, lambda: group([same, same])())()


@row("same: chain of a chain twice")
def _() -> Any:
    same = chain(S, S)
    return runs_of(5, lambda: chain(same, same, S)())()


@row("same: chain of a chord twice")
def _() -> Any:
    same = chord([S, S], S)
    return runs_of(6, lambda: chain(same, same)())()


@row("same: chain of a group thrice")
def _() -> Any:
    same = group([S, S])
    return runs_of(6, lambda: chain(same, same, same)())()


@row("same: linked five times")
def _() -> Any:
    first = note.si("first")
    for _ in range(5):
        first.link(S)
    return runs_of(2, lambda: first.delay())()


row("same: link as an option", runs_of(6, lambda: note.apply_async(link=[S] * 5)))


@row("same: a chain started twice")
def _() -> Any:
    same = chain(S, S)

    def twice() -> Any:
        get(same())
        return same()

    return runs_of(4, twice)()


@row("same: a group started twice")
def _() -> Any:
    same = group([S, S])

    def twice() -> Any:
        get(same())
        return same()

    return runs_of(4, twice)()


@row("same: other ids at each start")
def _() -> Any:
    same = add.si(1, 1)
    return same.delay().id == same.delay().id


row("same: arguments to all", runs_of(4, lambda: group([chain(M, M)] * 2).apply_async((3,))))


def _unchanged(change: Callable[[Any], Any]) -> Any:
    """Change workflows of one signature; its options afterwards, and what it comes to."""
    same = note.si()
    for node in (chain(same, same), group([same, same]), chord([same], same)):
        change(node)
    return [dict(same.options), same.immutable, get(same.delay())]


row("same: not changed by options", lambda: _unchanged(lambda node: node.set(queue="other")))
row("same: not changed by clone", lambda: _unchanged(lambda node: node.clone(countdown=60)))
row("same: not changed by an id", lambda: _unchanged(lambda node: node.set(task_id="other")))


def _delays(several: Any) -> Any:
    return [member.options["countdown"] for member in several.tasks]


# Workflows.
row("chain: value", lambda: get(chain(add.s(1, 2), add.s(3), add.s(4))()))
row("chain: parent's value", lambda: get((add.s(1, 2) | add.s(3))().parent))
row("chain: no parents of its first", lambda: (add.s(1, 2) | add.s(3))().parent.parent)
row("chain: immutable in it", lambda: get(chain(add.s(1, 2), add.si(5, 5))()))
row("chain: a failure goes to its end", lambda: raised(lambda: get(chain(fail.si(), S)())))
row("chain: of one is the task", lambda: kind(chain(add.s(1, 2))))
row("chain: of none", lambda: plain(chain()()))
row("chain: partial", lambda: get(chain(add.s(2), add.s(3)).delay(1)))
row("chain: | of chains is flat", lambda: len(((S | S) | (S | S)).tasks))
row("chain: | with a group", lambda: kind(S | group(S, S)))
row("chain: group in the middle", lambda: get(chain(group(add.s(1, 1), add.s(2, 2)), T)()))
row("chain: ends with a group", lambda: get(chain(add.s(1, 1), group(add.s(1), add.s(2)))()))
row("chain: apply", lambda: chain(add.s(1, 2), add.s(3)).apply().get())
row("group: value", lambda: get(group(add.s(1, 1), add.s(2, 2))()))
row("group: value is in order", lambda: get(group(add.s(i, i) for i in range(6))()))
row("group: of none", lambda: plain(get(group()())))
row("group: len", lambda: len(group(S, S, S)))
row("group: partial", lambda: get(group(add.s(1), add.s(2)).delay(10)))
row("group: fails as its member", lambda: raised(lambda: get(group(S, fail.si())())))
row("group: not propagated", lambda: plain(get(group(S, fail.si())(), propagate=False)))
row("group: skew", lambda: _delays(group([note.si()] * 3).skew(1, 9, 2)))
row("group: skew by default", lambda: _delays(group([note.si()] * 3).skew()))
row("group: skew of several", lambda: _delays(group(note.si() for _ in range(3)).skew(1, 9, 2)))
row("group: app", lambda: group([add.s(1, 2)], app=app).apply().get())
row("group: GroupResult", lambda: isinstance(group(S, S)(), GroupResult))
row("group: completed_count", lambda: (lambda g: [get(g), g.completed_count()])(group(S, S)()))
row("group: nested value", lambda: get(group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3))()))
row("chord: value", lambda: get(chord([add.s(1, 1), add.s(2, 2)], T)()))
row("chord: called with its body", lambda: get(chord([add.s(1, 1), add.s(2, 2)])(T)))
row("chord: in a chain", lambda: get(chain(chord([add.s(1, 1)] * 2, T), add.s(10))()))
row("chord: nested", lambda: get(chord([chord([add.s(1, 1)] * 2, T), add.s(1, 1)], T)()))
row("chord: of a group of one", lambda: get((group([add.s(1, 1)]) | T)()))
row("chord: body with arguments", lambda: get(chord([add.s(1, 1)] * 2, show.s(k=1))()))
row("chord: parent is the header", lambda: type(chord([S] * 2, S)().parent).__name__)
row("chord: of none", lambda: get(chord([], T)()))
row("chord: apply", lambda: chord([add.s(1, 1), add.s(2, 2)], T).apply().get())


@row("chord: a header's failure")
def _() -> Any:
    result = chord([S, fail.si()], S)()
    # Celery looks at the header first when the wait begins, and which it sees later is chance.
    get(result.parent.results[1], propagate=False)
    return raised(lambda: get(result))


row("map", lambda: get(total.map([[1, 2], [3]]).delay()))
row("starmap", lambda: get(add.starmap([(1, 2), (3, 4)]).delay()))
row("chunks", lambda: get(add.chunks([(1, 2), (3, 4), (5, 6)], 2)()))
row("chunks: group", lambda: len(add.chunks([(1, 2), (3, 4), (5, 6)], 2).group()))


@row("link: gets the value")
def _() -> Any:
    fresh()
    get(add.apply_async((1, 2), link=note.s("k")))
    settled(2)
    return RUNS


@row("link: twice the same is once")
def _() -> Any:
    first = add.s(1, 2)
    first.link(add.s(5))
    first.link(add.s(5))
    return len(first.flatten_links())


@row("link_error: three arguments")
def _() -> Any:
    fresh()
    raised(lambda: get(fail.apply_async((7,), link_error=errback.s())))
    settled(1)
    return RUNS


@row("link_error: of a chain reaches each")
def _() -> Any:
    fresh()
    raised(lambda: get(chain(fail.si(7), S).on_error(errback.s()).apply_async()))
    settled(1)
    return RUNS


row("on_error returns the signature", lambda: type(add.s(1, 2).on_error(S)).__name__)


@app.task(name="rows.replaced", bind=True)
def replaced(self: Any, x: int) -> Any:
    raise self.replace(add.s(x, 10))


@app.task(name="rows.replaced_by_a_chain", bind=True)
def replaced_by_a_chain(self: Any, x: int) -> Any:
    return self.replace(add.s(x, 10) | add.s(100))


@app.task(name="rows.replaced_by_a_group", bind=True)
def replaced_by_a_group(self: Any, x: int) -> Any:
    return self.replace(group(add.s(x, 10), add.s(x, 20)))


row("replace: value", lambda: get(replaced.delay(1)))
row("replace: by a chain", lambda: get(replaced_by_a_chain.delay(1)))
row("replace: by a group", lambda: get(replaced_by_a_group.delay(1)))
row("replace: in a chain", lambda: get(chain(replaced.s(1), add.s(5))()))
row("replace: in a chord", lambda: get(chord([replaced.s(1), replaced.s(2)], T)()))

# Signatures.
KINDS = {
    "a task's": lambda: add.s(1, 2),
    "an immutable": lambda: add.si(1, 2).set(queue="q", countdown=3),
    "a chain": lambda: add.s(1, 2) | add.s(3),
    "a group": lambda: group(add.s(1, 1), add.s(2, 2)),
    "a chord": lambda: chord([add.s(1, 1), add.s(2, 2)], total.s()),
}


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _freeze(sig: Any) -> Any:
    frozen = sig.freeze()
    return [frozen.id == sig.id, type(frozen).__name__, isinstance(sig.id, str)]


def _set_immutable(sig: Any) -> Any:
    sig.set_immutable(True)
    return sig["immutable"], sig.immutable


def _linked(sig: Any) -> Any:
    sig.link(add.s(5))
    sig.link_error(note.s())
    return len(sig.flatten_links())


OF_EACH: dict[str, Callable[[Any], Any]] = {
    "is a dict": lambda s: [isinstance(s, dict), isinstance(s, Signature), bool(s)],
    "keys": lambda s: sorted(dict(s)),
    "task": lambda s: [s["task"], s.task, s.name, s["subtask_type"], s["immutable"]],
    "get": lambda s: [s.get("task"), s.get("nope", 5), "task" in s],
    "from_dict": lambda s: kind(Signature.from_dict(_json(s), app=app)),
    "runs from JSON": lambda s: signature(_json(s)).apply().get(),
    "equals its dict": lambda s: s == dict(s),
    "pickle": lambda s: pickle.loads(pickle.dumps(s)) == s,
    "copies": lambda s: [copy.copy(s) == s, copy.deepcopy(s) == s, s.clone() == s],
    "no id": lambda s: s.id,
    "freeze": _freeze,
    "freeze with an id": lambda s: s.freeze("my-id").id == "my-id",
    "set_immutable": _set_immutable,
    "links": _linked,
    "clone with options": lambda s: s.clone(countdown=5)["options"],
    "set": lambda s: s.set(priority=3, queue="z").options,
    "unpacked": lambda s: {**s}["task"],
    "app": lambda s: s.app is app,
    "apply": lambda s: s.apply().get(),
    "~": lambda s: plain(~s.set(queue="celery", countdown=0)),
    "repr": repr,
}
OF_ONE, INSIDE = ("set", "clone with options"), ("a group", "a chord")
for _kind, _make in KINDS.items():
    for _what, _of in OF_EACH.items():
        # The text of a workflow is for people; options are told once of those with tasks inside.
        if (_what == "repr" and (_kind in INSIDE or _kind == "a chain")) or (
            _what in OF_ONE and _kind in INSIDE
        ):
            continue
        row(f"signature: {_kind}: {_what}", lambda make=_make, of=_of: of(make()))

LIMITS = {"time_limit": 9, "soft_time_limit": 5}


def _limits(*args: Any) -> Any:
    return field.si("timelimit")


def _put(node: Any) -> Any:
    node["options"].update(LIMITS)
    return node


for _what, _limited in {
    "set": lambda node: node.set(**LIMITS),
    "put among them": _put,
    "cloned with": lambda node: node.clone(**LIMITS),
    "in JSON": lambda node: signature(_json(node.set(**LIMITS))),
}.items():
    row(f"options {_what}: a chain", lambda f=_limited: get(f(_limits() | _limits())().parent))
    row(f"options {_what}: its end", lambda f=_limited: get(f(_limits() | _limits())()))
    row(f"options {_what}: a group", lambda f=_limited: get(f(group([_limits(), _limits()]))()))
    row(
        f"options {_what}: a chord",
        lambda f=_limited: get(f(chord([_limits(), _limits()], show.s()))()),
    )
    row(
        f"options {_what}: a chord's body",
        lambda f=_limited: get(f(chord([S, S], _limits()))()),
    )
row("options set: members of a chain's last", lambda: get((S | group(_limits()).set(**LIMITS))()))
row(
    "options set: a chain in a group",
    lambda: group([(_limits() | S).set(**LIMITS)])().results[0].parent.get(timeout=PATIENCE),
)


@row("signature: an immutable chain takes no value")
def _() -> Any:
    steps = add.s(1, 2) | add.s(3)
    steps.set_immutable(True)
    return [get(steps.delay(9)), steps.tasks[0].immutable, steps["immutable"]]


row("signature: args", lambda: [add.s(1, 2).args, add.s(1, y=2).kwargs, add.s(1)["options"]])


@row("signature: its arguments set")
def _() -> Any:
    sig = add.s(1, 2)
    sig["args"] = (5, 6)
    sig.kwargs["z"] = 1
    return [sig.args, sig["kwargs"], sig.clone(args=(0,)).args]


@row("signature: its options updated")
def _() -> Any:
    sig = add.s(1, 2)
    sig["options"].update(queue="w")
    sig.update(immutable=True)
    return [sig.options, sig.immutable]


@row("signature: a key of one's own")
def _() -> Any:
    sig = add.s(1, 2)
    sig["mine"] = 1
    return [sig["mine"], _json(sig)["mine"], sig.pop("mine"), "mine" in sig]


row("signature: by name, run", lambda: get(signature("rows.add", args=(1, 2)).delay()))
row("signature: of itself", lambda: (lambda s: signature(s) is s)(add.s(1, 2)))
row("signature: of a small dict", lambda: signature({"task": "rows.add", "args": [1, 2]}).args)
row("signature: made of a task", lambda: plain(dict(Signature(add, (1, 2)))))
row("signature: options by keyword", lambda: dict(Signature("x", (1,), countdown=4))["options"])
row("maybe_signature: of None", lambda: C.maybe_signature(None))
row("maybe_signature: of a dict", lambda: C.maybe_signature(dict(add.s(1, 2))) == add.s(1, 2))
row("signature: == of the same", lambda: [add.s(1) == add.s(1), add.s(1) != add.s(2)])
row("signature: hash", lambda: raised(lambda: hash(add.s(1))))
row("signature: |", lambda: (lambda s: kind(s | add.s(3)))(add.s(1, 2)))
row("signature: reprcall", lambda: add.s(1, y=2).reprcall())
row("signature: called runs here", lambda: add.s(1, 2)())
row("signature: partial before", lambda: get(show.s(2, k=1).delay(1, j=0)))
row("signature: si takes none", lambda: get(show.si(2).delay(1)))
row("signature: as an argument", lambda: get(show.delay(add.s(1, 2)))[0][0]["task"])
row("signature: a chain as an argument", lambda: get(show.delay(add.s(1, 2) | T))[0][0]["task"])
row("signature: stamp", lambda: (lambda s: [s.stamp(a="b"), s.options["a"]][1])(add.s(1, 2)))
row(
    "signature: stamped_headers",
    lambda: (lambda s: [s.stamp(a="b"), s.options["stamped_headers"]][1])(add.s(1, 2)),
)
row("signature: subtask is its name", lambda: type(add.subtask((1, 2))).__name__)
row("signature: task.signature", lambda: add.signature((1, 2), countdown=1).options)
row("signature: frozen id is sent", lambda: (lambda s: s.freeze().id == s.delay().id)(add.s(1, 2)))
row("signature: types kept in a chord", lambda: type(chord([S], T)["kwargs"]["body"]).__name__)
row("signature: a chain's tasks", lambda: [t["task"] for t in (add.s(1, 2) | T)["kwargs"]["tasks"]])


@app.task(name="rows.gives_a_signature")
def gives_a_signature() -> Any:
    return add.s(2, 2)


row("signature: as a value", lambda: get(gives_a_signature.delay())["task"])

# Results.


def done() -> Any:
    result = add.delay(1, 2)
    get(result)
    return result


def failed() -> Any:
    result = fail.delay()
    get(result, propagate=False)
    return result


def pair() -> Any:
    result = group(add.s(1, 1), add.s(2, 2))()
    get(result)
    return result


def _of_result(name: str, program: Callable[[Any], Any], make: Any = done) -> None:
    row(f"result: {name}", lambda: program(make()))


_of_result("text is its id", lambda r: [str(r) == r.id, f"{r}" == r.id, repr(r).startswith("<")])
_of_result("== of its id", lambda r: [r == r.id, r != r.id, r == AsyncResult(r.id), r == "x"])
_of_result("hash of its id", lambda r: {r.id: 1}.get(r))
_of_result("task_id", lambda r: r.task_id == r.id)
_of_result("wait", lambda r: r.wait(timeout=3))
_of_result("state", lambda r: [r.state, r.status, r.ready(), r.successful(), r.failed()])
_of_result("result", lambda r: [r.result, r.info, r.traceback])
_of_result("fields not extended", lambda r: [r.name, r.args, r.kwargs, r.worker, r.queue])
_of_result("ignored", lambda r: r.ignored)
_of_result("date_done", lambda r: type(r.date_done).__name__)
_of_result("children", lambda r: r.children)
_of_result("parent", lambda r: r.parent)
_of_result("get_leaf", lambda r: r.get_leaf())
_of_result("as_list", lambda r: r.as_list() == [r.id])
_of_result("as_tuple", lambda r: r.as_tuple() == ((r.id, None), None))
_of_result("maybe_throw", lambda r: r.maybe_throw())
_of_result("pickle", lambda r: get(pickle.loads(pickle.dumps(r))))
_of_result("copy", lambda r: copy.copy(r) == r)
_of_result("revoke and forget", lambda r: [r.revoke(), r.forget(), r.state])
_of_result("of a failure: state", lambda r: [r.state, plain(r.result), r.failed()], failed)
_of_result("of a failure: get", lambda r: raised(lambda: get(r)), failed)
_of_result("of a failure: get, propagate=False", lambda r: plain(get(r, propagate=False)), failed)
_of_result("of a failure: traceback", lambda r: "KeyError" in r.traceback, failed)
_of_result("of a failure: maybe_throw", lambda r: raised(r.maybe_throw), failed)
_of_result("of a failure: maybe_throw, not", lambda r: plain(r.maybe_throw(False)), failed)
_of_result("of a group: types", lambda g: [isinstance(g, ResultSet), len(g), bool(g)], pair)
_of_result("of a group: text", lambda g: [str(g) == g.id, g == GroupResult(g.id, g.results)], pair)
_of_result(
    "of a group: states", lambda g: [g.successful(), g.failed(), g.ready(), g.waiting()], pair
)
_of_result(
    "of a group: join", lambda g: [g.join(timeout=3), sorted(g.join_native(timeout=3))], pair
)
_of_result("of a group: index", lambda g: [g[1].get(), [r.get() for r in g]], pair)
_of_result("of a group: pickle", lambda g: get(pickle.loads(pickle.dumps(g))), pair)
_of_result("of a group: restored", lambda g: [g.save(), get(GroupResult.restore(g.id))][1], pair)
_of_result(
    "of a group: deleted", lambda g: [g.save(), g.delete(), GroupResult.restore(g.id)][1:], pair
)
_of_result("of a group: app.GroupResult", lambda g: get(app.GroupResult(g.id, g.results)), pair)
_of_result("of a group: maybe_throw", lambda g: g.maybe_throw(), pair)
_of_result("from a tuple", lambda r: get(results.result_from_tuple(r.as_tuple())))
_of_result("from a group's tuple", lambda g: get(results.result_from_tuple(g.as_tuple())), pair)
_of_result("from a tuple that is a result", lambda r: results.result_from_tuple(r) is r)
_of_result(
    "of a chain from JSON",
    lambda r: get(results.result_from_tuple(_json(r.as_tuple())).parent),
    lambda: (lambda r: [get(r), r][1])(chain(add.s(1, 1), add.s(1))()),
)
_of_result(
    "of a rejected call",
    lambda r: [type(get(r, propagate=False)).__name__, r.state, r.failed(), r.ready()],
    lambda: rejecting.delay(),
)
row("result: as_list of a chain", lambda: len(chain(add.s(1, 1), add.s(1), add.s(1))().as_list()))


@row("result: callback")
def _() -> Any:
    seen: list[Any] = []
    result = add.delay(4, 4)
    got = get(result, callback=lambda id, value: seen.append([id == result.id, value]))
    return [got, seen]


@row("result: callback of a group")
def _() -> Any:
    seen: list[Any] = []
    got = pair().join(timeout=3, callback=lambda id, value: seen.append(value))
    return [got, sorted(seen)]


@row("result: then")
def _() -> Any:
    seen: list[Any] = []
    result = add.delay(3, 3)
    result.then(lambda one: seen.append(one.get()))
    get(result)
    return seen


@row("result: ResultSet changed")
def _() -> Any:
    first, second = done(), done()
    several = ResultSet([])
    several.update([first, second])
    several.add(first)
    lengths = [len(several)]
    several.discard(second)
    several.discard(second)
    lengths.append(len(several))
    several.clear()
    return [*lengths, len(several), raised(lambda: several.remove(first))]


@app.task(name="rows.waits")
def waits() -> Any:
    return raised(lambda: add.delay(1, 1).get(timeout=3))


@app.task(name="rows.waits_allowed")
def waits_allowed() -> Any:
    with results.allow_join_result():
        return add.delay(1, 1).get(timeout=3)


@app.task(name="rows.waits_unsynced")
def waits_unsynced() -> Any:
    return add.delay(1, 1).get(timeout=3, disable_sync_subtasks=False)


@app.task(name="rows.gives_a_result")
def gives_a_result() -> Any:
    return add.delay(2, 2)


row("result: get in a task", lambda: get(waits.delay()))
row("result: get in a task, allowed", lambda: get(waits_allowed.delay()))
row("result: get in a task, by its option", lambda: get(waits_unsynced.delay()))
row("result: as a value", lambda: get(results.result_from_tuple(get(gives_a_result.delay()))))
row(
    "result: children of a task that sends",
    lambda: (lambda r: [get(r), [get(c) for c in r.children]][1])(gives_a_result.delay()),
)
row("result: ignored is None at once", lambda: get(silent.delay()))
row("result: ignored at the call", lambda: get(add.apply_async((1, 1), ignore_result=True)))
row("result: .ignored", lambda: [silent.delay().ignored, add.delay(1, 1).ignored])
row("result: ignored in a chain", lambda: get(chain(silent.si(), add.si(1, 1))()))
row("result: ignored in a group", lambda: get(group(silent.si(), add.si(1, 1))()))
row("result: of an unknown task", lambda: raised(lambda: get(app.send_task("rows.unknown"))))
row("result: of an unknown id", lambda: [AsyncResult("z").state, AsyncResult("z").result])
row("result: times out", lambda: raised(lambda: AsyncResult("z").get(timeout=0.05)))
row(
    "result: TimeoutError's classes",
    lambda: "TimeoutError" in [k.__name__ for k in exceptions.TimeoutError.__mro__],
)
row("result: task.AsyncResult", lambda: add.AsyncResult("z").id)
row("result: given id", lambda: add.apply_async((1, 2), task_id="given").id)
row("result: None for an id", lambda: raised(lambda: AsyncResult(None)))
row("result: forgotten", lambda: (lambda r: [r.forget(), r.state][1])(done()))


@row("result: an id used again runs again")
def _() -> Any:
    fresh()
    get(add.apply_async((1, 2), task_id="again"))
    add.apply_async((3, 4), task_id="again")
    return settled(2)


# Tasks and their attributes.
ATTRIBUTES = (
    "name max_retries default_retry_delay rate_limit ignore_result trail send_events "
    "store_errors_even_if_ignored serializer time_limit soft_time_limit acks_late "
    "acks_on_failure_or_timeout reject_on_worker_lost track_started expires priority typing "
    "throws resultrepr_maxsize abstract"
)
for _name in ATTRIBUTES.split():
    row(f"task: attribute {_name}", lambda name=_name: plain(getattr(add, name)))


@row("task: attributes of the decorator")
def _() -> Any:
    @made().task(name="x", max_retries=7, acks_late=True, time_limit=9, rate_limit="5/m", db="mine")
    def task() -> None: ...

    return [task.max_retries, task.acks_late, task.time_limit, task.rate_limit, task.db]


@row("task: attributes set")
def _() -> Any:
    @made().task(name="x")
    def task() -> None: ...

    task.time_limit, task.max_retries, task.ignore_result, task.own = 1, 7, True, "own"
    return [task.time_limit, task.max_retries, task.ignore_result, task.own]


@row("task: max_retries set reaches the run")
def _() -> Any:
    with patch.object(flaky, "max_retries", 0):
        return [flaky.apply((5,)).state, flaky.max_retries]


@row("task: retry patched")
def _() -> Any:
    with patch.object(flaky, "retry", side_effect=ZeroDivisionError):
        return raised(lambda: flaky(1))


@row("task: apply_async patched")
def _() -> Any:
    with patch.object(add, "apply_async", return_value="patched"):
        return add.delay(1, 2)


class Store(app.Task):
    name = "rows.store"

    def __init__(self, place: str = "default") -> None:
        self.place = place

    def run(self, x: int) -> Any:
        return [self.place, x]


class Child(Store):
    name = "rows.child"


registered = app.register_task(Store("b1"))
inherited = app.register_task(Child("b2"))
row("task: an instance keeps its state", lambda: get(registered.delay(1)))
row("task: an instance called", lambda: Store("here")(2))
row("task: an inherited run", lambda: get(inherited.delay(1)))


class Base(app.Task):
    abstract = True
    own = 3

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        RUNS.append(["before", list(args)])

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        RUNS.append(["success", retval])

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        RUNS.append(["failure", type(exc).__name__, type(einfo).__name__])

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        RUNS.append(["retry", type(exc).__name__])

    def after_return(self, status: str, *args: Any) -> None:
        RUNS.append(["after", status])


@app.task(name="rows.hooked", base=Base, bind=True, max_retries=1, default_retry_delay=0)
def hooked(self: Any, how: str) -> Any:
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=ValueError("x"))
    if how == "fail":
        raise LookupError(how)
    return self.own


for _how in ("succeed", "fail", "retry"):

    @row(f"task: hooks, {_how}")
    def _(how: str = _how) -> Any:
        fresh()
        raised(lambda: get(hooked.delay(how)))
        settled(5 if how == "retry" else 3)
        return RUNS

    row(
        f"task: hooks of apply, {_how}",
        lambda how=_how: [fresh(), hooked.apply((how,)).state, RUNS][1:],
    )

row("task: called", lambda: add(1, 2))
row("task: run", lambda: add.run(1, 2))
row("task: type is of app.Task", lambda: [isinstance(add, app.Task), isinstance(add, C.Task)])
row("task: __name__", lambda: add.__name__)
row("task: __wrapped__", lambda: add.__wrapped__(1, 2))
row("task: in app.tasks", lambda: ["rows.add" in app.tasks, app.tasks["rows.add"].name])
row("task: an unknown one", lambda: raised(lambda: app.tasks["rows.nope"]))
row(
    "task: an unknown one's classes",
    lambda: raised(lambda: app.tasks["rows.nope"]) and builtins_of(exceptions.NotRegistered),
)
row("task: arguments are checked", lambda: raised(lambda: add.delay(1)))
row(
    "task: arguments are checked at apply_async", lambda: raised(lambda: add.apply_async((1, 2, 3)))
)
row("task: pickle", lambda: pickle.loads(pickle.dumps(add)) is not None)
row("task: s of a bound one", lambda: field.s("id").args)
row("task: backend and app", lambda: [add.app is app, add.request.id])


@row("task: typing=False")
def _() -> Any:
    return raised(lambda: get(untyped.delay()))


@app.task(name="rows.untyped", typing=False)
def untyped(x: int) -> int:
    return x


@row("task: own name is made of its module")
def _() -> Any:
    @made().task
    def named() -> None: ...

    return named.name == f"{__name__}.named"


@C.shared_task(name="rows.shared", bind=True)
def shared(self: Any, x: int) -> Any:
    return [self.name, x]


row("task: shared_task", lambda: [shared(1), shared.name, shared.__name__, get(shared.delay(2))])

# Requests.
FIELDS = (
    "retries is_eager called_directly delivery_info correlation_id reply_to headers utc eta "
    "expires timelimit root_id parent_id origin callbacks errbacks chain chord group group_index "
    "stamps stamped_headers ignore_result args kwargs argsrepr kwargsrepr task lang hostname "
    "replaced_task_nesting properties"
)
VARIES = {"delivery_info", "correlation_id", "reply_to", "root_id", "origin", "headers"}
VARIES |= {"hostname", "properties"}


@app.task(name="rows.kind_of", bind=True)
def kind_of(self: Any, name: str) -> Any:
    return type(getattr(self.request, name)).__name__


for _name in FIELDS.split():
    _task = kind_of if _name in VARIES else field
    row(f"request: {_name}", lambda task=_task, name=_name: get(task.delay(name)))
row("request: id is the result's", lambda: (lambda r: get(r) == r.id)(field.delay("id")))
row("request: root_id of the first", lambda: (lambda r: get(r) == r.id)(field.delay("root_id")))
row(
    "request: a field with its options",
    lambda: get(field.apply_async(("timelimit",), time_limit=9, soft_time_limit=5)),
)
row("request: priority and queue", lambda: sorted(get(field.delay("delivery_info")))[:5])
row(
    "request: headers of the call",
    lambda: get(field.apply_async(("headers",), headers={"a": 1})).get("a"),
)
row("request: kwargsrepr given", lambda: get(field.apply_async(("kwargsrepr",), kwargsrepr="K")))
row(
    "request: ignore_result given",
    lambda: get(field.apply_async(("ignore_result",), ignore_result=False)),
)
row("request: kwargsrepr beside headers", lambda: _with_texts("headers", headers={"a": 1}))
row("request: argsrepr beside a link", lambda: _with_texts("argsrepr", link=S))
row(
    "request: the next step has an argsrepr of its own",
    lambda: get(chain(note.si().set(argsrepr="A"), field.si("argsrepr"))()) == "A",
)


def _with_texts(name: str, **options: Any) -> Any:
    return get(field.apply_async((name,), argsrepr="A", kwargsrepr="K", **options))


@app.task(name="rows.notes_itself", bind=True)
def notes_itself(self: Any) -> Any:
    self.request.mine = self.request.get("mine", 0) + 1
    return [self.request.mine, getattr(self.request, "theirs", None)]


row("request: a note of the program's own", lambda: [get(notes_itself.delay()) for _ in range(3)])
row("request: direct", lambda: [plain(field(n)) for n in ("delivery_info", "headers", "utc")])
row("request: delivery_info, eager", lambda: field.apply(("delivery_info",)).get())
row("request: called directly", lambda: [field("called_directly"), field("id"), field("retries")])
row(
    "request: eager",
    lambda: [field.apply((n,)).get() for n in ("is_eager", "retries", "called_directly")],
)
row("request: of an unknown field", lambda: raised(lambda: field("nope")))


@app.task(name="rows.asks", bind=True)
def asks(self: Any) -> Any:
    request = self.request
    return [request.get("nope", 5), request.get("retries"), C.current_task.name, C.current_app.main]


row("request: get, current_task, current_app", lambda: get(asks.delay()))
row("request: current_task outside", lambda: bool(C.current_task))

# Retries and errors.


def _task(name: str, function: Callable[..., Any], **options: Any) -> Any:
    return app.task(name=f"rows.{name}", **options)(function)


def _key_error(*args: Any) -> None:
    RUNS.append(1)
    raise KeyError("k")


def _object() -> Any:
    return object()


def _type_of(value: Any) -> Any:
    return [type(value).__name__]


def _raises(error: Callable[[], BaseException]) -> Callable[..., None]:
    def run(*args: Any) -> None:
        raise error()

    return run


auto = _task("auto", _key_error, autoretry_for=(KeyError,), max_retries=2, default_retry_delay=0)
auto_not = _task("auto_not", _key_error, autoretry_for=(Exception,), dont_autoretry_for=(KeyError,))
auto_kw = _task(
    "auto_kw",
    _key_error,
    autoretry_for=(KeyError,),
    retry_kwargs={"max_retries": 1, "countdown": 0},
)
row("retry: value after some", lambda: get(flaky.delay(2)))
row("retry: too many is the error", lambda: raised(lambda: get(flaky.delay(5))))
row("retry: of apply", lambda: [flaky.apply((2,)).get(), flaky.apply((5,)).state])
row("retry: called directly", lambda: raised(lambda: flaky(1)))
for _name, _auto in (
    ("autoretry_for", auto),
    ("dont_autoretry_for", auto_not),
    ("retry_kwargs", auto_kw),
):
    row(f"retry: {_name}", lambda t=_auto: [fresh(), raised(lambda: get(t.delay())), len(RUNS)][1:])
    row(f"retry: {_name} of apply", lambda t=_auto: [fresh(), t.apply().state, len(RUNS)][1:])


@app.task(name="rows.later", bind=True)
def later(self: Any) -> None:
    raise self.retry(countdown=30, exc=KeyError("x"))


@app.task(name="rows.no_exc", bind=True, max_retries=0)
def no_exc(self: Any) -> None:
    self.retry()


@app.task(name="rows.not_thrown", bind=True, max_retries=1, default_retry_delay=0)
def not_thrown(self: Any) -> Any:
    return type(self.retry(throw=False)).__name__ if not self.request.retries else "second"


@app.task(name="rows.other_args", bind=True, max_retries=1, default_retry_delay=0)
def other_args(self: Any, x: int) -> Any:
    return x if self.request.retries else self.retry(args=(x + 1,))


@row("retry: the state between")
def _() -> Any:
    result = later.delay()
    until = time.monotonic() + PATIENCE
    while result.state == "PENDING" and time.monotonic() < until:
        time.sleep(0.02)
    return [result.state, plain(result.result), result.ready()]


row("retry: too many without an error", lambda: raised(lambda: get(no_exc.delay())))
row("retry: other arguments", lambda: get(other_args.delay(1)))
row(
    "retry: attributes",
    lambda: (lambda e: [e.message, plain(e.exc), e.when, e.is_eager])(
        exceptions.Retry("m", KeyError("k"), 5)
    ),
)
row(
    "retry: text",
    lambda: [
        str(exceptions.Retry("m", KeyError("k"), 5)),
        exceptions.Retry("m", None, 5).humanize(),
    ],
)
row("retry: of Retry itself", lambda: builtins_of(exceptions.Retry))
row(
    "retry: MaxRetriesExceededError's attributes",
    lambda: (lambda e: [e.task_args, e.task_kwargs])(
        exceptions.MaxRetriesExceededError("m", task_args=(1,), task_kwargs={"a": 1})
    ),
)

ignoring = _task("ignoring", _raises(exceptions.Ignore))
rejecting = _task("rejecting", _raises(lambda: exceptions.Reject("why", False)))
row("error: Ignore of apply", lambda: ignoring.apply().state)
row("error: Reject of apply", lambda: rejecting.apply().state)
row(
    "error: Reject's attributes",
    lambda: (lambda e: [e.reason, e.requeue])(exceptions.Reject("r", True)),
)
row(
    "error: a chain stops at Ignore, eager",
    lambda: chain(ignoring.si(), add.si(1, 1)).apply().state,
)


def _ends(result: Any) -> Any:
    before = result.parent
    return [result.state, result.get(), result.failed(), before and before.state]


for _name, _ending in (("Ignore", ignoring), ("Reject", rejecting)):
    row(
        f"error: a chain with {_name} in it, eager",
        lambda t=_ending: [
            _ends(chain(S, t.si(), S).apply()),
            _ends(chain(S, t.si()).apply()),
            _ends(chain(t.si(), S, S).apply()),
        ],
    )
    row(
        f"error: a chain with {_name} in a group, eager",
        lambda t=_ending: [each.state for each in group([chain(t.si(), S)]).apply()],
    )


class Own(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


types, odd = _task("types", _type_of), _task("odd", _object)
own = _task("own", _raises(lambda: Own(5, "five")))
row("error: of one's own", lambda: plain(get(own.delay(), propagate=False)))
row("error: not for JSON", lambda: plain(get(odd.delay(), propagate=False)) and True)
row(
    "error: SystemExit",
    lambda: raised(lambda: _task("exits", _raises(lambda: SystemExit(1))).apply()),
)

NAMES = (
    "Ignore Reject Retry MaxRetriesExceededError TimeoutError ChordError SoftTimeLimitExceeded "
    "TimeLimitExceeded NotRegistered ImproperlyConfigured WorkerLostError TaskRevokedError "
    "AlreadyRegistered IncompleteStream InvalidTaskError QueueNotFound OperationalError "
    "CeleryError TaskError TaskPredicate BackendError SecurityError WorkerShutdown "
    "WorkerTerminate Terminated CPendingDeprecationWarning CDeprecationWarning AlwaysEagerIgnored"
)
for _name in NAMES.split():
    row(f"exception: {_name}", lambda name=_name: builtins_of(getattr(exceptions, name)))
for _name in "Ignore Reject Retry MaxRetriesExceededError TimeoutError ChordError".split():
    row(
        f"exception: pickle of {_name}",
        lambda name=_name: plain(pickle.loads(pickle.dumps(getattr(exceptions, name)("m")))),
    )

# Eager.
row(
    "eager: result",
    lambda: (lambda e: [e.get(), e.state, e.result, e.ready(), e.successful(), e.name])(
        add.apply((1, 2))
    ),
)
row(
    "eager: its types",
    lambda: (lambda e: [isinstance(e, EagerResult), isinstance(e, AsyncResult), str(e) == e.id])(
        add.apply((1, 2))
    ),
)
row(
    "eager: a failure",
    lambda: (lambda e: [e.state, plain(e.result), raised(e.get), plain(e.get(propagate=False))])(
        fail.apply()
    ),
)
row("eager: throw", lambda: raised(lambda: fail.apply(throw=True)))
row("eager: made", lambda: (lambda e: [e.get(), e.state])(EagerResult("i", 5, "SUCCESS")))
row("eager: pickle", lambda: pickle.loads(pickle.dumps(add.apply((1, 2)))).get())


@row("eager: link")
def _() -> Any:
    fresh()
    return [add.apply((1, 2), link=note.s()).get(), settled(2), RUNS]


row(
    "eager: group",
    lambda: (lambda g: [g.get(), g.successful(), len(g)])(group(add.s(1, 1), S).apply()),
)
row("eager: group not propagated", lambda: plain(group(S, fail.si()).apply().get(propagate=False)))
row("eager: options", lambda: field.apply(("retries",), retries=2).get())


def always(name: str, program: Callable[[], Any], **more: Any) -> None:
    def run() -> Any:
        with settings(task_always_eager=True, **more):
            return program()

    row(f"always eager: {name}", run)


always("delay", lambda: add.delay(1, 2).get())
always("its type", lambda: type(add.delay(1, 2)).__name__)
always("a failure", lambda: fail.delay().state)
always("a failure propagates", lambda: raised(fail.delay), task_eager_propagates=True)
always("apply heeds it too", lambda: raised(fail.apply), task_eager_propagates=True)
always("chain", lambda: chain(add.s(1, 1), add.s(2))().get())
always("group", lambda: group([add.s(1, 1)] * 3)().get())
always("chord", lambda: chord([add.s(1, 1)] * 3, T)().get())
always("chord of chains", lambda: chord([chain(add.s(1, 1), add.s(1))] * 3, T)().get())
always("retry", lambda: flaky.delay(2).get())
always("countdown runs at once", lambda: add.apply_async((1, 2), countdown=60).get())
always("send_task is sent", lambda: get(app.send_task("rows.add", (1, 2))))
always("replace", lambda: replaced.delay(1).get())
always("is_eager", lambda: field.delay("is_eager").get())
always("arguments are checked", lambda: raised(lambda: add.delay(1)))

always("a chain with Ignore", lambda: _ends(chain(S, ignoring.si(), S).delay()))
always("SystemExit", lambda: raised(_task("leaves", _raises(lambda: SystemExit(1))).delay))

# The app and its settings.
SETTINGS = (
    "task_default_queue task_serializer result_serializer accept_content timezone enable_utc "
    "task_always_eager task_acks_late task_track_started task_ignore_result task_time_limit "
    "task_soft_time_limit task_default_rate_limit result_expires worker_prefetch_multiplier "
    "worker_max_tasks_per_child task_create_missing_queues task_default_priority beat_schedule "
    "task_routes task_annotations imports include worker_concurrency task_store_errors_even_if_ignored "
    "result_extended task_publish_retry worker_send_task_events task_send_sent_event "
    "task_reject_on_worker_lost task_eager_propagates worker_pool beat_max_loop_interval"
)
for _name in SETTINGS.split():
    row(f"setting: {_name}", lambda name=_name: plain(getattr(made().conf, name)))


class OldSettings:
    CELERY_TASK_ALWAYS_EAGER = True
    CELERY_TIMEZONE = "Europe/Berlin"
    OTHER = 1

    @property
    def SECRET_KEY(self) -> str:  # noqa: N802
        raise RuntimeError("not set")


@row("settings: an object and its namespace")
def _() -> Any:
    one = made()
    one.config_from_object(OldSettings(), namespace="CELERY")
    return [one.conf.task_always_eager, one.conf.timezone, str(one.timezone)]


@row("settings: old capital names")
def _() -> Any:
    one = made()
    one.config_from_object({"CELERY_ALWAYS_EAGER": True, "CELERYD_CONCURRENCY": 3})
    return [one.conf.task_always_eager, one.conf.worker_concurrency]


@row("settings: changed")
def _() -> Any:
    one = made()
    one.conf.task_time_limit = 5
    one.conf["task_soft_time_limit"] = 4
    one.conf.update(task_default_queue="q")
    return [
        one.conf["task_time_limit"],
        one.conf.task_soft_time_limit,
        one.conf.get("task_default_queue"),
    ]


@row("settings: add_defaults")
def _() -> Any:
    one = made()
    one.add_defaults({"task_time_limit": 7})
    return one.conf.task_time_limit


row("settings: an unknown one", lambda: raised(lambda: made().conf.no_such_setting))
row("settings: an unknown one's default", lambda: made().conf.get("no_such_setting", 5))
for _name, _value in {
    "result_expires": 60,
    "result_expires as timedelta": timedelta(hours=2),
    "timezone": "Asia/Tokyo",
    "task_publish_retry": False,
    "worker_pool": "threads",
    "worker_send_task_events": True,
    "task_time_limit": 30,
}.items():
    row(
        f"settings: {_name} given",
        lambda name=_name, given=_value: _read_back(name.split()[0], given),
    )


def _read_back(name: str, given: Any) -> bool:
    return made(**{name: given}).conf[name] == given


row(
    "settings: retries of a policy",
    lambda: made().conf.task_publish_retry_policy["max_retries"],
)
row("app: main", lambda: made("x").main)
row("app: set_as_current", lambda: [made() is not None, C.current_app.main])
row("app: now", lambda: [type(app.now()).__name__, app.now().tzinfo is not None])
row("app: timezone", lambda: [str(app.timezone), app.uses_utc_timezone()])
row("app: gen_task_name", lambda: app.gen_task_name("f", "m"))
row(
    "app: either",
    lambda: [app.either("task_default_queue", None, "x"), app.either("task_default_queue", None)],
)
row("app: oid is kept", lambda: [app.oid == app.oid, isinstance(app.oid, str)])
row("app: current_task", lambda: app.current_task)
row("app: bugreport", lambda: "platform" in app.bugreport())
row("app: signature", lambda: app.signature("rows.add", args=(1, 2))["task"])
row("app: AsyncResult", lambda: [app.AsyncResult("z").id, app.AsyncResult("z").app is app])
row("app: send_task", lambda: get(app.send_task("rows.add", args=(1,), kwargs={"y": 2})))
row("app: finalize and close", lambda: [made().finalize(), made().close()])
row("app: a context manager", lambda: raised(lambda: made().__enter__().__exit__(None, None, None)))
row("app: Task", lambda: [app.Task.app is app, issubclass(app.Task, C.Task)])
row("app: a class of its Task", lambda: [Base.app is app, Base().app is app])
row("app: a task of another name", lambda: raised(lambda: app.tasks["rows.nothing"]))
row("app: get of a task there is not", lambda: app.tasks.get("rows.nothing"))
row("app: a task made twice is one", lambda: app.task(name="rows.note")(_object) is note)
row(
    "app: names of its own tasks",
    lambda: sorted(n for n in made().tasks if n.startswith("celery."))[:4],
)


@row("app: on_after_configure")
def _() -> Any:
    one, seen = made(), []
    one.on_after_configure.connect(lambda sender, **_: seen.append(sender is one), weak=False)
    assert one.conf.task_default_queue
    one.finalize()
    return seen


# Calls.
row("call: countdown", lambda: get(add.apply_async((1, 2), countdown=0.05)))
row(
    "call: eta",
    lambda: get(add.apply_async((1, 2), eta=datetime.now(UTC) + timedelta(seconds=0.1))),
)
row("call: eta is seen", lambda: type(get(field.apply_async(("eta",), countdown=0.05))).__name__)
row(
    "call: expired",
    lambda: raised(lambda: get(add.apply_async((1, 2), countdown=0.3, expires=0.1))),
)
row("call: priority", lambda: get(add.apply_async((1, 2), priority=3)))
row("call: compression", lambda: get(add.apply_async((1, 2), compression="gzip")))
row("call: serializer", lambda: get(add.apply_async((1, 2), serializer="json")))
row(
    "call: an unknown serializer",
    lambda: raised(lambda: add.apply_async((1, 2), serializer="nope")),
)
row(
    "call: what JSON cannot hold",
    lambda: builtins_of(type(_caught(lambda: show.delay(object()))))[:1],
)
row("call: argsrepr", lambda: get(field.apply_async(("argsrepr",), argsrepr="A")))
row("call: tuple becomes a list", lambda: get(show.delay((1, 2))))
row("call: a set", lambda: plain(get(show.delay({1}))))
row("call: bytes", lambda: [type(v).__name__ for v in get(show.delay(b"x"))[0]])
row(
    "call: dates",
    lambda: [type(v).__name__ for v in get(types.delay(datetime(2026, 1, 1, tzinfo=UTC)))],
)
row("call: shadow", lambda: get(field.apply_async(("shadow",), shadow="other")))
row("call: None for arguments", lambda: get(show.apply_async()))
row("call: no wait for it", lambda: add.apply_async((1, 2), ignore_result=True).ignored)


def _caught(program: Callable[[], Any]) -> BaseException:
    try:
        program()
    except BaseException as error:
        return error
    raise AssertionError


# Routes.


def routed(routes: Any, **options: Any) -> Any:
    one = made()
    one.conf.task_routes = routes
    return one


for _name, _routes in {
    "a dict": {"a.*": {"queue": "one"}, "b": "two"},
    "a list": [{"a.x": {"queue": "one"}}, {"b": {"queue": "two"}}],
    "pairs": [("a.*", {"queue": "one"})],
}.items():
    row(
        f"routes: {_name} is read back",
        lambda routes=_routes: plain(routed(routes).conf.task_routes),
    )

# Schedules.
NOW = datetime(2026, 3, 4, 10, 30, tzinfo=UTC)


def times(schedule: Any) -> list[str]:
    """Give the next five times of a schedule, by what the beat of each asks."""
    if sys.argv[1] == "cloudq":
        runs = import_module("cloudq.schedules.next_run").runs
        return [str(time) for time in islice(runs(schedule, NOW, UTC, start=NOW), 5)]
    now, found = NOW, []
    for _ in range(5):
        schedule.nowfun = lambda now=now: now
        now = now + schedule.remaining_estimate(now)
        found.append(str(now))
    return found


EXPRESSIONS: dict[str, dict[str, Any]] = {
    "every minute": {},
    "an hour": {"minute": 0, "hour": "*/3"},
    "a day of the week": {"hour": 7, "minute": 30, "day_of_week": "mon-fri"},
    "names": {"minute": 0, "hour": 0, "day_of_week": "sun,wed"},
    "a month": {"minute": 0, "hour": 0, "day_of_month": "1-7,15", "month_of_year": "*/2"},
}
for _name, _fields in EXPRESSIONS.items():
    row(
        f"crontab: {_name}: fields",
        lambda f=_fields: (
            lambda c: plain([c.minute, c.hour, c.day_of_week, c.day_of_month, c.month_of_year])
        )(schedules.crontab(**f)),
    )
    row(
        f"crontab: {_name}: pickle",
        lambda f=_fields: (
            pickle.loads(pickle.dumps(schedules.crontab(**f))) == schedules.crontab(**f)
        ),
    )
    row(f"crontab: {_name}: times", lambda f=_fields: times(schedules.crontab(**f)))
row("crontab: text", lambda: str(schedules.crontab(minute=0)))
row(
    "crontab: its own questions of time",
    lambda: schedules.crontab(nowfun=lambda: NOW, app=app).remaining_estimate(NOW).total_seconds(),
)
for _fields in (
    {"minute": 60},
    {"hour": "25"},
    {"day_of_week": "nope"},
    {"minute": "*/0"},
    {"day_of_month": 0},
):
    row(
        f"crontab: refuses {_fields}",
        lambda f=_fields: (
            "ValueError" in builtins_of(type(_caught(lambda: schedules.crontab(**f))))
        ),
    )
row("schedule: its number", lambda: schedules.schedule(5).run_every.total_seconds())
row(
    "schedule: seconds",
    lambda: [schedules.schedule(5).seconds, schedules.schedule(timedelta(hours=1)).seconds],
)
row(
    "schedule: equal",
    lambda: [schedules.schedule(5) == schedules.schedule(5), schedules.schedule(5) == 6],
)
row("schedule: times", lambda: times(schedules.schedule(10)))
row(
    "schedule: its own questions of time",
    lambda: plain(schedules.schedule(10, nowfun=lambda: NOW, app=app).is_due(NOW)),
)
for _ago in (0, 3, 10, 30):
    row(
        f"schedule: is due after {_ago} s",
        lambda ago=_ago: plain(
            schedules.schedule(10, nowfun=lambda: NOW).is_due(NOW - timedelta(seconds=ago))
        ),
    )
for _name, _fields in EXPRESSIONS.items():
    row(
        f"crontab: {_name}: is due",
        lambda f=_fields: [
            plain(schedules.crontab(**f, nowfun=lambda: NOW, app=app).is_due(NOW - before))
            for before in (timedelta(0), timedelta(minutes=1), timedelta(hours=5))
        ],
    )
    row(f"crontab: {_name}: text", lambda f=_fields: repr(schedules.crontab(**f)))
for _seconds in (0.001, 1, 59.999, 3600, 90_000):
    row(f"schedule: text of {_seconds} s", lambda s=_seconds: str(schedules.schedule(s)))
row("schedule: == of a timedelta", lambda: schedules.schedule(5) == timedelta(seconds=5))
row("schedule: maybe_schedule", lambda: [repr(schedules.maybe_schedule(n)) for n in (5, None)])
row("schedule: a naive time", lambda: _of_naive(schedules.schedule(10, nowfun=lambda: NOW)))
row("crontab: a naive time", lambda: _of_naive(schedules.crontab(nowfun=lambda: NOW, app=app)))


def _of_naive(schedule: Any) -> Any:
    return schedule.remaining_estimate(NOW.replace(tzinfo=None)).total_seconds()


row("schedule: text", lambda: repr(schedules.schedule(5)))
row("schedule: human_seconds", lambda: schedules.schedule(90).human_seconds)


@row("schedule: add_periodic_task")
def _() -> Any:
    one = made()

    @one.task(name="t")
    def task(x: int) -> None: ...

    key = one.add_periodic_task(10, task.s(1), name="ten")
    entry = one.conf.beat_schedule["ten"]
    return [key, entry["task"], list(entry["args"]), plain(entry["kwargs"]), entry["schedule"]]


# Signals.
SIGNALS = (
    "before_task_publish after_task_publish task_prerun task_postrun task_retry task_success "
    "task_failure task_revoked task_received task_rejected task_unknown worker_init worker_ready "
    "worker_process_init worker_process_shutdown worker_shutting_down worker_shutdown"
)
for _name in SIGNALS.split():
    row(f"signal: {_name} connects", lambda name=_name: _connects(getattr(signals, name)))


def _connects(signal: Any) -> Any:
    def receiver(**more: Any) -> None: ...

    connected = signal.connect(receiver)
    return [connected is receiver, signal.disconnect(receiver) in (None, True)]


def seen_by(
    name: str, what: Callable[..., Any], start: Callable[[], Any], sender: Any = None
) -> Any:
    """Give what a receiver makes of a signal, of the calls that a program starts."""
    seen: list[Any] = []
    signal = getattr(signals, name)

    def receiver(sender: Any = None, **more: Any) -> None:
        seen.append(plain(what(sender, more)))

    signal.connect(receiver, weak=False, sender=sender)
    try:
        raised(lambda: get(start()))
        until = time.monotonic() + PATIENCE
        while not seen and time.monotonic() < until:
            time.sleep(0.02)
    finally:
        signal.disconnect(receiver, sender=sender)
    return seen[:1]


OF_SIGNALS: dict[str, tuple[Callable[..., Any], Callable[[], Any]]] = {
    "before_task_publish": (
        lambda s, m: [s, m["headers"]["task"], m["routing_key"], list(m["body"][0])],
        lambda: add.delay(1, 2),
    ),
    "after_task_publish": (
        lambda s, m: [s, m["headers"]["task"], m["routing_key"]],
        lambda: add.delay(1, 2),
    ),
    "task_prerun": (
        lambda s, m: [s.name, m["task"].name, m["args"], m["kwargs"], type(m["task_id"]).__name__],
        lambda: add.delay(1, 2),
    ),
    "task_postrun": (
        lambda s, m: [s.name, m["args"], m["retval"], m["state"]],
        lambda: add.delay(1, 2),
    ),
    "task_success": (lambda s, m: [s.name, m["result"]], lambda: add.delay(1, 2)),
    "task_failure": (
        lambda s, m: [
            s.name,
            m["exception"],
            m["args"],
            type(m["einfo"]).__name__,
            type(m["traceback"]).__name__,
        ],
        lambda: fail.delay(1),
    ),
    "task_retry": (
        lambda s, m: [
            s.name,
            m["request"].task,
            type(m["reason"]).__name__,
            type(m["einfo"]).__name__,
        ],
        lambda: flaky.delay(1),
    ),
    "task_received": (
        lambda s, m: [type(m["request"].id).__name__, m["request"].name],
        lambda: add.delay(1, 2),
    ),
    "task_unknown": (
        lambda s, m: [m["name"], type(m["id"]).__name__],
        lambda: app.send_task("rows.unknown"),
    ),
}
for _name, (_what, _start) in OF_SIGNALS.items():
    row(f"signal: {_name}", lambda n=_name, w=_what, s=_start: seen_by(n, w, s))
row(
    "signal: of one sender",
    lambda: seen_by(
        "task_success", lambda s, m: s.name, lambda: group(S, add.si(1, 2))(), sender=add
    ),
)
row(
    "signal: eager too",
    lambda: seen_by("task_success", lambda s, m: s.name, lambda: add.apply((1, 2))),
)

# States.
for _name in "PENDING RECEIVED STARTED SUCCESS FAILURE REVOKED RETRY REJECTED IGNORED".split():
    row(f"state: {_name}", lambda name=_name: getattr(states, name))
for _name in "READY_STATES UNREADY_STATES EXCEPTION_STATES PROPAGATE_STATES ALL_STATES".split():
    row(f"state: {_name}", lambda name=_name: sorted(getattr(states, name)))
row("state: precedence", lambda: states.precedence("SUCCESS") < states.precedence("PENDING"))
row("state: compared", lambda: states.state("PENDING") < states.state("SUCCESS"))


@app.task(name="rows.progress", bind=True)
def progress(self: Any) -> Any:
    self.update_state(state="PROGRESS", meta={"done": 5})
    seen = AsyncResult(self.request.id)
    return [seen.state, seen.info]


row("state: of one's own", lambda: get(progress.delay()))

# inspect and control.
INSPECT = "active scheduled reserved revoked registered ping active_queues conf stats clock report memdump objgraph query_task hello"
for _name in INSPECT.split():
    row(f"inspect: has {_name}", lambda name=_name: callable(getattr(app.control.inspect(), name)))
CONTROL = (
    "revoke terminate ping rate_limit time_limit add_consumer cancel_consumer enable_events "
    "disable_events pool_grow pool_shrink pool_restart autoscale shutdown heartbeat broadcast "
    "purge discard_all election revoke_by_stamped_headers inspect"
)
for _name in CONTROL.split():
    row(f"control: has {_name}", lambda name=_name: callable(getattr(app.control, name)))


def main() -> None:
    with import_module(WORKER[sys.argv[1]]).start_worker(
        app, pool="threads", concurrency=4, perform_ping_check=False
    ):
        came = {}
        for name in sys.argv[2:] or ROWS:
            program = ROWS[name]
            started = time.monotonic()
            try:
                came[name] = plain(program())
            except BaseException as error:
                came[name] = f"raises {' '.join(builtins_of(type(error))[:-2])}"
                if os.environ.get("ROWS_SAY"):
                    print(name, type(error), error, file=sys.stderr)
            changed = [each for each in (S, M, T) if each.options]
            assert not changed, f"{name} has changed {changed}, which other rows use"
            if os.environ.get("ROWS_SAY") and time.monotonic() - started > 2:
                print("slow", name, file=sys.stderr)
        print(json.dumps(came, indent=1), flush=True)
        # The threads of a worker in memory may wait for long after all is done.
        os._exit(0)


if __name__ == "__main__":
    main()
