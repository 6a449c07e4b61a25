"""The tables of Celery's options of tasks and of calls that cloudq renames or lacks."""

from __future__ import annotations

from cloudq.contrib.celery.requests import text_of
from cloudq.contrib.celery.rules import Table, carried, ignored, refused
from cloudq.contrib.celery.values import (
    compression,
    from_now,
    headers,
    publish_policy_of,
    seconds,
)

_NO_EXCHANGE = "there are no exchanges: a call goes to a queue, name it with queue="
_CONNECTION = "the app keeps the connection, and opens it when it is first used"

TASK_OPTIONS = Table(
    "task option",
    [
        *refused(
            "delivery is at least once, and a message is acknowledged after its task: a task "
            "that must not run twice says idempotent=True",
            "acks_late",
            fine=(True,),
        ),
        *refused(
            "a message whose worker died comes back, max_deliveries times at most: 1 is once",
            "reject_on_worker_lost retry_on_worker_lost",
            fine=(True, None),
        ),
        *refused(
            "a task that failed has ended; dead_letter=True keeps its message",
            "acks_on_failure_or_timeout acks_on_failure acks_on_timeout",
            fine=(True, None),
        ),
        *refused(
            "the result of a failed task is kept as any other, or not with ignore_result",
            "store_errors_even_if_ignored",
            fine=(False,),
        ),
        *refused(
            "results lie in the app's one store",
            "backend",
            fine=(None,),
        ),
        *refused(
            "it is the app's, Celery(strict_typing=False); a task's is typing=False",
            "strict_typing",
            fine=(True,),
        ),
        *refused(
            _NO_EXCHANGE,
            "exchange routing_key",
            fine=(None,),
        ),
        *ignored(
            "every task is found by its name in its own app alone",
            "shared",
            fine=(False,),
        ),
        *ignored(
            "a task is made when it is declared",
            "lazy",
        ),
        *ignored(
            "a failure is logged in one line, whatever its class",
            "throws",
        ),
        *ignored(
            "a result knows the tasks before it, whoever made them",
            "trail",
        ),
        *ignored(
            "events are the worker's: worker_send_task_events",
            "send_events",
        ),
        *ignored(
            "arguments and results are not logged",
            "resultrepr_maxsize",
        ),
        *refused(
            "an eager result is its caller's alone",
            "store_eager_result",
            fine=(False, None),
        ),
        *refused(
            "a worker's parts cannot be exchanged: use middleware",
            "Request Strategy",
        ),
        *refused(
            "models are validated and written as their own configuration says: see ConfigDict",
            "pydantic_strict pydantic_context pydantic_dump_kwargs",
            fine=(None,),
        ),
        carried("typing"),
        carried("compression", read=compression),
        carried("time_limit", read=seconds),
        carried("soft_time_limit", read=seconds),
        carried("expires", read=seconds),
    ],
)

CALL_OPTIONS = Table(
    "call option",
    [
        *refused(
            _NO_EXCHANGE,
            "exchange routing_key exchange_type",
            fine=(None, ""),
        ),
        *refused(
            _CONNECTION,
            "connection producer publisher",
            fine=(None,),
        ),
        *refused(
            "a call's place in a workflow is its signature's: use chain, group and chord",
            "root_id parent_id group_id group_index chord parent reply_to",
            fine=(None,),
        ),
        *ignored(
            "a call logs as its worker does",
            "loglevel logfile",
        ),
        *ignored(
            "a cloud's queue is durable",
            "delivery_mode mandatory immediate",
        ),
        *ignored(
            "a result knows the tasks before it, whoever made them",
            "add_to_parent",
        ),
        carried("argsrepr", "headers", read=text_of("argsrepr")),
        carried("kwargsrepr", "headers", read=text_of("kwargsrepr")),
        *ignored(
            "a message says by itself in what form it is",
            "content_type content_encoding",
        ),
        *ignored(
            "queues are made with `cloudq queues create`",
            "declare",
        ),
        *refused(
            "a message has headers, and no other properties: give headers={...}",
            "app_id cluster_id message_id timestamp type user_id expiration",
        ),
        *refused(
            "a call carries headers, and no stamps: give headers={...}",
            "stamped_headers",
        ),
        carried("compression", read=compression),
        carried("headers", read=headers),
        carried("retry"),
        carried("retry_policy", read=publish_policy_of),
        carried("countdown", read=from_now),
        carried("expires", read=from_now),
    ],
)
