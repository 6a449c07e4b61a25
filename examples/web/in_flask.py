"""Flask: each task runs in the application's context, by a middleware.

cloudq worker -A in_flask
gunicorn --preload --workers 2 --threads 4 in_flask:web
curl -X POST http://127.0.0.1:8000/orders/7
"""

from __future__ import annotations

from flask import Flask, current_app

from cloudq import Call, CloudQ, Context

web = Flask(__name__)
web.config["SHOP_CENTS"] = 100


def in_web_context(call: Call) -> Call:
    """Give a task `current_app`, and what extensions such as Flask-SQLAlchemy find by it."""

    def run(context: Context) -> object:
        with web.app_context():
            return call(context)

    return run


app = CloudQ("shop", middleware=[in_web_context])


@app.task
def charge(order: int) -> int:
    """Charge an order; returns the amount in cents."""
    shop = current_app.config.get_namespace("SHOP_")
    return order * int(shop["cents"])


@web.post("/orders/<int:order>")
def order(order: int) -> tuple[dict[str, str], int]:
    """Send a call."""
    return {"id": charge.delay(order).id}, 202


@web.get("/calls/<id>")
def state(id: str) -> dict[str, str | int | None]:
    """Read how far a call is."""
    call = charge.AsyncResult(id)
    return {"state": call.state, "value": call.get() if call.successful() else None}
