"""`async def` tasks: a worker process runs many that wait, on one event loop.

cloudq worker -A async_fetch --processes 1 --threads 50
python async_fetch.py
"""

from __future__ import annotations

import asyncio
import time

from cloudq import CloudQ

app = CloudQ("fetch")


@app.task(soft_time_limit=10)
async def fetch(host: str, port: int, path: str) -> int:
    """The length of a page, by the plainest HTTP there is."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
    return len(answer.partition(b"\r\n\r\n")[2])


async def slow_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server whose every answer takes half a second."""
    request = await reader.readline()
    await asyncio.sleep(0.5)
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * int(request.split()[1].strip(b"/")))
    await writer.drain()
    writer.close()


async def main() -> None:
    """Fetch 40 pages from a slow server on this machine."""
    server = await asyncio.start_server(slow_page, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        start = time.monotonic()
        calls = [fetch.prepare(host, port, f"/{number}") for number in range(40)]
        results = await asyncio.to_thread(app.publish, calls)
        lengths = await asyncio.gather(*results)
        took = time.monotonic() - start
    print(f"{len(lengths)} pages, {sum(lengths)} bytes")
    print("one after the other it would take 20 s" if took < 20 else f"that took {took:.0f} s")


if __name__ == "__main__":
    asyncio.run(main())
