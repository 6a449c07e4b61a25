"""Uses of cloudq's types, read by type checkers and never run.

A line that ends with `# refused` is one that every checker has to refuse, and it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from cloudq import AsyncResult, CloudQ, Node, Signature, Task, chain, chord, group, shared_task
from cloudq.results.eager import EagerResult
from cloudq.results.groups import GroupResult
from cloudq_aws import lambda_handler
from cloudq_azure import register
from cloudq_gcp import push_handler

app = CloudQ("shop")


@app.task
def add(x: int, y: int = 1) -> int:
    return x + y


@app.task(bind=True, max_retries=3, queue="mail")
def greet(self: Task[..., Any], name: str, *, loud: bool = False) -> str:
    return name.upper() if loud else name


@app.task(max_retries=3, rate_limit="10/m")
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task
def total(values: Sequence[int]) -> float:
    return sum(values)


@shared_task
def shared(n: int) -> list[str]:
    return [str(n)]


# ---- a task is the function that it was

assert_type(add(1, 2), int)
add("1")  # refused
add(1, 2, 3)  # refused

# ---- calls complete with the parameters of the task

assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(greet.delay("a", loud=True), AsyncResult[str])
assert_type(fetch.delay("u"), AsyncResult[bytes])
assert_type(shared.delay(1), AsyncResult[list[str]])
add.delay("1")  # refused
add.delay()  # refused
add.delay(1, z=2)  # refused
greet.delay("a", True)  # refused
fetch.delay(1)  # refused
assert_type(add.options(countdown=5).delay(1), AsyncResult[int])
add.options(countdown=5).delay("1")  # refused
add.prepare("1")  # refused
add.delay_on_commit("1")  # refused


# ---- options are checked by their names and types

assert_type(add.apply_async((1, 2), countdown=5, queue="mail"), AsyncResult[int])
assert_type(add.apply((1,)), EagerResult[int])
add.apply_async((1, 2), contdown=5)  # refused
add.apply_async((1, 2), countdown="5")  # refused
add.apply_async(1, 2)  # refused
add.options(contdown=5)  # refused


@app.task(max_retires=3)  # refused
def mistyped(x: int) -> int:
    return x


# ---- results

result = add.delay(1)
assert_type(result.get(timeout=5), int)
assert_type(add.AsyncResult(result.id), AsyncResult[int])
result.get(timeout="5")  # refused
text: str = result.get()  # refused


async def awaiting() -> None:
    assert_type(await add.delay(1), int)
    assert_type(await fetch.adelay("u"), AsyncResult[bytes])
    await add.adelay("1")  # refused


assert_type(app.publish([add.prepare(1), add.prepare(2)]), list[AsyncResult[int]])

# ---- signatures and workflows

assert_type(add.s(1, y=2), Signature[int])
assert_type(add.s(1), Signature[int])
assert_type(add.s(), Signature[int])  # in a chain the value before is the first argument
assert_type(add.si(1, 2), Signature[int])
add.si("1")  # refused
add.si(1, z=2)  # refused
assert_type(add.s(1).set(queue="mail").delay(), AsyncResult[int])
add.s(1).set(quue="mail")  # refused
assert_type(add.s(1) | greet.s(), Node[str])
assert_type((add.s(1) | greet.s()).delay(), AsyncResult[str])
assert_type(group([add.s(1), add.s(2)]).delay().get(), list[Any])
assert_type(chord([add.s(1), add.s(2)], total.s()).delay(), AsyncResult[float])
assert_type(add.map([1, 2]).delay().get(), list[int])
assert_type(add.starmap([(1, 2)]).delay().get(), list[int])
wrong: AsyncResult[int] = (add.s(1) | greet.s()).delay()  # refused
chain(1, 2)  # refused
assert_type(group([add.s(1)]).delay(), GroupResult[int])
assert_type((add.s(1) | group([greet.s(), greet.s()])).delay(), GroupResult[str])

# ---- functions

handler = lambda_handler(app)
lambda_handler("app")  # refused
push_handler(5)  # refused
register(5)  # refused
