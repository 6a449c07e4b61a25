"""The running call as a task sees it in `self.request`, with the fields as Celery has them."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

from cloudq.contrib.celery.values import OWN_TEXTS, read_headers
from cloudq.tasks.request import Request, current_request

REQUEST_FIELDS = frozenset(each.name for each in fields(Request))

SHOWN = (
    "self.request has the texts of argsrepr and kwargsrepr; events and the dashboard show the "
    "arguments themselves, unless task_events_args is false"
)


class CallView:
    """A view of the running call; its other fields are those of `cloudq.tasks.request.Request`.

    Attributes of the program's own are kept as long as the call runs.
    """

    def __init__(self, call: Request) -> None:
        vars(self)["call"] = call

    @property
    def id(self) -> str | None:
        """The id of the call; None for one that is made as a function."""
        return self._call.id or None

    @property
    def headers(self) -> Mapping[str, Any] | None:
        """The headers with the types that they were given; None for none."""
        given = {name: text for name, text in self._call.headers.items() if name not in OWN_TEXTS}
        return read_headers(given) if given else None

    @property
    def utc(self) -> None:
        """None, as in Celery: every message has its times in UTC."""
        return None

    @property
    def delivery_info(self) -> Mapping[str, Any] | None:
        """The queue of the message; its priority is 0, since a message does not carry one."""
        call = self._call
        if call.called_directly:
            return None
        if call.is_eager:
            return {"is_eager": True, "exchange": None, "routing_key": None, "priority": None}
        found = {name: value for name, value in call.delivery_info.items() if name != "is_eager"}
        return {**found, "priority": 0}

    @property
    def properties(self) -> Mapping[str, Any] | None:
        """The properties that a message of Celery's would have; None where there is no message."""
        info = self.delivery_info
        if info is None or self._call.is_eager:
            return None
        return {**self._call.properties, "delivery_info": info}

    @property
    def argsrepr(self) -> str:
        """The positional arguments as text; where the caller gave another text, that."""
        return self._given("argsrepr") or self._call.argsrepr

    @property
    def kwargsrepr(self) -> str:
        """The keyword arguments as text; where the caller gave another text, that."""
        return self._given("kwargsrepr") or self._call.kwargsrepr

    def _given(self, name: str) -> str | None:
        """Return the text that the caller gave; what follows a call has its headers, but not it."""
        caller, found, text = self._call.headers.get(f"celery-{name}", "").partition(" ")
        return text if found and caller == (self._call.parent_id or "-") else None

    @property
    def _call(self) -> Request:
        return vars(self)["call"]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field or a header of the call, or the default if it has none of this name."""
        return getattr(self, name, default)

    def update(self, *given: Mapping[str, Any], **more: Any) -> None:
        """Set fields."""
        for name, value in dict(*given, **more).items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" or "call" not in vars(self):  # while it is copied
            raise AttributeError(name)
        if not hasattr(Request, name) and name in (headers := self.headers or {}):
            return headers[name]
        return getattr(self._call, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in REQUEST_FIELDS:
            setattr(self._call, name, value)
        else:
            vars(self)[name] = value

    def __eq__(self, other: object) -> bool:
        return self._call == (other._call if isinstance(other, CallView) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Context: {self._call!r}>"


_latest: ContextVar[CallView | None] = ContextVar("latest_view", default=None)


def view_of(call: Request) -> CallView:
    """Return the view of a call, the same one each time while it runs."""
    view = _latest.get()
    if view is None or vars(view)["call"] is not call:
        view = CallView(call)
        _latest.set(view)
    return view


def text_of(name: str) -> Any:
    """Make what carries the text of a call's arguments as a header, with the id of its caller."""

    def carry(text: Any) -> dict[str, str]:
        request = current_request.get()
        return {f"celery-{name}": f"{'-' if request is None else request.id} {text}"}

    return carry
