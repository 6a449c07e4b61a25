"""Makes Pub/Sub and Cloud Scheduler equal to a plan: what differs first, then the steps.

Only topics and subscriptions with the stack's labels are changed or deleted. One request lists
all topics of the project, one all subscriptions; then each step is one request.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from google.api_core.exceptions import GoogleAPICallError
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1.types import (
    DeadLetterPolicy,
    ExpirationPolicy,
    PushConfig,
    RetryPolicy,
    Subscription,
    Topic,
    UpdateSubscriptionRequest,
    UpdateTopicRequest,
)

from cloudq.errors import ConfigurationError, ServiceError
from cloudq_deploy.google.plan import Plan, Queue
from cloudq_deploy.google.planner import ownership
from cloudq_gcp.errors import error_code
from cloudq_gcp.pubsub_requests import TIMEOUT, Requests

Kind = Literal["topic", "subscription"]
# A part of a subscription, and where it is in a request; those without a place never change.
_PATHS = {
    "ack deadline": "ack_deadline_seconds",
    "dead letters": "dead_letter_policy",
    "deliveries": "dead_letter_policy",
    "backoff": "retry_policy",
    "retention": "message_retention_duration",
    "expiration": "expiration_policy",
    "push to": "push_config",
    "push account": "push_config",
    "labels": "labels",
}
_PUSH = ("push to", "push account")
# The emulator's longest.
_SHORT_RETENTION = 7 * 86_400
_LOOKING = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One step: `create`, `update` or `delete` of a topic or a subscription, by its full name.

    `parts` are what is, and what shall be.
    """

    action: Literal["create", "update", "delete"]
    kind: Kind
    name: str
    parts: Mapping[str, tuple[str, str]]
    run: Callable[[Requests], object] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is in the project, by full name."""

    topics: Mapping[str, Topic]
    subscriptions: Mapping[str, Subscription]


def look(plan: Plan, requests: Requests) -> Standing:
    """What there is. Raises `ServiceError`."""
    project = f"projects/{plan.project}"
    try:
        topics = list(requests.publisher.list_topics(project=project, retry=None, timeout=TIMEOUT))
        found = requests.subscriber.list_subscriptions(project=project, retry=None, timeout=TIMEOUT)
        subscriptions = list(found)
    except GoogleAPICallError as error:
        raise ServiceError(
            f"cannot look at the topics of {plan.project}: {error}", code=error_code(error)
        ) from error
    return Standing(
        topics={topic.name: topic for topic in topics},
        subscriptions={each.name: each for each in subscriptions},
    )


def propose(
    plan: Plan, standing: Standing, *, adopt: bool = False, emulator: bool = False
) -> list[Change]:
    """What makes the project equal to the plan, in order.

    Raises `ConfigurationError` for a resource of somebody else, and for what never changes.
    """
    wanted_topics = _topics(plan)
    wanted = _subscriptions(plan, emulator=emulator)
    changes: list[Change] = []
    for name, topic in wanted_topics.items():
        there = standing.topics.get(name)
        if there is not None:
            _check_ours(plan, "topic", name, there.labels, adopt=adopt)
        changes += _topic_changes(topic, there)
    for name, subscription in wanted.items():
        found = standing.subscriptions.get(name)
        if found is not None:
            _check_ours(plan, "subscription", name, found.labels, adopt=adopt)
        changes += _subscription_changes(subscription, found)
    return [*changes, *removal(plan, standing, {*wanted, *wanted_topics})]


def removal(plan: Plan, standing: Standing, kept: Collection[str] = ()) -> list[Change]:
    """What deletes all that has the stack's labels but what is kept: subscriptions, then topics."""
    ours = ownership(plan.app, plan.stack)
    places: tuple[tuple[Kind, Mapping[str, Any]], ...] = (
        ("subscription", standing.subscriptions),
        ("topic", standing.topics),
    )
    return [
        _deletion(kind, name)
        for kind, there in places
        for name in sorted(there)
        if name not in kept and _has(there[name].labels, ours)
    ]


def carry_out(
    changes: Sequence[Change], requests: Requests, told: Callable[[Change], None]
) -> None:
    """Make the changes; `told` hears of each. Raises `ServiceError`, which says how far it came."""
    for number, change in enumerate(changes):
        try:
            change.run(requests)
        except GoogleAPICallError as error:
            raise ServiceError(
                f"{change.action} {change.kind} {change.name}: {error} ({number} of {len(changes)} "
                "changes were made; apply again to go on)",
                code=error_code(error),
            ) from error
        told(change)


# ---- what there shall be


def _topics(plan: Plan) -> dict[str, Topic]:
    # The dead letters come first: a queue never exists without them.
    names = [queue.dead_topic for queue in plan.queues] + [queue.topic for queue in plan.queues]
    made = (Topic(name=_path(plan, "topics", name), labels=dict(plan.labels)) for name in names)
    return {topic.name: topic for topic in made}


def _subscriptions(plan: Plan, *, emulator: bool) -> dict[str, Subscription]:
    dead = [_dead(plan, queue, emulator) for queue in plan.queues]
    made = [*dead, *(_subscription(plan, queue, emulator) for queue in plan.queues)]
    return {each.name: each for each in made}


def _dead(plan: Plan, queue: Queue, emulator: bool) -> Subscription:
    return Subscription(
        name=_path(plan, "subscriptions", queue.dead_subscription),
        topic=_path(plan, "topics", queue.dead_topic),
        ack_deadline_seconds=_LOOKING,
        **_kept(plan, queue, emulator),
    )


def _subscription(plan: Plan, queue: Queue, emulator: bool) -> Subscription:
    low, high = (timedelta(seconds=each) for each in queue.backoff)
    made = Subscription(
        name=_path(plan, "subscriptions", queue.subscription),
        topic=_path(plan, "topics", queue.topic),
        ack_deadline_seconds=queue.ack_deadline,
        enable_message_ordering=queue.fifo,
        filter=queue.filter,
        dead_letter_policy=DeadLetterPolicy(
            dead_letter_topic=_path(plan, "topics", queue.dead_topic),
            max_delivery_attempts=queue.max_attempts,
        ),
        retry_policy=RetryPolicy(minimum_backoff=low, maximum_backoff=high),
        **_kept(plan, queue, emulator),
    )
    if queue.url is not None:
        email = plan.email(plan.push_account)
        made.push_config = PushConfig(
            push_endpoint=queue.url,
            oidc_token=PushConfig.OidcToken(service_account_email=email, audience=queue.url),
        )
    return made


def _kept(plan: Plan, queue: Queue, emulator: bool) -> dict[str, Any]:
    retention = min(queue.retention, _SHORT_RETENTION) if emulator else queue.retention
    return {
        "message_retention_duration": timedelta(seconds=retention),
        "expiration_policy": ExpirationPolicy(),  # never
        "labels": dict(plan.labels),
    }


def _path(plan: Plan, kind: str, name: str) -> str:
    return f"projects/{plan.project}/{kind}/{name}"


# ---- how it differs


def _check_ours(
    plan: Plan, kind: str, name: str, labels: Mapping[str, str], *, adopt: bool
) -> None:
    stack = labels.get("cloudq-stack")
    if stack is None and adopt:
        return
    if not _has(labels, ownership(plan.app, plan.stack)):
        whose = f"of the stack {stack}" if stack else "not labelled as this stack's"
        hint = "take another --stack" if stack else "--adopt takes it over, or take another --stack"
        raise ConfigurationError(f"the {kind} {name} is there and {whose}: {hint}")


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def _topic_changes(topic: Topic, there: Topic | None) -> Iterator[Change]:
    labels = _labels(topic.labels)
    if there is None:
        yield Change(
            action="create",
            kind="topic",
            name=topic.name,
            parts={"labels": ("", labels)},
            run=lambda to: to.publisher.create_topic(request=topic, retry=None, timeout=TIMEOUT),
        )
    elif not _has(there.labels, topic.labels):
        merged = Topic(name=topic.name, labels=dict(there.labels) | dict(topic.labels))
        request = UpdateTopicRequest(topic=merged, update_mask=FieldMask(paths=["labels"]))
        yield Change(
            action="update",
            kind="topic",
            name=topic.name,
            parts={"labels": (_labels(there.labels), labels)},
            run=lambda to: to.publisher.update_topic(request=request, retry=None, timeout=TIMEOUT),
        )


def _subscription_changes(wanted: Subscription, there: Subscription | None) -> Iterator[Change]:
    want = _parts(wanted, wanted.labels)
    if there is None:
        yield Change(
            action="create",
            kind="subscription",
            name=wanted.name,
            parts={name: ("", value) for name, value in want.items() if value},
            run=lambda to: to.subscriber.create_subscription(
                request=wanted, retry=None, timeout=TIMEOUT
            ),
        )
        return
    have = _parts(there, wanted.labels)
    known = wanted.push_config.push_endpoint != ""  # else it stays as it is
    parts = {
        name: (have[name], want[name])
        for name in want
        if have[name] != want[name] and (known or name not in _PUSH)
    }
    if not parts:
        return
    for name, (one, other) in parts.items():
        if name not in _PATHS:
            raise ConfigurationError(
                f"the subscription {wanted.name} has {name} {one!r}, and the plan {other!r}: that "
                "cannot be changed; name the queue otherwise, or delete the subscription once it "
                "is empty"
            )
    changed = Subscription(wanted, labels=dict(there.labels) | dict(wanted.labels))
    request = UpdateSubscriptionRequest(
        subscription=changed,
        update_mask=FieldMask(paths=sorted({_PATHS[name] for name in parts})),
    )
    yield Change(
        action="update",
        kind="subscription",
        name=wanted.name,
        parts=parts,
        run=lambda to: to.subscriber.update_subscription(
            request=request, retry=None, timeout=TIMEOUT
        ),
    )


def _parts(each: Subscription, ours: Mapping[str, str]) -> dict[str, str]:
    """A subscription as text, part by part; of the labels those that the plan has, too."""
    dead, retry, push = each.dead_letter_policy, each.retry_policy, each.push_config
    never = "expiration_policy" in each and not each.expiration_policy.ttl
    low, high = (_seconds(value) for value in (retry.minimum_backoff, retry.maximum_backoff))
    return {
        "topic": each.topic,
        "ordering": "on" if each.enable_message_ordering else "off",
        "filter": each.filter,
        "ack deadline": f"{each.ack_deadline_seconds} s",
        "dead letters": dead.dead_letter_topic,
        "deliveries": str(dead.max_delivery_attempts or ""),
        "backoff": f"{low}-{high} s" if "retry_policy" in each else "",
        "retention": f"{_seconds(each.message_retention_duration)} s",
        "expiration": "never" if never else f"{_seconds(each.expiration_policy.ttl)} s",
        "push to": push.push_endpoint,
        "push account": push.oidc_token.service_account_email,
        "labels": _labels({name: each.labels[name] for name in ours if name in each.labels}),
    }


def _seconds(value: Any) -> int:
    # A `timedelta` when it is read, whatever the SDK's types say.
    return int(value.total_seconds()) if value else 0


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _deletion(kind: Kind, name: str) -> Change:
    def run(to: Requests) -> None:
        if kind == "topic":
            to.publisher.delete_topic(topic=name, retry=None, timeout=TIMEOUT)
        else:
            to.subscriber.delete_subscription(subscription=name, retry=None, timeout=TIMEOUT)

    return Change(action="delete", kind=kind, name=name, parts={}, run=run)
