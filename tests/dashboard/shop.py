"""The app that the tests of the dashboard look at, and a browser without JavaScript."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from cloudq import CloudQ, chord, crontab
from cloudq.testing import drain, eventually

OWN = "http://127.0.0.1:5555"


def shop(broker: str, **settings: Any) -> CloudQ:
    """Make an app with tasks that succeed, fail and are dead-lettered."""
    app = CloudQ(
        "shop",
        broker=broker,
        task_events="tracked",
        task_track_started=True,
        default_retry_delay=0.0,
        **settings,
    )

    @app.task(name="shop.charge", dead_letter=True, max_retries=0)
    def charge(order: int, address: str = "Main St", api_key: str = "") -> str:  # pyright: ignore[reportUnusedFunction]
        if order % 2:
            raise ValueError(f"card of order {order % 10} was refused")
        if address == "nowhere":
            raise LookupError("no such address")
        return f"paid {order}"

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(bind=True, name="shop.gated")
    def gated(self: Any, name: str, number: int) -> int:
        """Wait until a test opens the gate."""
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 4})
        eventually((Path(os.environ["SHOP_GATES"]) / name).exists)
        return number

    @app.task(name="shop.gates")
    def gates() -> None:  # pyright: ignore[reportUnusedFunction]
        chord([gated.s(f"gate-{n}", n) for n in range(3)], total.s()).delay()

    @app.task(name="shop.mail", queue="mail")
    def mail(to: str) -> str:  # pyright: ignore[reportUnusedFunction]
        return to

    @app.task(name="shop.workflow")
    def workflow() -> None:  # pyright: ignore[reportUnusedFunction]
        chord([add.s(n, n) for n in range(3)], total.s()).delay()

    app.periodic(crontab(hour=7, minute=0), name="daily", args=("all",))(app.tasks["shop.mail"])
    return app


def fill(app: CloudQ, letters: int = 6) -> str:
    """Send some calls, run those on the default queue, and return the id of one that failed."""
    failed = app.send_task("shop.charge", [1], {"address": "Side St", "api_key": "k-123456789"})
    for number in range(1, letters):
        app.send_task("shop.charge", [number * 2 + 1])
    app.send_task("shop.add", [2, 3])
    app.send_task("shop.mail", ["a@example.com"])
    drain(app, ["default"])
    return failed.id


@dataclass
class Form:
    """A form of a page: its action, its fields in their order, and its buttons."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    boxes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    buttons: list[tuple[str, str | None, tuple[str, str] | None]] = field(
        default_factory=list[tuple[str, "str | None", "tuple[str, str] | None"]]
    )


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._button: dict[str, str | None] | None = None
        self._area: str | None = None
        self._select: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        got = dict(attrs)
        if tag == "form":
            self._form = Form(action=got.get("action") or "", method=got.get("method") or "get")
            self.forms.append(self._form)
        if self._form is None:
            return
        name, value = got.get("name"), got.get("value") or ""
        if tag == "input" and name:
            kept = self._form.boxes if got.get("type") == "checkbox" else self._form.fields
            kept.append((name, value))
        elif tag == "button":
            self._button, self._text = got, ""
        elif tag == "textarea":
            self._area, self._text = name, ""
        elif tag == "select":
            self._select = name
            self._form.fields.append((name or "", ""))
        elif tag == "option" and "selected" in got and self._select:
            self._form.fields[-1] = (self._select, value)

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if self._form is None:
            return
        if tag == "button" and self._button is not None:
            named = self._button.get("name")
            pair = (named, self._button.get("value") or "") if named else None
            text = " ".join(self._text.split())
            self._form.buttons.append((text, self._button.get("formaction"), pair))
            self._button = None
        elif tag == "textarea" and self._area:
            self._form.fields.append((self._area, self._text))
            self._area = None
        elif tag == "form":
            self._form = None


class Browser:
    """A browser without JavaScript: it keeps cookies, follows links, and sends forms."""

    def __init__(self, asgi: Any, *, peer: str = "127.0.0.1", base: str = OWN) -> None:
        self.base = base
        self.client = TestClient(
            asgi, base_url=base, client=(peer, 50_000), raise_server_exceptions=True
        )
        self.text = ""
        self.status = 0
        self.path = ""

    def open(self, path: str, **headers: str) -> str:
        """Load a page, and return its text."""
        answer = self.client.get(path, headers=headers)
        self._see(answer)
        return self.text

    def press(self, label: str, *, tick: int = 0, origin: str | None = None, **given: str) -> str:
        """Press a button of the page, with some boxes ticked and fields filled in."""
        form, action, pair = self._find(label)
        fields = [(name, given.pop(name, value)) for name, value in form.fields]
        fields += given.items()
        fields += [box for box in form.boxes if box[0]][:tick]
        fields += [pair] if pair else []
        if form.method == "get":
            query = [(name, value) for name, value in fields if value]
            answer = self.client.get(action or form.action, params=query)
        else:
            answer = self.send(action or form.action, fields, origin=origin)
        self._see(answer)
        return self.text

    def send(self, path: str, fields: list[tuple[str, str]], *, origin: str | None = None) -> Any:
        """Send a form."""
        data: dict[str, list[str]] = {}
        for name, value in fields:
            data.setdefault(name, []).append(value)
        return self.client.post(path, data=data, headers={"origin": origin or self.base})

    def csrf(self) -> str:
        """Return the token of the last page."""
        forms = _Forms()
        forms.feed(self.text)
        return next(value for f in forms.forms for name, value in f.fields if name == "csrf")

    def buttons(self) -> list[str]:
        """Return the labels of the buttons of the page."""
        forms = _Forms()
        forms.feed(self.text)
        return [label for form in forms.forms for label, _, _ in form.buttons]

    def _find(self, label: str) -> tuple[Form, str | None, tuple[str, str] | None]:
        forms = _Forms()
        forms.feed(self.text)
        for form in forms.forms:
            for text, action, pair in form.buttons:
                if text == label:
                    return form, action, pair
        raise AssertionError(f"no button {label!r} among {self.buttons()}")

    def _see(self, answer: Any) -> None:
        self.text, self.status = answer.text, answer.status_code
        self.path = str(answer.url).removeprefix(self.base)
