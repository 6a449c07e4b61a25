"""Estimates the costs of a plan on AWS: an idle month, and a million tasks.

Prices are list prices of us-east-1 in US dollars, without free tiers, as of 2026; look them up
before you rely on them. A month has 730 hours.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.amounts import counted
from cloudq_deploy.aws.plan import Function, Plan
from cloudq_deploy.costs import Assumed, Cost

_MILLION = 1_000_000
_MONTH = 730 * 3600
_SQS, _SQS_FIFO = 0.40, 0.50  # per million requests
_LAMBDA = 0.20  # per million requests
_SECOND = {"arm64": 0.0000133334, "x86_64": 0.0000166667}  # per GB and second
_KEPT_WARM = {"arm64": 0.0000033334, "x86_64": 0.0000041667}  # per GB and second
_WRITE, _READ = 0.625, 0.125  # per million, of 1 KB and of 4 KB
_LOG = 0.50  # per GB ingested
_ALARM = 0.10  # per month
_TRACE = 5.00  # per million
# An event source mapping polls an idle queue with five pollers that wait 20 s each.
_POLLS = 5 * _MONTH / 20


def idle(plan: Plan) -> Sequence[Cost]:
    """Estimate a month in which no task is called."""
    polls = sum(_POLLS * (_SQS_FIFO if queue.fifo else _SQS) / _MILLION for queue in plan.queues)
    warm = sum(_warm(function) for function in plan.functions)
    found = [
        Cost(of=f"polling {counted(len(plan.queues), 'idle queue')}", amount=polls),
        Cost(of=counted(len(plan.alarms), "alarm"), amount=len(plan.alarms) * _ALARM),
        Cost(of="functions kept warm", amount=warm),
    ]
    return [cost for cost in found if cost.amount]


def _warm(function: Function) -> float:
    price = _KEPT_WARM[function.architecture]
    return function.provisioned * function.memory / 1024 * _MONTH * price


def million(plan: Plan, function: Function, assumed: Assumed) -> Sequence[Cost]:
    """Estimate a million tasks of this function."""
    together = min([assumed.together, *_sizes(plan, function)])
    fifo = all(queue.fifo for queue in plan.fed(function))
    request = _SQS_FIFO if fifo else _SQS
    seconds = _MILLION * assumed.seconds * function.memory / 1024
    found = [
        Cost(of="SQS: send, receive, delete", amount=(1 + 2 / together) * request),
        Cost(of="Lambda: invocations", amount=_LAMBDA / together),
        Cost(of="Lambda: time", amount=seconds * _SECOND[function.architecture]),
        Cost(
            of="DynamoDB: a write and two reads", amount=(_WRITE + 2 * _READ) if plan.table else 0
        ),
        Cost(of="logs", amount=_MILLION * assumed.logged / 1e9 * _LOG),
        Cost(of="traces", amount=_TRACE / together if function.tracing == "Active" else 0),
    ]
    return [cost for cost in found if cost.amount]


def assumptions(assumed: Assumed) -> str:
    """Describe the assumptions of the estimate."""
    return (
        f"a task runs {assumed.seconds:g} s, logs {assumed.logged} B and is sent by itself; "
        f"{assumed.together} come in one invocation; message and record are under 1 KB; each "
        "result is read once; list prices of us-east-1 in USD, no free tier"
    )


def _sizes(plan: Plan, function: Function) -> list[int]:
    return [feed.batch_size for feed in plan.mappings if feed.function == function.name]
