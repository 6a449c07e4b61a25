"""Workflows and what they come to: one table, for every place that workflows run at."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cloudq import Node, chain, chord, group
from tests.worker.flow_tasks import Tasks

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def nested(t: Tasks, depth: int) -> Node[Any]:
    """A chord in the header of a chord, and so on: 2 to the power of `depth` members in all."""
    if depth == 0:
        return t.same.s(1)
    return chord([nested(t, depth - 1), nested(t, depth - 1)], t.total.s())


# What each comes to was tried with Celery 5.7.
CASES: dict[str, tuple[Any, Any]] = {
    "chain": (lambda t: t.add.s(1, 2) | t.add.s(3), 6),
    "long chain": (lambda t: chain([t.add.s(0, 0), *(t.add.s(1) for _ in range(20))]), 20),
    "longer than a message carries": (
        lambda t: chain([t.add.s(0, 0), *(t.add.s(1) for _ in range(60))]),
        60,
    ),
    "one signature at several places": (
        lambda t: chord([chain(one := t.same.si(1), one), one, group([one] * 3)], t.total.s()),
        5,
    ),
    "empty members": (
        lambda t: chain(chain(), t.same.s(1), group(), group(t.add.s(1), chain()), t.same.s()),
        2,
    ),
    "immutable": (lambda t: t.add.s(1, 2) | t.add.si(5, 5), 10),
    "group": (lambda t: group(t.add.s(1, 2), t.add.s(3, 4)), [3, 7]),
    "group of a generator": (lambda t: group(t.add.s(n, n) for n in range(5)), [0, 2, 4, 6, 8]),
    "group | task": (lambda t: group(t.add.s(1, 2), t.add.s(3, 4)) | t.total.s(), 10),
    "chord": (lambda t: chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s()), 10),
    "chord of a generator": (
        lambda t: chord((t.add.s(n, 0) for n in range(250)), t.total.s()),
        31125,
    ),
    "chord with no members": (lambda t: chord([], t.total.s()), 0),
    "chord with one member": (lambda t: group(t.add.s(1, 2)) | t.same.s(), [3]),
    "task | group": (lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), [6, 7]),
    "task | group | task": (
        lambda t: t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)) | t.total.s(),
        13,
    ),
    "task | group of one | task": (lambda t: t.add.s(1, 2) | group(t.add.s(3)) | t.same.s(), 6),
    "task | empty group | task": (lambda t: t.add.s(1, 2) | group() | t.same.s(), []),
    "empty group | task": (lambda t: group() | t.same.s(), []),
    "group | group": (
        lambda t: group(t.add.s(1, 2), t.add.s(3, 4)) | group(t.total.s(), t.same.s()),
        [10, [3, 7]],
    ),
    "group | group | task": (
        lambda t: (
            group(t.add.s(1, 2), t.add.s(3, 4)) | group(t.total.s(), t.total.s()) | t.total.s()
        ),
        20,
    ),
    "chord | task": (lambda t: chord([t.add.s(1, 2)], t.total.s()) | t.add.s(3), 6),
    "nested group in a header": (
        lambda t: chord([group(t.add.s(1, 1), t.add.s(2, 2)), t.add.s(3, 3)], t.same.s()),
        [2, 4, 6],
    ),
    "chain in a header": (
        lambda t: chord([t.add.s(1, 1) | t.add.s(2), t.add.s(3, 3)], t.same.s()),
        [4, 6],
    ),
    "chain that ends in a group in a header": (
        lambda t: chord([t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), t.add.s(1, 1)], t.same.s()),
        [[6, 7], 2],
    ),
    "chord in a chord": (
        lambda t: chord(
            [chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), t.add.s(3, 3)], t.same.s()
        ),
        [6, 6],
    ),
    "group of groups": (
        lambda t: group(group(t.add.s(1, 2), t.add.s(3, 4)), t.add.s(5, 6)),
        [3, 7, 11],
    ),
    "chain with a group in a group": (
        lambda t: group(t.add.s(1, 2) | group(t.add.s(3), t.add.s(4)), t.add.s(1, 1)),
        [[6, 7], 2],
    ),
    "chunks": (
        lambda t: t.add.chunks(zip(range(5), range(5), strict=True), 2),
        [[0, 2], [4, 6], [8]],
    ),
    "map": (lambda t: t.same.map([1, 2]), [1, 2]),
    "starmap | task": (lambda t: t.add.starmap([(1, 2), (3, 4)]) | t.total.s(), 10),
    "a member that is a map": (
        lambda t: chord([t.same.map([1, 2]), t.same.s(3)], t.same.s()),
        [[1, 2], 3],
    ),
}

# What follows from those by the same rules, and what is ours: whole values, shards, added members.
CASES |= {
    "chain of one": (lambda t: chain(t.add.s(1, 2)), 3),
    "chain of chains": (
        lambda t: chain(chain(t.add.s(1, 1), t.add.s(1)), chain(t.add.s(1), t.add.s(1))),
        5,
    ),
    "keywords": (lambda t: t.add.s(1, y=1) | t.add.s(y=5), 7),
    "None is a value": (lambda t: t.same.s(None) | t.same.s(), None),
    "values keep their types": (lambda t: t.same.s(NOON) | t.same.s(), NOON),
    "values keep their types in a join": (
        lambda t: chord([t.same.s(NOON), t.same.s({1: b"a"})], t.same.s()),
        [NOON, {1: b"a"}],
    ),
    "group of one": (lambda t: group(t.add.s(1, 2)), [3]),
    "empty group": (lambda t: group(), []),
    "group of chains": (
        lambda t: group(t.add.s(1, 1) | t.add.s(1), t.add.s(2, 2) | t.add.s(2)),
        [3, 6],
    ),
    "group of chords": (
        lambda t: group(
            chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s()), chord([t.same.s(5)], t.same.s())
        ),
        [6, [5]],
    ),
    "immutable body": (lambda t: chord([t.add.s(1, 1)], t.same.si(7)), 7),
    "immutable member": (
        lambda t: t.add.s(1, 2) | group(t.add.si(5, 5), t.add.s(1)),
        [10, 4],
    ),
    "body that is a chain": (
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.total.s() | t.add.s(1)),
        7,
    ),
    "body that is a group": (
        lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], group(t.total.s(), t.same.s())),
        [6, [2, 4]],
    ),
    "body that is a chord": (
        lambda t: chord(
            [t.add.s(1, 1), t.add.s(2, 2)], chord([t.total.s(), t.total.s()], t.total.s())
        ),
        12,
    ),
    "body that is a chord | task": (
        lambda t: chord([t.same.s(1)], chord([t.total.s(), t.total.s()], t.total.s())) | t.add.s(1),
        3,
    ),
    "chord | chord": (
        lambda t: (
            chord([t.same.s(1), t.same.s(2)], t.total.s())
            | chord([t.add.s(1), t.add.s(2)], t.total.s())
        ),
        9,
    ),
    "group | group | group | task": (
        lambda t: (
            group(t.same.s(1), t.same.s(2))
            | group(t.total.s(), t.total.s())
            | group(t.total.s(), t.total.s())
            | t.total.s()
        ),
        12,
    ),
    "group | task | group": (
        lambda t: group(t.same.s(1), t.same.s(2)) | t.total.s() | group(t.add.s(1), t.add.s(2)),
        [4, 5],
    ),
    "group | task | group | task": (
        lambda t: (
            group(t.same.s(1), t.same.s(2))
            | t.total.s()
            | group(t.add.s(1), t.add.s(2))
            | t.total.s()
        ),
        9,
    ),
    "task | chord": (
        lambda t: t.add.s(1, 1) | chord([t.add.s(1), t.add.s(2)], t.total.s()),
        7,
    ),
    "empty group in a header": (
        lambda t: chord([group(), t.same.s(1)], t.same.s()),
        [1],
    ),
    "chain with a chord in a header": (
        lambda t: chord(
            [t.same.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s(), t.same.s(1)], t.total.s()
        ),
        6,
    ),
    "chain with a chord in the middle in a header": (
        lambda t: chord(
            [t.same.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s() | t.add.s(10), t.same.s(1)],
            t.same.s(),
        ),
        [15, 1],
    ),
    "group in a chain in a group in a chain": (
        lambda t: (
            t.same.s(1) | group(t.add.s(1) | group(t.add.s(1), t.add.s(2)), t.add.s(5)) | t.same.s()
        ),
        [[3, 4], 6],
    ),
    "chords four deep": (lambda t: nested(t, 4), 16),
    "chords four deep | group": (
        lambda t: nested(t, 4) | group(t.add.s(1), t.add.s(2)),
        [17, 18],
    ),
    "as many members as a shard has": (
        lambda t: chord([t.same.s(n) for n in range(100)], t.total.s()),
        4950,
    ),
    "one more than a shard has": (
        lambda t: chord([t.same.s(n) for n in range(101)], t.total.s()),
        5050,
    ),
    "two shards after a task": (
        lambda t: t.same.s(1) | group([t.add.s(n) for n in range(150)]) | t.total.s(),
        11325,
    ),
    "chunks | task": (
        lambda t: t.add.chunks(zip(range(4), range(4), strict=True), 2) | t.same.s(),
        [[0, 2], [4, 6]],
    ),
    "chunks in a header": (
        lambda t: chord([t.same.chunks([[1], [2], [3]], 2), t.same.s(4)], t.same.s()),
        [[1, 2], [3], 4],
    ),
    "map | group": (lambda t: t.same.map([1, 2]) | group(t.total.s(), t.same.s()), [3, [1, 2]]),
    "replaced by a task": (lambda t: t.replaced.s("task"), 3),
    "replaced by a chain": (lambda t: t.replaced.s("chain"), 6),
    "replaced by a group": (lambda t: t.replaced.s("group"), [3, 7]),
    "replaced by a chord": (lambda t: t.replaced.s("chord"), 10),
    "replaced twice": (lambda t: t.replaced.s("itself"), 10),
    "replaced in a chain": (
        lambda t: t.replaced.s("group") | t.total.s() | t.add.s(1),
        11,
    ),
    "replaced in a header": (
        lambda t: chord([t.replaced.s("chord"), t.replaced.s("group"), t.same.s(1)], t.same.s()),
        [10, [3, 7], 1],
    ),
    "replaced after a group": (
        lambda t: group(t.same.s(1), t.same.s(2)) | t.replaced.si("itself") | t.add.s(1),
        11,
    ),
    "members added by a member": (
        lambda t: chord([t.more.s(), t.same.s(5)], t.same.s()),
        [1, 5, 20, 4],
    ),
    "members added by two members": (
        lambda t: chord([t.more.s(), t.more.s()], t.total.s()),
        50,
    ),
}
