"""Draws a workflow as SVG: a column for each step, a box for each task in its state's colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cloudq.canvas.graph import Graph, Vertex
from cloudq.dashboard.visit import Visit
from cloudq.dashboard.words import plural
from cloudq.text import masked, one_line

_WIDE, _TALL, _ACROSS, _DOWN, _EDGE = 172, 40, 56, 14, 12
_LONGEST = 22
# More members of one step are drawn as one box that says how many: nobody can read a thousand.
_MOST_IN_COLUMN = 14


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Box:
    """A vertex, or `more` that are not drawn, with its place."""

    id: str
    vertex: Vertex | None
    more: int
    states: Mapping[str, int]
    x: float
    y: float


def picture(graph: Graph, visit: Visit, current: str = "") -> Markup:
    """Draw a graph; each task links to its page."""
    graph = _in_time(graph)
    boxes = _laid_out(graph)
    if not boxes:
        return Markup("")
    width = max(box.x for box in boxes.values()) + _WIDE + _EDGE
    height = max(box.y for box in boxes.values()) + _TALL + _EDGE
    lines = _lines(graph, boxes)
    drawn = [_drawn(graph, box, visit, current) for box in dict.fromkeys(boxes.values())]
    told = f"Workflow of {len(graph.vertices)} tasks and groups"
    return Markup(
        '<svg class="graph" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="group" '
        'aria-label="{told}">{lines}{drawn}</svg>'
    ).format(
        w=f"{width:.0f}",
        h=f"{height:.0f}",
        told=told,
        lines=Markup("").join(lines),
        drawn=Markup("").join(drawn),
    )


def _columns(graph: Graph) -> dict[str, int]:
    """Return the longest way to each vertex from a root; what lies in a circle stays left."""
    before: dict[str, int] = dict.fromkeys(graph.vertices, 0)
    for ends in graph.edges.values():
        for end in ends:
            before[end] += 1
    columns = dict.fromkeys(graph.vertices, 0)
    waiting = [id for id, count in before.items() if not count]
    while waiting:
        id = waiting.pop()
        for end in graph.follows(id):
            columns[end] = max(columns[end], columns[id] + 1)
            before[end] -= 1
            if not before[end]:
                waiting.append(end)
    return columns


def _in_time(graph: Graph) -> Graph:
    """Let the members of a group lead to what follows the group, as they do in time."""
    edges = {start: list(ends) for start, ends in graph.edges.items()}
    for group, bodies in graph.bodies.items():
        members = [end for end in edges.get(group, ()) if end not in bodies]
        if not members:
            continue
        edges[group] = members
        for member in members:
            ends = edges.setdefault(_last_of(graph, member, set(bodies)), [])
            ends += [body for body in bodies if body not in ends]
    return Graph(vertices=graph.vertices, edges=edges, cut=graph.cut)


def _last_of(graph: Graph, id: str, stop: set[str]) -> str:
    seen: set[str] = set()
    while id not in seen:
        seen.add(id)
        following = [end for end in graph.follows(id) if end not in stop]
        if len(following) != 1:
            return id
        id = following[0]
    return id


def _laid_out(graph: Graph) -> dict[str, Box]:
    columns = _columns(graph)
    by_column: dict[int, list[str]] = {}
    for id in graph.vertices:
        by_column.setdefault(columns[id], []).append(id)
    tallest = max((min(len(ids), _MOST_IN_COLUMN + 1) for ids in by_column.values()), default=0)
    middle = _EDGE + tallest * (_TALL + _DOWN) / 2
    boxes: dict[str, Box] = {}
    for column, ids in by_column.items():
        shown, hidden = _split(graph, ids)
        count = len(shown) + bool(hidden)
        top = middle - count * (_TALL + _DOWN) / 2
        x = _EDGE + column * (_WIDE + _ACROSS)
        for row, id in enumerate(shown):
            y = top + row * (_TALL + _DOWN)
            boxes[id] = Box(id=id, vertex=graph.vertices[id], more=0, states={}, x=x, y=y)
        if hidden:
            y = top + len(shown) * (_TALL + _DOWN)
            states = _states(graph, hidden)
            rest = Box(id="", vertex=None, more=len(hidden), states=states, x=x, y=y)
            boxes |= dict.fromkeys(hidden, rest)
    return boxes


def _split(graph: Graph, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(ids) <= _MOST_IN_COLUMN:
        return list(ids), []
    # What has failed or runs is looked for first.
    order = sorted((_worth(graph.vertices[id]), place) for place, id in enumerate(ids))
    kept = sorted(place for _, place in order[: _MOST_IN_COLUMN - 1])
    chosen = {ids[place] for place in kept}
    return [ids[place] for place in kept], [id for id in ids if id not in chosen]


def _worth(vertex: Vertex) -> int:
    state = str(vertex.state or "")
    return {"FAILURE": 0, "REJECTED": 0, "REVOKED": 1, "STARTED": 2, "RETRY": 2}.get(state, 3)


def _states(graph: Graph, ids: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for id in ids:
        state = str(graph.vertices[id].state or "GROUP")
        found[state] = found.get(state, 0) + 1
    return found


def _lines(graph: Graph, boxes: Mapping[str, Box]) -> list[Markup]:
    made: dict[str, Markup] = {}
    for start, ends in graph.edges.items():
        for end in ends:
            one, other = boxes[start], boxes[end]
            if one is other:
                continue
            x1, y1 = one.x + _WIDE, one.y + _TALL / 2
            x2, y2 = other.x, other.y + _TALL / 2
            bend = max(24.0, (x2 - x1) / 2)
            path = (
                f"M{x1:.0f},{y1:.0f} C{x1 + bend:.0f},{y1:.0f} "
                f"{x2 - bend:.0f},{y2:.0f} {x2:.0f},{y2:.0f}"
            )
            made[path] = Markup('<path class="edge" d="{}"/>').format(path)
    return list(made.values())


def _drawn(graph: Graph, box: Box, visit: Visit, current: str) -> Markup:
    place = Markup('<g transform="translate({x:.0f},{y:.0f})"').format(x=box.x, y=box.y)
    rect = Markup('<rect width="{}" height="{}" rx="8"/>').format(_WIDE, _TALL)
    if box.vertex is None:
        said = ", ".join(f"{count} {state}" for state, count in sorted(box.states.items()))
        text = _texts(f"{box.more} more", said)
        return Markup('{} class="box more"><title>{}</title>{}{}</g>').format(
            place, f"{box.more} more: {said}", rect, text
        )
    state = str(box.vertex.state) if box.vertex.state else "GROUP"
    second = state if box.vertex.state else plural(len(graph.follows(box.id)), "member")
    name = one_line(masked(box.vertex.name))
    told = f"{name} {state} {one_line(box.id)}"
    mark = " current" if box.id == current else ""
    inside = Markup('{} class="box {}{}"><title>{}</title>{}{}</g>').format(
        place, state.lower(), mark, told, rect, _texts(name, second)
    )
    if box.vertex.state is None:
        return inside
    link = visit.url("/task", id=box.id)
    return Markup('<a href="{}">{}</a>').format(link, inside)


def _texts(first: str, second: str) -> Markup:
    return Markup(
        '<text x="12" y="17" class="name">{}</text> <text x="12" y="32">{}</text>'
    ).format(_cut(first), _cut(second))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else "…" + text[-_LONGEST + 1 :]
