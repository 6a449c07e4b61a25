"""All pages of the dashboard: their paths, their data, and what the API says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudq.dashboard.looks import Watch
from cloudq.dashboard.pages import (
    audit,
    cost,
    dead,
    overview,
    queues,
    schedules,
    task,
    tasks,
    workers,
    workflows,
)
from cloudq.dashboard.visit import Visit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """A page, and the same data in the API: `data` makes it, by its looks at the app.

    `kind` is the class of the data, `parameters` what the query may have. `name` is that of the
    template and of the API's path; `live` pages renew themselves.
    """

    name: str
    path: str
    title: str
    data: Callable[[Watch, Visit], Any]
    kind: type[Any]
    summary: str
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    live: bool = True


VIEWS: tuple[View, ...] = (
    View(
        name="overview",
        path="/",
        title="Overview",
        data=overview.data,
        kind=overview.Page,
        summary="Queues, rates, failures of the last hour, workers, what is due, and the bill.",
    ),
    View(
        name="tasks",
        path="/tasks",
        title="Tasks",
        data=tasks.data,
        kind=tasks.Page,
        summary="Recorded ends of tasks, newest first.",
        parameters=tasks.PARAMETERS,
    ),
    View(
        name="task",
        path="/task",
        title="Task",
        data=task.data,
        kind=task.Page,
        summary="All that the store knows of one task, with its workflow.",
        parameters={"id": "id of the task"},
    ),
    View(
        name="queues",
        path="/queues",
        title="Queues",
        data=queues.data,
        kind=queues.Page,
        summary="The numbers of all queues.",
    ),
    View(
        name="queue",
        path="/queue",
        title="Queue",
        data=queues.one,
        kind=queues.OnePage,
        summary="One queue, and with peek=1 its first messages.",
        parameters={"name": "name of the queue", "peek": "1 to look at its first messages"},
        live=False,
    ),
    View(
        name="dead",
        path="/dead",
        title="Dead letters",
        data=dead.data,
        kind=dead.Page,
        summary="Dead letters that match a filter, and groups of them.",
        parameters=dead.PARAMETERS,
        live=False,
    ),
    View(
        name="letter",
        path="/letter",
        title="Dead letter",
        data=dead.one,
        kind=dead.OnePage,
        summary="One dead letter in full.",
        parameters={"queue": "name of the queue", "id": "id of the task or message"},
        live=False,
    ),
    View(
        name="workers",
        path="/workers",
        title="Workers",
        data=workers.data,
        kind=workers.Page,
        summary="Workers by their last heartbeats.",
    ),
    View(
        name="worker",
        path="/worker",
        title="Worker",
        data=workers.one,
        kind=workers.OnePage,
        summary="One worker; with ask=1 it is asked for its numbers and tasks.",
        parameters={"name": "name of the worker", "ask": "1 to ask the worker itself"},
        live=False,
    ),
    View(
        name="schedules",
        path="/schedules",
        title="Schedules",
        data=schedules.data,
        kind=schedules.Page,
        summary="Periodic tasks with their next and last runs.",
        parameters={"cloud": "1 to compare the cloud's scheduler with the code"},
    ),
    View(
        name="workflows",
        path="/workflows",
        title="Workflows",
        data=workflows.data,
        kind=workflows.Page,
        summary="Groups and chords under way, and the members that are missing.",
        parameters={"id": "id of a task, a group or a chord"},
    ),
    View(
        name="cost",
        path="/cost",
        title="Cost",
        data=cost.data,
        kind=cost.Page,
        summary="Requests, billed units and dollars, as workers have counted them.",
        parameters={"span": "hour or day"},
    ),
    View(
        name="audit",
        path="/audit",
        title="Audit",
        data=audit.data,
        kind=audit.Page,
        summary="Actions of operators, newest first.",
        parameters=audit.PARAMETERS,
        live=False,
    ),
)
"""The pages, in the order of the navigation."""

BY_PATH: Mapping[str, View] = {view.path: view for view in VIEWS}
"""The pages by their paths."""
