"""Workflows whose calls have Celery's options, made ready to be started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloudq.contrib.celery.translation import call_options
from cloudq.tasks.signature import Node, chord

# Options of a chord that are not its body's: when it begins, and the id that its result has.
_OF_HEADER = frozenset({"countdown", "task_id"})


def translated(node: Node[Any], warned: set[str]) -> Node[Any]:
    """Translate the call options at every place of a workflow. Raises `ConfigurationError`.

    Members of a generator that is read as it is sent keep theirs. The body of a chord has the
    options of the chord too, as in Celery: in a copy, since it may stand at other places.
    """
    chords = False
    for each in _nodes(node):
        if each.options:
            each.options = call_options(each.options, of=each.name, warned=warned)
            chords = chords or isinstance(each, chord)
    if not chords:
        return node
    made = node.clone()
    for each in _nodes(made):
        if isinstance(each, chord):
            given = {name: each.options[name] for name in each.options.keys() - _OF_HEADER}
            each.body.set(**given)
    return made


def _nodes(node: Node[Any]) -> Iterator[Node[Any]]:
    """Yield a node, all nodes inside it and their callbacks, those around others first."""
    waiting, seen = [node], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [*each.peek(), *each.links, *each.link_errors]
