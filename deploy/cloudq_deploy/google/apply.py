"""Makes the topics and subscriptions of a plan: finds the differences, then changes them.

Only topics and subscriptions with the stack's labels are changed or deleted. One request lists
all topics of the project, one all subscriptions; then each change is one request.
"""

# The SDK is typed in part only.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from google.api_core.exceptions import GoogleAPICallError
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1.types import (
    DeadLetterPolicy,
    DeleteSubscriptionRequest,
    DeleteTopicRequest,
    ExpirationPolicy,
    PushConfig,
    RetryPolicy,
    Subscription,
    Topic,
    UpdateSubscriptionRequest,
    UpdateTopicRequest,
)

from cloudq.amounts import counted
from cloudq.errors import ConfigurationError, ServiceError
from cloudq_deploy.google.plan import Plan, Queue
from cloudq_deploy.google.planner import ownership
from cloudq_gcp.calls import TIMEOUT
from cloudq_gcp.errors import error_code
from cloudq_gcp.pubsub_requests import Requests

Kind = Literal["topic", "subscription"]
Request = (
    Topic
    | UpdateTopicRequest
    | DeleteTopicRequest
    | Subscription
    | UpdateSubscriptionRequest
    | DeleteSubscriptionRequest
)
# The field of a request for each part of a subscription; other parts cannot be changed.
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
_EMULATOR_RETENTION = 7 * 86_400  # the longest that the emulator allows
_DEAD_DEADLINE = 60  # seconds for somebody who inspects dead letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a topic or a subscription, by its full name.

    `parts` are the values before and after; `request` makes the change.
    """

    action: Literal["create", "update", "delete"]
    kind: Kind
    name: str
    parts: Mapping[str, tuple[str, str]]
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectState:
    """The topics and subscriptions of a project, by full name."""

    topics: Mapping[str, Topic]
    subscriptions: Mapping[str, Subscription]


def look(plan: Plan, requests: Requests) -> ProjectState:
    """Read the topics and subscriptions of the project. Raises `ServiceError`."""
    project = f"projects/{plan.project}"
    try:
        topics = list(requests.publisher.list_topics(project=project, retry=None, timeout=TIMEOUT))
        found = requests.subscriber.list_subscriptions(project=project, retry=None, timeout=TIMEOUT)
        subscriptions = list(found)
    except GoogleAPICallError as error:
        raise ServiceError(
            f"cannot list the topics of {plan.project}: {error}", code=error_code(error)
        ) from error
    return ProjectState(
        topics={topic.name: topic for topic in topics},
        subscriptions={each.name: each for each in subscriptions},
    )


def propose(
    plan: Plan, state: ProjectState, *, adopt: bool = False, emulator: bool = False
) -> list[Change]:
    """Work out the changes that make the project equal to the plan, in order.

    Raises `ConfigurationError` for a resource of somebody else, and for a difference that Pub/Sub
    cannot change.
    """
    wanted_topics = _topics(plan)
    wanted = _subscriptions(plan, emulator=emulator)
    changes: list[Change] = []
    for name, topic in wanted_topics.items():
        there = state.topics.get(name)
        if there is not None:
            _check_ours(plan, "topic", name, there.labels, adopt=adopt)
        changes += _topic_changes(topic, there)
    for name, subscription in wanted.items():
        found = state.subscriptions.get(name)
        if found is not None:
            _check_ours(plan, "subscription", name, found.labels, adopt=adopt)
        changes += _subscription_changes(subscription, found)
    return [*changes, *removal(plan, state, {*wanted, *wanted_topics})]


def removal(plan: Plan, state: ProjectState, kept: Collection[str] = ()) -> list[Change]:
    """Work out the deletions of the stack's subscriptions and topics, without those `kept`."""
    ours = ownership(plan.app, plan.stack)
    places: tuple[tuple[Kind, Mapping[str, Any]], ...] = (
        ("subscription", state.subscriptions),
        ("topic", state.topics),
    )
    return [
        _deletion(kind, name)
        for kind, there in places
        for name in sorted(there)
        if name not in kept and _has(there[name].labels, ours)
    ]


def carry_out(
    changes: Sequence[Change], requests: Requests, tell: Callable[[Change], None]
) -> None:
    """Make the changes, and call `tell` with each that is made.

    Raises `ServiceError` that says how many were made.
    """
    for number, change in enumerate(changes):
        try:
            _make(change, requests)
        except GoogleAPICallError as error:
            raise ServiceError(
                f"cannot {change.action} {change.kind} {change.name}: {error}. {number} of "
                f"{counted(len(changes), 'change')} made: apply again to go on",
                code=error_code(error),
            ) from error
        tell(change)


def _make(change: Change, requests: Requests) -> None:
    publisher, subscriber = requests.publisher, requests.subscriber
    match change.request:
        case Topic() as topic:
            publisher.create_topic(request=topic, retry=None, timeout=TIMEOUT)
        case UpdateTopicRequest() as update:
            publisher.update_topic(request=update, retry=None, timeout=TIMEOUT)
        case DeleteTopicRequest() as deletion:
            publisher.delete_topic(request=deletion, retry=None, timeout=TIMEOUT)
        case Subscription() as subscription:
            subscriber.create_subscription(request=subscription, retry=None, timeout=TIMEOUT)
        case UpdateSubscriptionRequest() as update:
            subscriber.update_subscription(request=update, retry=None, timeout=TIMEOUT)
        case DeleteSubscriptionRequest() as deletion:
            subscriber.delete_subscription(request=deletion, retry=None, timeout=TIMEOUT)


# ---- the wanted state


def _topics(plan: Plan) -> dict[str, Topic]:
    # Dead letters first, so that no queue exists without them.
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
        ack_deadline_seconds=_DEAD_DEADLINE,
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
    retention = min(queue.retention, _EMULATOR_RETENTION) if emulator else queue.retention
    return {
        "message_retention_duration": timedelta(seconds=retention),
        "expiration_policy": ExpirationPolicy(),  # never
        "labels": dict(plan.labels),
    }


def _path(plan: Plan, kind: str, name: str) -> str:
    return f"projects/{plan.project}/{kind}/{name}"


# ---- differences


def _check_ours(
    plan: Plan, kind: str, name: str, labels: Mapping[str, str], *, adopt: bool
) -> None:
    stack = labels.get("cloudq-stack")
    if stack is None and adopt:
        return
    if not _has(labels, ownership(plan.app, plan.stack)):
        if stack:
            raise ConfigurationError(
                f"the {kind} {name} exists and belongs to the stack {stack}: use another --stack"
            )
        raise ConfigurationError(
            f"the {kind} {name} exists and has no labels of this stack: take it over with --adopt, "
            "or use another --stack"
        )


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
            request=topic,
        )
    elif not _has(there.labels, topic.labels):
        merged = Topic(name=topic.name, labels=dict(there.labels) | dict(topic.labels))
        yield Change(
            action="update",
            kind="topic",
            name=topic.name,
            parts={"labels": (_labels(there.labels), labels)},
            request=UpdateTopicRequest(topic=merged, update_mask=FieldMask(paths=["labels"])),
        )


def _subscription_changes(wanted: Subscription, there: Subscription | None) -> Iterator[Change]:
    want = _parts(wanted, wanted.labels)
    if there is None:
        yield Change(
            action="create",
            kind="subscription",
            name=wanted.name,
            parts={name: ("", value) for name, value in want.items() if value},
            request=wanted,
        )
        return
    have = _parts(there, wanted.labels)
    # Without an address in the plan, pushing stays as it is.
    known = wanted.push_config.push_endpoint != ""
    parts = {
        name: (have[name], want[name])
        for name in want
        if have[name] != want[name] and (known or name not in _PUSH)
    }
    if not parts:
        return
    _check_changeable(wanted.name, parts)
    changed = Subscription(wanted, labels=dict(there.labels) | dict(wanted.labels))
    paths = sorted({_PATHS[name] for name in parts})
    yield Change(
        action="update",
        kind="subscription",
        name=wanted.name,
        parts=parts,
        request=UpdateSubscriptionRequest(subscription=changed, update_mask=FieldMask(paths=paths)),
    )


def _check_changeable(subscription: str, parts: Mapping[str, tuple[str, str]]) -> None:
    for name, (before, after) in parts.items():
        if name not in _PATHS:
            raise ConfigurationError(
                f"the subscription {subscription} has {name} {before!r}, and the plan {after!r}: "
                "Pub/Sub cannot change that: give the queue another name, or delete the "
                "subscription once it is empty"
            )


def _parts(each: Subscription, ours: Mapping[str, str]) -> dict[str, str]:
    """Describe the parts of a subscription as text; of its labels only `ours`."""
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
    # The SDK returns a `timedelta`, although it declares another type.
    return int(value.total_seconds()) if value else 0


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _deletion(kind: Kind, name: str) -> Change:
    request: Request = DeleteSubscriptionRequest(subscription=name)
    if kind == "topic":
        request = DeleteTopicRequest(topic=name)
    return Change(action="delete", kind=kind, name=name, parts={}, request=request)
