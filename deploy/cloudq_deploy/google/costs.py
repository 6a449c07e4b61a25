"""Estimates the costs of a plan on Google Cloud: an idle month, and a million tasks.

Prices are list prices of a tier 1 region (us-central1) in US dollars, without free tiers, from
Google's pages about Cloud Run, Pub/Sub, Firestore, Cloud Scheduler and Cloud Observability in
2025. They were not looked up again, so do that before you rely on them. A month has 730 hours.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudq.amounts import counted
from cloudq_deploy.costs import Assumed, Cost
from cloudq_deploy.google.plan import Function, Plan

_MILLION = 1_000_000
_MONTH = 730 * 3600
_REQUEST = 0.40  # per million
_CPU, _MEMORY = 0.000024, 0.0000025  # per vCPU and second, per GiB and second
_IDLE_CPU = 0.0000025  # per vCPU and second of a warm instance that waits
_PUBSUB = 40 / 1024  # per GiB published or delivered; a message counts as 1 KB at least
_READ, _WRITE, _DELETE = 0.30, 0.90, 0.10  # per million
_LOG = 0.50  # per GiB ingested
_JOB = 0.10  # per month
_ALERT = 0.10  # per condition and month
# The CPU of a function with up to so much memory in MB, unless the plan sets it.
_CPU_BY_MEMORY = ((128, 1 / 12), (256, 1 / 6), (512, 1 / 3), (1024, 7 / 12), (2048, 1.0))


def idle(plan: Plan) -> Sequence[Cost]:
    """Estimate a month in which no task is called."""
    warm = sum(each.min_instances * _MONTH * _warm(each) for each in plan.functions)
    found = [
        Cost(
            of=f"{counted(len(plan.jobs), 'job')} of Cloud Scheduler", amount=len(plan.jobs) * _JOB
        ),
        Cost(of=counted(len(plan.alerts), "alert condition"), amount=len(plan.alerts) * _ALERT),
        Cost(of="instances kept warm", amount=warm),
    ]
    return [cost for cost in found if cost.amount]


def _warm(function: Function) -> float:
    return _cpu(function) * _IDLE_CPU + function.memory / 1024 * _MEMORY


def million(plan: Plan, function: Function, assumed: Assumed) -> Sequence[Cost]:
    """Estimate a million tasks of this function, each pushed by itself."""
    seconds = _MILLION * assumed.seconds / function.concurrency
    per_second = _cpu(function) * _CPU + function.memory / 1024 * _MEMORY
    gib = 1024**3
    found = [
        Cost(of="Pub/Sub: published and pushed", amount=2 * _MILLION * 1000 / gib * _PUBSUB),
        Cost(of="Cloud Run: requests", amount=_REQUEST),
        Cost(of="Cloud Run: time", amount=seconds * per_second),
        Cost(
            of="Firestore: two reads, a write, a delete",
            amount=(2 * _READ + _WRITE + _DELETE) if plan.store else 0,
        ),
        Cost(of="logs", amount=_MILLION * assumed.logged / gib * _LOG),
    ]
    return [cost for cost in found if cost.amount]


def _cpu(function: Function) -> float:
    if function.cpu is not None:
        return float(function.cpu)
    return next((cpu for memory, cpu in _CPU_BY_MEMORY if function.memory <= memory), 2.0)


def assumptions(assumed: Assumed) -> str:
    """Describe the assumptions of the estimate."""
    return (
        f"a task runs {assumed.seconds:g} s, logs {assumed.logged} B and is a push of its own; "
        "message and record are under 1 KB; each result is read once and expires; list prices of "
        "us-central1 in USD as of 2025, no free tier"
    )
