"""The JSON API: the data of the pages, and a schema of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

import cloudq
from cloudq.dashboard.looks import Looks, Watch
from cloudq.dashboard.views import VIEWS, View
from cloudq.dashboard.visit import visit_of
from cloudq.text import json_text

_VERSION = "v1"


class Api:
    """Answers with the data of a page as JSON."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._views = {view.name: view for view in VIEWS}

    def serve(self, request: Request) -> Response:
        """Answer with the data of a view."""
        view = self._views.get(request.path_params["name"])
        if view is None:
            return answer({"error": "there is no such path: see /api/v1/schema"}, status=404)
        watch = Watch(self._looks)
        page = view.data(watch, visit_of(request))
        cost = {
            "requests": watch.requests,
            "requests_an_hour": watch.requests_an_hour,
            "dollars_an_hour": watch.dollars_an_hour,
            "refresh": self._looks.refresh,
        }
        return answer({"at": watch.at, "cost": cost, "data": page})

    def schema(self, request: Request) -> Response:
        """Answer with an OpenAPI description of the paths."""
        return answer(described(visit_of(request).base))


def answer(value: object, *, status: int = 200) -> Response:
    """Answer with any value as JSON, without secrets and control characters."""
    return Response(json_text(value), status_code=status, media_type="application/json")


def described(base: str) -> dict[str, Any]:
    """Describe the API as OpenAPI does."""
    schemas: dict[str, Any] = {}
    paths = {f"/api/{_VERSION}/{view.name}": {"get": _path(view, schemas)} for view in VIEWS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "cloudq dashboard", "version": cloudq.__version__},
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _path(view: View, schemas: dict[str, Any]) -> dict[str, Any]:
    made = dict(_schema(view.kind))
    schemas.update(made.pop("$defs", {}))
    name = f"{view.name.capitalize()}Data"
    schemas[name] = made
    content = {
        "type": "object",
        "required": ["at", "cost", "data"],
        "properties": {
            "at": {"type": "number", "description": "time of the oldest look, epoch seconds"},
            "cost": {"type": "object", "description": "billed requests of a look, and an hour"},
            "data": {"$ref": f"#/components/schemas/{name}"},
        },
    }
    return {
        "operationId": view.name,
        "summary": view.summary,
        "parameters": [
            {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
            for name, text in view.parameters.items()
        ],
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": content}}},
            "401": {"description": "nobody has signed in"},
        },
    }


@cache
def _schema(kind: type[Any]) -> Mapping[str, Any]:
    return TypeAdapter(kind).json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
