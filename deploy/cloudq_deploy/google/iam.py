"""Who may do what on Google Cloud: the least that each account needs, on the plan's resources.

All roles are granted on a resource, but one: Firestore has no policies of its own, so
`roles/datastore.user` is of the project, on the condition that the database is the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cloudq_deploy.google.plan import Plan

Kind = Literal["topic", "subscription", "function", "account", "project"]
Who = Literal["tasks", "push", "pubsub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role for somebody on one resource, by its name in Google Cloud.

    `who`: `tasks` is what functions run as, `push` in whose name Pub/Sub calls them, `pubsub`
    Pub/Sub's own agent. `database` is the condition, for the one role of the project.
    """

    who: Who
    role: str
    kind: Kind
    on: str
    why: str
    database: str | None = None


def grants(plan: Plan) -> Iterator[Grant]:
    """All of a plan's, each once."""
    for queue in plan.queues:
        for topic, why in ((queue.topic, "retries"), (queue.dead_topic, "dead letters")):
            yield Grant(who="tasks", role="roles/pubsub.publisher", kind="topic", on=topic, why=why)
        yield Grant(
            who="pubsub",
            role="roles/pubsub.publisher",
            kind="topic",
            on=queue.dead_topic,
            why="moves messages to the dead letters",
        )
        yield Grant(
            who="pubsub",
            role="roles/pubsub.subscriber",
            kind="subscription",
            on=queue.subscription,
            why="acks what it has moved",
        )
    for function in plan.functions:
        yield Grant(
            who="push",
            role="roles/run.invoker",
            kind="function",
            on=function.name,
            why="calls the function",
        )
    yield Grant(
        who="pubsub",
        role="roles/iam.serviceAccountOpenIdTokenCreator",
        kind="account",
        on=plan.push_account,
        why="signs pushes in its name",
    )
    if plan.store:
        yield Grant(
            who="tasks",
            role="roles/datastore.user",
            kind="project",
            on=plan.project,
            why="results",
            database=plan.store.database,
        )
