"""Tasks of Django 6 for tests, imported where the setting TASKS names cloudq's backend."""

from __future__ import annotations

from importlib import import_module
from typing import Any

task: Any = import_module("django.tasks").task


@task
def add(x: int, y: int) -> int:
    return x + y


@task
async def aadd(x: int, y: int) -> int:
    return x + y


@task
def fail(text: str) -> None:
    raise LookupError(text)


@task(takes_context=True)
def told(context: Any, more: str) -> list[Any]:
    result = context.task_result
    return [context.attempt, result.id, str(result.status), result.args, more]


@task(queue_name="mail", priority=10)
def mail(to: str) -> str:
    return to


@task
def odd() -> object:
    return object()
