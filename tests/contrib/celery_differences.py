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
    **_each(
        "signature",
        "a chain: set, a chain: clone with options, a chain: set_immutable",
        "options of a workflow are put into its first tasks at once, where Celery does so later",
    ),
    **_each(
        "signature",
        "a chain: app, a group: app, a chord: app",
        "a workflow has no app of its own: that of its first task starts it",
    ),
    "result: fields not extended": "the record has the name, the worker and the queue always",
    "result: revoke and forget": "revoke() says whether it was before the task",
    "result: None for an id": "what is no id is a TypeError, as all wrong arguments are",
    **_each("task", "attribute acks_late, attribute reject_on_worker_lost", _DEFAULT),
    "task: attribute send_events": "events are switched by the setting task_events",
    "task: an unknown one": "app.tasks is a plain dict; both are a KeyError",
    "request: headers": "headers are a dict, empty where there are none",
    "request: utc": "times of messages are always in UTC",
    "request: priority and queue": "a queue has no priorities unless priority_queues names them",
    "request: kwargsrepr given": "the text is made of the arguments by the worker",
    "call: argsrepr": "the text is made of the arguments by the worker",
    "retry: the state between": "RETRY is written with task_track_started or track_started alone",
    "error: a chain stops at Ignore, eager": "a chain that ends early is a failure of its end",
    "error: SystemExit": "an eager task that exits has failed: the caller's process goes on",
    "exception: TimeoutError": "it is Python's TimeoutError too",
    "exception: InvalidTaskError": "it is a TypeError too",
    "eager: options": "the number of tries is counted, and is no option of a call",
    **_each("setting", "task_acks_late, worker_prefetch_multiplier", _DEFAULT),
    **_each("setting", "task_reject_on_worker_lost, worker_send_task_events", _DEFAULT),
    "setting: timezone": "None is UTC in both, and is said",
    "setting: result_expires": "a number of seconds, as it may be set in both",
    "setting: task_publish_retry": "the number of tries, of which Celery has a policy beside it",
    "setting: worker_pool": "prefork is read as processes",
    "app: Task": "the class is of the app's tasks; its instances have the app",
    "app: a task made twice is one": "two functions of one name are an error, never one of them",
    "call: an unknown serializer": "it is a TypeError, as all wrong options of calls are",
    "call: a set": "sets, and more that Celery refuses, are carried",
    **_each("crontab", "text", "the text is that of the declaration in cloudq"),
    **_each("schedule", "text, its number, human_seconds", "a schedule has its `seconds`"),
    **_each("crontab", "its own questions of time", "times are asked of `cloudq schedules`"),
    **_each("schedule", "its own questions of time", "times are asked of `cloudq schedules`"),
    **_each(
        "state",
        "READY_STATES, UNREADY_STATES, PROPAGATE_STATES, ALL_STATES",
        "REJECTED is an end here, which a store keeps",
    ),
}
