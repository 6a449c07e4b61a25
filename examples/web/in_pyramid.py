"""Pyramid: each task has the application's registry and a request, as a script has.

cloudq worker -A in_pyramid
waitress-serve --port 8000 in_pyramid:web
curl -X POST http://127.0.0.1:8000/orders/7
"""

from __future__ import annotations

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.router import Router
from pyramid.scripting import prepare
from pyramid.threadlocal import get_current_registry

from cloudq import Call, CloudQ, Context


def in_web_environment(call: Call) -> Call:
    """Give a task what `pyramid.threadlocal` finds."""

    def run(context: Context) -> object:
        with prepare(registry=web.registry):
            return call(context)

    return run


app = CloudQ("shop", middleware=[in_web_environment])


@app.task
def charge(order: int) -> int:
    """Charge an order; returns the amount in cents."""
    return order * int(get_current_registry().settings["shop.cents"])


def order(request: Request) -> dict[str, str]:
    """Send a call."""
    request.response.status = 202
    return {"id": charge.delay(int(request.matchdict["order"])).id}


def state(request: Request) -> dict[str, str | int | None]:
    """Read how far a call is."""
    call = charge.AsyncResult(request.matchdict["id"])
    return {"state": call.state, "value": call.get() if call.successful() else None}


def main(global_config: object = None, **settings: str) -> Router:
    """Make the web application, as a `paste.app_factory` does."""
    with Configurator(settings={"shop.cents": "100", **settings}) as config:
        config.add_route("order", r"/orders/{order:\d+}", request_method="POST")
        config.add_route("call", "/calls/{id}")
        config.add_view(order, route_name="order", renderer="json")
        config.add_view(state, route_name="call", renderer="json")
        return config.make_wsgi_app()


web = main()
