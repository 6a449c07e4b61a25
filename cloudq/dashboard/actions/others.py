"""Actions on tasks, queues, workers and schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from cloudq.amounts import counted
from cloudq.app import CloudQ
from cloudq.dashboard.actions.edits import changes, edit_of
from cloudq.dashboard.actions.plan import Action, Done, Plan, Told
from cloudq.dashboard.pages import tasks as tasks_page
from cloudq.dashboard.pages.rows import task_rows
from cloudq.dashboard.visit import Visit
from cloudq.dashboard.words import plural
from cloudq.errors import ConfigurationError
from cloudq.operations import queues, schedules, task_actions, tasks, workers
from cloudq.operations.audit import Actor
from cloudq.operations.dead_actions import Edit
from cloudq.operations.tasks import TaskFilter, TaskSearch

_SHOWN = 10
_MOST_TOLD = 20


# ---- tasks


def _revoke(app: CloudQ, visit: Visit) -> Plan:
    id = _one_id(visit)
    return Plan(
        question=f"Revoke task {id}?",
        button="Revoke 1 task",
        number=1,
        run=partial(_revoked, app, id, False),
        details=["It will not start any more. If it runs already, it goes on."],
        danger=True,
    )


def _terminate(app: CloudQ, visit: Visit) -> Plan:
    id = _one_id(visit)
    return Plan(
        question=f"Terminate task {id}?",
        button="Terminate 1 task",
        number=1,
        run=partial(_revoked, app, id, True),
        details=[
            "Its process is killed; other tasks of that process start anew.",
            "A cloud function does not end a running task.",
        ],
        danger=True,
    )


def _revoked(app: CloudQ, id: str, terminate: bool, by: Actor, progress: Told) -> Done:
    done = task_actions.revoke(app, [id], by=by, terminate=terminate)
    if done.ended:
        return Done(text=f"Task {id} had ended already")
    ends = "is told to end" if terminate else "is revoked"
    return Done(text=f"Task {id} {ends}")


def _again(app: CloudQ, visit: Visit) -> Plan:
    id, form = _one_id(visit), visit.form
    found = tasks.life(app, id, graph=False)
    if found is None:
        raise ConfigurationError(f"no record of task {id}: it has expired, or there is none")
    kept = found.arguments
    whole: Any = orjson.loads(kept.text) if kept is not None and kept.whole else ([], {})
    edit = edit_of(
        form.get("args"), form.get("kwargs"), args_before=whole[0], kwargs_before=whole[1]
    )
    if edit is not None and kept is not None and kept.whole:
        is_same = (edit.args, edit.kwargs) in ((kept.args, kept.kwargs), (None, kept.kwargs))
        edit = None if is_same else edit
    how = f" with {changes(edit)}" if edit is not None else ""
    return Plan(
        question=f"Run {found.record.task} again{how}?",
        button="Run 1 task again",
        number=1,
        run=partial(_ran_again, app, id, edit),
        details=[f"Task {id} ended as {found.record.state}."],
    )


def _ran_again(app: CloudQ, id: str, edit: Edit | None, by: Actor, progress: Told) -> Done:
    done = task_actions.run_again(app, id, by=by, edit=edit)
    return Done(text=f"{done.task} runs again as {done.id}", link=f"/task?id={done.id}")


def _retry(app: CloudQ, visit: Visit) -> Plan:
    chosen = tasks_page.filter_of(visit.form, app.runtime.clock())
    found = tasks.search(app, chosen, limit=task_actions.MOST_RETRIED)
    if visit.confirmed is not None:
        # What has ended since was not shown, and is left.
        found = replace(found, rows=[e for e in found.rows if ("task", e.id) in visit.confirmed])
    count = len(task_actions.distinct(found.rows))
    return Plan(
        question=f"Run {plural(count, 'task')} again?",
        button=f"Run {count:,} again",
        number=count,
        run=partial(_retried, app, chosen, found),
        scope=f"{found.scope}: {chosen}",
        things={("task", event.id) for event in found.rows},
        details=["Each runs with the arguments that it had, as far as they are recorded."],
        tasks=task_rows(found.rows[:_SHOWN], visit),
        long=True,
        nothing="No task matches any more." if not count else None,
    )


def _retried(app: CloudQ, chosen: TaskFilter, found: TaskSearch, by: Actor, progress: Told) -> Done:
    done = task_actions.retry(app, chosen, by=by, found=found)
    failed = [f"{each.task} {each.id}: {each.reason}" for each in done.failed[:_MOST_TOLD]]
    if len(done.failed) > _MOST_TOLD:
        failed.append(f"and {len(done.failed) - _MOST_TOLD} more")
    return Done(text=f"{plural(len(done.again), 'task')} run again", failed=failed)


def _one_id(visit: Visit) -> str:
    id = visit.form.get("id").strip()
    if not id or len(id) > 500:
        raise ConfigurationError("no task is named")
    return id


# ---- queues


def _purge(app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    row = queues.queue(app, name)
    counts = (row.ready, row.delayed, row.running)
    known = sum(count or 0 for count in counts)
    about = "" if row.exact else "about "
    details = [
        "Running and delayed messages are deleted too, and what comes until then.",
        "Dead letters stay.",
    ]
    if row.running:
        details.append(f"{row.running:,} of them run now.")
    return Plan(
        question=f"Purge queue {name}: delete {about}{plural(known, 'message')}?",
        button=f"Purge {about}{known:,}",
        number=known,
        run=partial(_purged, app, name),
        details=details,
        danger=True,
    )


def _purged(app: CloudQ, name: str, by: Actor, progress: Told) -> Done:
    done = queues.purge(app, name, by=by)
    known = None if done.deleted is None else done.deleted + done.delayed
    count = "all messages" if known is None else counted(known, "message")
    later = f"; this takes up to {done.settles:g} s" if done.settles else ""
    return Done(text=f"Deleted {count} of {name}{later}")


def _pause(app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    count = _receivers(app, name)
    return Plan(
        question=f"Pause queue {name}?",
        button="Pause 1 queue",
        number=1,
        run=partial(_paused, app, name, queues.pause),
        details=[
            f"{plural(count, 'worker')} will receive no more from it; what they have goes on.",
            "New calls wait in it until it is resumed.",
        ],
    )


def _resume(app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    return Plan(
        question=f"Resume queue {name}?",
        button="Resume 1 queue",
        number=1,
        run=partial(_paused, app, name, queues.resume),
        details=[f"{plural(_receivers(app, name), 'worker')} will receive from it again."],
    )


def _paused(
    app: CloudQ, name: str, act: Callable[..., queues.PauseDone], by: Actor, progress: Told
) -> Done:
    done: queues.PauseDone = act(app, name, by=by)
    state = "paused" if done.paused else "resumed"
    if not done.changed:
        return Done(text=f"Queue {name} was {state} already", failed=done.notes)
    told_to = plural(len(done.workers), "worker")
    return Done(text=f"Queue {name} is {state}; {told_to} told", failed=done.notes)


def _receivers(app: CloudQ, name: str) -> int:
    return sum(row.alive and name in row.queues for row in workers.workers(app))


def _name(visit: Visit) -> str:
    name = visit.form.get("name")
    if not name or len(name) > 500:
        raise ConfigurationError("nothing is named")
    return name


# ---- workers


def _shutdown(app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    row = next((row for row in workers.workers(app) if row.name == name), None)
    if row is None or not row.alive:
        raise ConfigurationError(f"no live worker {name}")
    return Plan(
        question=f"Shut worker {name} down?",
        button="Shut 1 worker down",
        number=1,
        run=partial(_told_worker, app, name, "shutdown", {}),
        details=[f"It ends its {plural(row.running, 'running task')} first, and receives no more."],
        danger=True,
    )


def _pool(app: CloudQ, visit: Visit) -> Plan:
    name, grows = _name(visit), visit.form.get("change") == "grow"
    more = "more" if grows else "fewer"
    return Plan(
        question=f"Give worker {name} 1 process {more}?",
        button=f"1 process {more}",
        number=1,
        run=partial(_told_worker, app, name, "pool_grow" if grows else "pool_shrink", {"n": 1}),
        details=["It holds until the worker ends."],
    )


def _told_worker(
    app: CloudQ, name: str, command: str, arguments: dict[str, object], by: Actor, progress: Told
) -> Done:
    workers.tell(app, command, arguments, by=by, worker=name)
    return Done(text=f"Worker {name} is told: {command}; it obeys at its next heartbeat")


# ---- schedules


def _run_now(app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    entry = app.schedules.entry(name)
    return Plan(
        question=f"Run schedule {name} now?",
        button="Run 1 task now",
        number=1,
        run=partial(_ran_now, app, name),
        details=[f"It sends {entry.task}, in addition to its runs."],
    )


def _ran_now(app: CloudQ, name: str, by: Actor, progress: Told) -> Done:
    id = schedules.run_now(app, name, by=by)
    return Done(text=f"Schedule {name} runs now as {id}", link=f"/task?id={id}")


_VERBS = {
    "pause": (schedules.pause, "Pause", "is paused", "Its runs are skipped until it is resumed."),
    "resume": (schedules.resume, "Resume", "runs again", "Runs missed in the pause are not sent."),
    "delete": (
        schedules.delete,
        "Delete",
        "is deleted",
        "It was made at run time. It is gone then.",
    ),
}


def _schedule(verb: str, app: CloudQ, visit: Visit) -> Plan:
    name = _name(visit)
    act, word, ends, detail = _VERBS[verb]
    app.schedules.get(name)
    return Plan(
        question=f"{word} schedule {name}?",
        button=f"{word} 1 schedule",
        number=1,
        run=partial(_scheduled, app, name, act, ends),
        details=[detail],
        danger=verb == "delete",
    )


def _scheduled(
    app: CloudQ, name: str, act: Callable[..., None], ends: str, by: Actor, progress: Told
) -> Done:
    act(app, name, by=by)
    return Done(text=f"Schedule {name} {ends}")


_RETRY: Sequence[str] = tuple(tasks_page.PARAMETERS)
ACTIONS = (
    Action(name="revoke", plan=_revoke, fields=("id",), back="/tasks"),
    Action(name="terminate", plan=_terminate, fields=("id",), back="/tasks"),
    Action(name="run-again", plan=_again, fields=("id", "args", "kwargs"), back="/tasks"),
    Action(name="retry", plan=_retry, fields=_RETRY, back="/tasks"),
    Action(name="purge", plan=_purge, fields=("name",), back="/queues"),
    Action(name="pause-queue", plan=_pause, fields=("name",), back="/queues"),
    Action(name="resume-queue", plan=_resume, fields=("name",), back="/queues"),
    Action(name="shutdown", plan=_shutdown, fields=("name",), back="/workers"),
    Action(name="pool", plan=_pool, fields=("name", "change"), back="/workers"),
    Action(name="run-now", plan=_run_now, fields=("name",), back="/schedules"),
    Action(
        name="pause-schedule", plan=partial(_schedule, "pause"), fields=("name",), back="/schedules"
    ),
    Action(
        name="resume-schedule",
        plan=partial(_schedule, "resume"),
        fields=("name",),
        back="/schedules",
    ),
    Action(
        name="delete-schedule",
        plan=partial(_schedule, "delete"),
        fields=("name",),
        back="/schedules",
    ),
)
