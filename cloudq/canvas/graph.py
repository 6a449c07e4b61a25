"""The graph of the tasks related to one task, read from the result store for `cloudq graph`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from cloudq.canvas.join_items import body_in, members_of
from cloudq.canvas.slots import join_key
from cloudq.messages.json_text import json_text
from cloudq.results.backend import Backend
from cloudq.results.groups import group_outline
from cloudq.results.outline import Outline, Row, outlines_in, spine
from cloudq.results.record import Record, State

# The most vertices in a graph: nobody can read a larger picture.
MOST = 2000
# Members alike that each have a line of their own.
_ALIKE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """A task, or a group of tasks, which has no `state`."""

    id: str
    name: str
    state: State | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.state}" if self.state else self.name


@dataclass(slots=True)
class Graph:
    """Vertices by id, and the ids that each one leads to. `cut` means that some were left out.

    `bodies` has the steps that follow a group's members, by the group's id; the group leads to
    them too.
    """

    vertices: dict[str, Vertex] = field(default_factory=dict[str, Vertex])
    edges: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    bodies: dict[str, list[str]] = field(default_factory=dict[str, "list[str]"])
    cut: bool = False

    def follows(self, id: str) -> Sequence[str]:
        """Return the ids after a vertex: a group's members, a task's calls, the next steps."""
        return self.edges.get(id, ())

    def roots(self) -> list[str]:
        """Return the ids that no edge leads to."""
        led_to = {end for ends in self.edges.values() for end in ends}
        return [id for id in self.vertices if id not in led_to]


def graph_of(id: str, backend: Backend) -> Graph | None:
    """Build the graph around a task, a chord or a saved group; None if the store knows no such id.

    Costs one batched read for each step from the task to the farthest vertex.
    """
    search = _Search(backend)
    outline = group_outline(id, backend)
    if outline is not None:
        search.outline(outline)
    else:
        search.want(id)
    search.run()
    if outline is not None or id in search.records or search.graph.edges:
        return search.graph
    root = backend.get([join_key(id)]).get(join_key(id))
    if root is None:
        return None
    search = _Search(backend)
    search.join(id, *body_in(root))
    search.run()
    return search.graph


class _Search:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._wanted: list[str] = []
        self._joins: set[str] = set()
        self._parents: dict[str, str] = {}
        self.records: dict[str, Record] = {}
        self.graph = Graph()

    def run(self) -> None:
        while self._wanted:
            batch, self._wanted = self._wanted, []
            found = self._backend.records(batch)
            self.records |= found
            for id in batch:
                self._look(id, found.get(id))
        led_to = {end for ends in self.graph.edges.values() for end in ends}
        for child, parent in self._parents.items():
            if child not in led_to:  # else a group or a step between the two leads to it
                self._edge(parent, child)

    def want(self, id: str) -> None:
        if id in self.graph.vertices:
            return
        if len(self.graph.vertices) >= MOST:
            self.graph.cut = True
            return
        self.graph.vertices[id] = Vertex(id=id, name="task", state=State.PENDING)
        self._wanted.append(id)

    def outline(self, rows: Outline) -> str:
        """Add the calls of an outline, and return the id that it begins with."""
        for id, _, members in self._shown(rows):
            if members is None:
                self.want(id)
            else:
                self._group(id)
        firsts: list[str] = []
        for id, before, members in rows:
            for member in members or ():
                self._edge(id, firsts[member])
            firsts.append(id if before is None else firsts[before])
            if before is not None:
                self._edge(rows[before][0], id)
                if rows[before][2] is not None:
                    self._body(rows[before][0], id)
        return firsts[-1]

    def join(self, join: str, body: str, name: str) -> None:
        """Add a chord's members and the task that follows them, which may not have begun."""
        self.want(body)
        self.graph.vertices[body] = Vertex(id=body, name=name or "task", state=State.PENDING)
        self._join(join, body)

    @staticmethod
    def _shown(rows: Outline) -> Iterator[Row]:
        """Yield the rows in the order in which they are drawn: a group before its members."""
        waiting = spine(rows, len(rows) - 1)[::-1]
        while waiting:
            row = rows[waiting.pop()]
            yield row
            for member in reversed(row[2] or ()):
                waiting += reversed(spine(rows, member))

    def _look(self, id: str, record: Record | None) -> None:
        if record is None:
            return
        name = record.task or "task"
        self.graph.vertices[id] = Vertex(id=id, name=name, state=record.state)
        if record.parent is not None:
            self.want(record.parent)
            self._parents[id] = record.parent
        if record.join is not None:
            self._join(record.join, id)
        for outline in outlines_in(record.children) if record.children else ():
            self._edge(id, self.outline(outline))

    def _join(self, join: str, body: str) -> None:
        self._group(join)
        self._edge(join, body)
        self._body(join, body)
        if join in self._joins:
            return
        self._joins.add(join)
        if self.graph.edges.get(join) != [body]:
            return  # the outline has added its members already
        for member in members_of(join, self._backend) or ():
            self.want(member)
            self._edge(join, member)
        members = self.graph.edges[join]
        members.append(members.pop(members.index(body)))

    def _group(self, id: str) -> None:
        self.graph.vertices.setdefault(id, Vertex(id=id, name="group"))

    def _body(self, group: str, body: str) -> None:
        bodies = self.graph.bodies.setdefault(group, [])
        if body in self.graph.vertices and body not in bodies:
            bodies.append(body)

    def _edge(self, start: str, end: str) -> None:
        if start not in self.graph.vertices or end not in self.graph.vertices:
            return
        ends = self.graph.edges.setdefault(start, [])
        if end not in ends:
            ends.append(end)


def as_text(graph: Graph) -> Iterator[str]:
    """Yield the lines of a tree; a vertex that several lead to is expanded only once.

    Of many members of one name and state, with nothing below them, a line says how many they are.
    """
    shown: set[str] = set()
    for root in graph.roots():
        yield from _branch(graph, root, shown, "", "")


def _branch(graph: Graph, id: str, shown: set[str], head: str, rest: str) -> Iterator[str]:
    stack = [(id, head, rest)]
    while stack:
        id, head, rest = stack.pop()
        vertex = graph.vertices[id]
        again = " (see above)" if id in shown else ""
        yield f"{head}{vertex.name} {id}{f' {vertex.state}' if vertex.state else ''}{again}"
        if again:
            continue
        shown.add(id)
        alone, many = _folded(graph, graph.follows(id), shown)
        for label, ids in many.items():
            last = "└─ " if not alone and label == [*many][-1] else "├─ "
            yield f"{rest}{last}{len(ids)} x {label}: {ids[0]}, {ids[1]}, ..."
        below = [
            (end, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
            for number, end in enumerate(alone, 1)
            for last in (number == len(alone),)
        ]
        stack += reversed(below)


def _folded(
    graph: Graph, ends: Sequence[str], shown: set[str]
) -> tuple[list[str], Mapping[str, list[str]]]:
    """Part the ids below a vertex: those of lines of their own, and many alike by their label."""
    alike: dict[str, list[str]] = {}
    for end in ends:
        if not graph.follows(end) and end not in shown:
            alike.setdefault(graph.vertices[end].label, []).append(end)
    many = {label: ids for label, ids in alike.items() if len(ids) > _ALIKE}
    folded = {id for ids in many.values() for id in ids}
    return [end for end in ends if end not in folded], many


def as_dot(graph: Graph) -> Iterator[str]:
    """Yield the lines of a graph for Graphviz."""
    yield "digraph workflow {"
    for vertex in graph.vertices.values():
        shape = "" if vertex.state else ", shape=box"
        label = json_text(f"{vertex.name}\n{vertex.state or ''}".strip()).decode()
        yield f'  "{vertex.id}" [label={label}{shape}];'
    for start, ends in graph.edges.items():
        for end in ends:
            yield f'  "{start}" -> "{end}";'
    yield "}"


def as_json(graph: Graph) -> dict[str, object]:
    """Return the vertices and edges as plain JSON."""
    return {
        "tasks": [asdict(vertex) for vertex in graph.vertices.values()],
        "edges": [[start, end] for start, ends in graph.edges.items() for end in ends],
        "cut": graph.cut,
    }


def as_mermaid(graph: Graph) -> Iterator[str]:
    """Yield the lines of a Mermaid flowchart."""
    numbers = {id: f"n{number}" for number, id in enumerate(graph.vertices)}
    yield "flowchart TD"
    for id, vertex in graph.vertices.items():
        label = vertex.label.replace('"', "'")
        yield f'  {numbers[id]}["{label}"]'
    for start, ends in graph.edges.items():
        for end in ends:
            yield f"  {numbers[start]} --> {numbers[end]}"


FORMATS: Mapping[str, Callable[[Graph], Iterator[str]]] = {
    "text": as_text,
    "dot": as_dot,
    "mermaid": as_mermaid,
}
