"""FastAPI: `adelay` in a path operation, a call as a dependency, and a lifespan that closes.

cloudq worker -A in_fastapi
uvicorn in_fastapi:web --port 8000
curl -X POST http://127.0.0.1:8000/orders/7
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI

from cloudq import AsyncResult, CloudQ

app = CloudQ("shop")


@app.task
def charge(order: int) -> int:
    """Charge an order; returns the amount in cents."""
    return order * 100


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncGenerator[None]:
    """Close the queue's connections when the server stops; the first call opens them."""
    yield
    await asyncio.to_thread(app.close)


web = FastAPI(lifespan=lifespan)


def known(id: str) -> AsyncResult[int]:
    """The call of an id. Here is the place to see that it is one of this user's."""
    return charge.AsyncResult(id)


@web.post("/orders/{order}", status_code=202)
async def order(order: int) -> dict[str, str]:
    """Send a call; the event loop has other requests meanwhile."""
    result = await charge.adelay(order)
    return {"id": result.id}


@web.get("/calls/{id}")
def state(call: Annotated[AsyncResult[int], Depends(known)]) -> dict[str, str | int | None]:
    """Read how far a call is: it blocks, so this is no `async def`, and FastAPI gives a thread."""
    return {"state": call.state, "value": call.get() if call.successful() else None}
