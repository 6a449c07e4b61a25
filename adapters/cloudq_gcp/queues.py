"""The names of the topics and subscriptions of a Pub/Sub queue and its dead letters."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FULL = re.compile(r"projects/([^/]+)/topics/([^/]+)")

QUEUE = "{queue}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """The queues of one project, by name; nothing is looked up.

    A queue is a topic and one subscription. `prefix` stands before every name; the full name of
    a topic, `projects/p/topics/t`, is taken as it is. `subscription` is the template of the
    subscription's name, `dead` that of the topic for dead letters, each with `{queue}` in it.
    """

    project: str
    prefix: str = ""
    subscription: str = QUEUE
    dead: str = f"{QUEUE}-dead"

    def topic_name(self, queue: str) -> str:
        """The topic's name, without its project."""
        return self._parts(queue)[1]

    def topic(self, queue: str) -> str:
        """The topic's full name."""
        project, name = self._parts(queue)
        return f"projects/{project}/topics/{name}"

    def subscribed(self, queue: str) -> str:
        """The full name of the queue's subscription."""
        project, name = self._parts(queue)
        return f"projects/{project}/subscriptions/{self.subscription.replace(QUEUE, name)}"

    def dead_queue(self, queue: str) -> str:
        """The dead letters as a queue of their own: the full name of their topic."""
        project, name = self._parts(queue)
        return f"projects/{project}/topics/{self.dead.replace(QUEUE, name)}"

    def queue_of(self, name: str) -> str:
        """The queue of the full name of a topic or a subscription; dead letters are one too."""
        short = name.rpartition("/")[2]
        if "/subscriptions/" in name:
            before, _, behind = self.subscription.partition(QUEUE)
            short = short.removeprefix(before).removesuffix(behind)
        return short.removeprefix(self.prefix)

    def _parts(self, queue: str) -> tuple[str, str]:
        full = _FULL.fullmatch(queue)
        return (full[1], full[2]) if full else (self.project, self.prefix + queue)
