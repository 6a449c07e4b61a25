"""The least roles that each account needs, granted on the plan's own resources.

One role is granted on the whole project: Firestore has no policies of its own, so
`roles/datastore.user` has the condition that the database is the plan's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cloudq_deploy.google.plan import Plan, Queue

Kind = Literal["topic", "subscription", "function", "account", "bucket", "key", "project"]
Who = Literal["tasks", "push", "pubsub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A role of an account on one resource, by the resource's name in Google Cloud.

    Of the accounts (`who`), functions run as `tasks`, Pub/Sub calls them as `push`, and `pubsub`
    is Pub/Sub's own agent. `database` is the condition of the one role on the project.
    """

    who: Who
    role: str
    kind: Kind
    on: str
    why: str
    database: str | None = None


def grants(plan: Plan) -> Iterator[Grant]:
    """Yield all grants of a plan, each once."""
    for queue in plan.queues:
        yield from _of_queue(queue)
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
    if plan.payloads:
        # It has more than the payloads need, but there is no smaller one that may list: without,
        # Cloud Storage answers 403 in place of 404 for one that is gone.
        yield Grant(
            who="tasks",
            role="roles/storage.objectUser",
            kind="bucket",
            on=plan.payloads.bucket,
            why="large payloads",
        )
    for key in plan.encryption_keys:
        yield Grant(
            who="tasks",
            role="roles/cloudkms.cryptoKeyEncrypterDecrypter",
            kind="key",
            on=key,
            why="encrypted messages",
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


def _of_queue(queue: Queue) -> Iterator[Grant]:
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
        why="acknowledges messages that it has moved",
    )
