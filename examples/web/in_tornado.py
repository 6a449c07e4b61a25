"""Tornado: `adelay` in a handler, in processes that Tornado forks.

cloudq worker -A in_tornado
python in_tornado.py
curl -X POST http://127.0.0.1:8000/orders/7
"""

from __future__ import annotations

import asyncio
from socket import socket

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application, RequestHandler

from cloudq import CloudQ

app = CloudQ("shop")


@app.task
def charge(order: int) -> int:
    """Charge an order; returns the amount in cents."""
    return order * 100


class Order(RequestHandler):
    """Sends a call; the event loop has other requests meanwhile."""

    async def post(self, order: str) -> None:
        """Answer with the id of the call."""
        result = await charge.adelay(int(order))
        self.set_status(202)
        self.finish({"id": result.id})


class State(RequestHandler):
    """Reads how far a call is, in a thread, since that blocks."""

    async def get(self, id: str) -> None:
        """Answer with the state, and with the value if there is one."""
        self.finish(await asyncio.to_thread(self._read, id))

    def _read(self, id: str) -> dict[str, str | int | None]:
        call = charge.AsyncResult(id)
        return {"state": call.state, "value": call.get() if call.successful() else None}


async def serve(sockets: list[socket]) -> None:
    """Answer requests until the process is stopped."""
    server = HTTPServer(Application([(r"/orders/(\d+)", Order), (r"/calls/(.+)", State)]))
    server.add_sockets(sockets)
    await asyncio.Event().wait()


def main(port: int = 8000) -> None:
    """Serve on a port of this machine, in two processes."""
    sockets = bind_sockets(port, "127.0.0.1")
    fork_processes(2)
    asyncio.run(serve(sockets))


if __name__ == "__main__":
    main()
