"""The files that come with the pages: a style sheet, a script, and htmx, all from this package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

# A table and no folder: no path of a request ever reaches the file system.
_FILES = {
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_YEAR = 31_536_000


@cache
def _content(name: str) -> tuple[bytes, str]:
    """Return a file and the beginning of its hash."""
    data = files("cloudq.dashboard").joinpath("static", name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:16]


def path_of(name: str) -> str:
    """Return the path of a file, which changes with its content."""
    return f"/static/{name}?v={_content(name)[1]}"


def serve(request: Request) -> Response:
    """Answer with a file that comes with the pages."""
    name = request.path_params["name"]
    if name not in _FILES:
        return PlainTextResponse("there is no such file\n", status_code=404)
    data, tag = _content(name)
    headers = {"etag": f'"{tag}"', "cache-control": f"public, max-age={_YEAR}, immutable"}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_FILES[name], headers=headers)
