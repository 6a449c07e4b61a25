"""The data of the workflows: what is under way, and which members are missing."""

from __future__ import annotations

from dataclasses import dataclass

from cloudq.canvas.graph import Graph
from cloudq.dashboard.looks import Part, Watch
from cloudq.dashboard.visit import Visit
from cloudq.operations import workflows
from cloudq.operations.workflows import Workflow, WorkflowList


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The workflows under way; with an id, the one that is asked for."""

    id: str
    listed: Part[WorkflowList] | None
    one: Part[Workflow | None] | None
    graph: Part[Graph | None] | None


def data(watch: Watch, visit: Visit) -> Page:
    """Look at the workflows under way, or at one."""
    app, id = watch.app, visit.query.get("id").strip()[:500]
    if not id:
        listed = watch.part("workflows", workflows.workflows, app)
        return Page(id="", listed=listed, one=None, graph=None)
    return Page(
        id=id,
        listed=None,
        one=watch.part(("workflow", id), workflows.workflow, app, id),
        graph=watch.part(("graph", id), workflows.graph, app, id),
    )
