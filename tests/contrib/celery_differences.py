"""The rows of celery_behaviours.py that come otherwise on cloudq, each with the reason.

The reasons are sentences for users of Celery: docs/how-to/move-from-celery.md has them as a table.
"""

from __future__ import annotations


def _each(kind: str, names: str, reason: str) -> dict[str, str]:
    return {f"{kind}: {name}": reason for name in names.split(", ")}


_NO_BROADCAST = (
    "Nothing is broadcast: workers are reached through the result store, and have no common clock. "
    "The `AttributeError` names what to use"
)
_EVENTS = "Events are switched for all workers by the setting `task_events`; the error says so"
_STAMPS = "There are no stamps: a call carries `headers`, which its task finds in its request"
_NO_SUCH = "Nothing here raises it. An import of the name says what to catch or to call instead"
_AFTER = (
    "A message is acknowledged after its task, and comes again if its worker dies. Celery does so "
    "if it is told to; what the program reads is what happens"
)

# Parts that the clouds' queues have not, and what Celery itself cannot do.
WITHOUT_COUNTERPART: dict[str, str] = {
    **_each("signature", "stamp, stamped_headers", _STAMPS),
    "control: has revoke_by_stamped_headers": _STAMPS,
    **_each("exception", "QueueNotFound, TaskPredicate, WorkerShutdown, WorkerTerminate", _NO_SUCH),
    **_each("inspect", "has clock, has hello", _NO_BROADCAST),
    **_each("control", "has heartbeat, has election", _NO_BROADCAST),
    **_each("control", "has enable_events, has disable_events", _EVENTS),
    **_each(
        "inspect",
        "has memdump, has objgraph",
        "`inspect().stats()` has the memory of each process; what it holds is for a profiler",
    ),
    "control: has pool_restart": (
        "Code is loaded once: `app.control.shutdown()`, and whatever runs the worker starts it anew"
    ),
    **_each(
        "request",
        "reply_to, origin",
        "Results go through a store, and no process waits on a queue of its own for a reply",
    ),
    "app: names of its own tasks": (
        "The worker runs chains, groups and chords by itself, and registers no tasks for them"
    ),
    "same: chain of a group thrice": (
        "Celery runs the members eight times where the program has six; cloudq runs six"
    ),
    "signature: a chain: pickle": (
        "What Celery reads back from a pickle is not equal to what was written; here it is"
    ),
    "signature: a group: freeze with an id": "Celery loses the id that was given; here it is kept",
    "result: ignored in a group": (
        "Celery's `get()` of a group never ends if a member's result is ignored; here the member "
        "counts as None"
    ),
    "exception: pickle of Retry": "Celery cannot read it back (`RecursionError`); cloudq can",
    "always eager: replace": "Celery raises `RuntimeError`; cloudq runs what was put in its place",
    "result: get in a task": (
        "Celery's pool of threads lets `get()` wait inside a task, its processes raise "
        "`RuntimeError`; cloudq always raises it"
    ),
}

DIFFERENT: dict[str, str] = {
    "options set: members of a chain's last": (
        "A group of one member at the end of a chain becomes that member. Celery loses the options "
        "that were set on the group; here the member has them"
    ),
    "result: fields not extended": (
        "A record always has the task's name, the worker and the queue. Celery keeps them with "
        "`result_extended` alone, as it does arguments, which cloudq never keeps in a result"
    ),
    "result: revoke and forget": (
        "`revoke()` returns whether it came before the end of the task, where Celery returns None"
    ),
    **_each("task", "attribute acks_late, attribute reject_on_worker_lost", _AFTER),
    **_each("setting", "task_acks_late, task_reject_on_worker_lost", _AFTER),
    "setting: worker_prefetch_multiplier": (
        "A worker takes what its free places can run, as with 1; Celery takes four times as much"
    ),
    "exception: TimeoutError": "It is Python's own `TimeoutError` too, so both can be caught",
    "exception: InvalidTaskError": "It is a `TypeError` too: the arguments do not fit",
    "app: a task made twice is one": (
        "Two functions under one name are a `ConfigurationError`. Celery keeps the one that it "
        "comes to first, with a warning"
    ),
    "call: an unknown serializer": "It is a `TypeError`, as every wrong option of a call is",
    "call: a set": (
        "Sets can be arguments and values, which Celery's JSON refuses (`EncodeError`)"
    ),
}
