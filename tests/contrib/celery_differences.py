"""The rows of celery_behaviours.py that come otherwise on cloudq, each with the reason."""

from __future__ import annotations


def _each(kind: str, names: str, reason: str) -> dict[str, str]:
    return {f"{kind}: {name}": reason for name in names.split(", ")}


_SAID = "refused with the reason, which the error says"
_FAULT = "Celery itself fails here, and cloudq does what was asked"
_DEFAULT = "the default is that of a queue of a cloud, as the table of settings says"

# Parts that the clouds' queues have not, and what Celery itself cannot do.
WITHOUT_COUNTERPART: dict[str, str] = {
    **_each("signature", "stamp, stamped_headers", _SAID),
    **_each("exception", "QueueNotFound, TaskPredicate, WorkerShutdown, WorkerTerminate", _SAID),
    **_each("inspect", "has clock, has memdump, has objgraph, has hello", _SAID),
    **_each("control", "has enable_events, has disable_events, has pool_restart", _SAID),
    **_each("control", "has heartbeat, has election, has revoke_by_stamped_headers", _SAID),
    **_each("request", "reply_to, origin", "results go through a store: no one waits on a queue"),
    "app: names of its own tasks": "workflows are run by the worker, not by tasks of their own",
    "same: chain of a group thrice": f"{_FAULT}: members run eight times for six",
    "signature: a chain: pickle": f"{_FAULT}: what comes back is not equal",
    "signature: a group: freeze with an id": f"{_FAULT}: the given id is lost",
    "result: ignored in a group": f"{_FAULT}: the group's get never ends",
    "exception: pickle of Retry": f"{_FAULT}: what comes back contains itself",
    "always eager: replace": _FAULT,
    "result: get in a task": "Celery's pool of threads lets it pass; its processes raise as cloudq",
}

DIFFERENT: dict[str, str] = {
    "result: fields not extended": "the record has the name, the worker and the queue always",
    "result: revoke and forget": "revoke() says whether it was before the task",
    **_each("task", "attribute acks_late, attribute reject_on_worker_lost", _DEFAULT),
    "exception: TimeoutError": "it is Python's TimeoutError too",
    "exception: InvalidTaskError": "it is a TypeError too",
    **_each("setting", "task_acks_late, worker_prefetch_multiplier", _DEFAULT),
    "setting: task_reject_on_worker_lost": _DEFAULT,
    "app: a task made twice is one": "two functions of one name are an error, never one of them",
    "call: an unknown serializer": "it is a TypeError, as all wrong options of calls are",
    "call: a set": "sets, and more that Celery refuses, are carried",
}
