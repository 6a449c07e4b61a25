"""Estimates the costs of a plan on Azure: an idle month, and a million tasks.

Prices are list prices of East US in US dollars, without free grants, from Azure's pages about
Functions (Flex Consumption, on demand), Service Bus, Table storage and Azure Monitor in 2025. They
were not looked up again, so do that before you rely on them. A month has 730 hours.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.amounts import counted
from cloudq_deploy.azure.plan import Plan
from cloudq_deploy.costs import Assumed, Cost

_MILLION = 1_000_000
_MONTH = 730 * 3600
_NAMESPACE = {False: 9.81, True: 677.08}  # per month, Standard and one unit of Premium
_OPERATION = 0.80  # per million on Standard; Premium has no such price
_EXECUTION = 0.40  # per million
_TIME, _READY = 0.000026, 0.000004  # per GB and second: running, and waiting
_TABLE = 0.045  # per million transactions
_LOG = 2.30  # per GB ingested
_ALERT = 0.10  # per month


def idle(plan: Plan) -> Sequence[Cost]:
    """Estimate a month in which no task is called."""
    ready = sum(queue.always_ready for queue in plan.queues) * plan.function_app.memory / 1024
    found = [
        Cost(of="the namespace of Service Bus", amount=_NAMESPACE[plan.premium]),
        Cost(of=counted(len(plan.alerts), "alert"), amount=len(plan.alerts) * _ALERT),
        Cost(of="instances that are always ready", amount=ready * _MONTH * _READY),
    ]
    return [cost for cost in found if cost.amount]


def million(plan: Plan, assumed: Assumed) -> Sequence[Cost]:
    """Estimate a million tasks, each a separate execution; `together` share an instance."""
    function_app = plan.function_app
    together = min(assumed.together, function_app.concurrency)
    seconds = _MILLION * assumed.seconds / together
    found = [
        Cost(
            of="Service Bus: send, receive, complete",
            amount=0 if plan.premium else 3 * _OPERATION,
        ),
        Cost(of="Functions: executions", amount=_EXECUTION),
        Cost(of="Functions: time", amount=seconds * function_app.memory / 1024 * _TIME),
        Cost(of="Tables: a write and two reads", amount=3 * _TABLE if plan.table else 0),
        Cost(of="logs", amount=_MILLION * assumed.logged / 1e9 * _LOG),
    ]
    return [cost for cost in found if cost.amount]


def assumptions(assumed: Assumed) -> str:
    """Describe the assumptions of the estimate."""
    return (
        f"a task runs {assumed.seconds:g} s, logs {assumed.logged} B and is a separate execution; "
        f"{assumed.together} run in an instance at a time; message and record are under 1 "
        "KB; each result is read once; list prices of East US in USD as of 2025, no free grant"
    )
