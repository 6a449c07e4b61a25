"""One request to the dashboard after its checks: who asks, from which session, with what form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlencode, urlsplit

from markupsafe import Markup, escape
from starlette.requests import HTTPConnection

from cloudq.dashboard.access import User
from cloudq.dashboard.questions import Thing
from cloudq.dashboard.sessions import Session

NAME = "cloudq.visit"
"""The key under which the gate leaves the visit in a request's scope."""

THEMES = ("auto", "light", "dark")
"""The themes of the pages; "auto" is the one of the reader's system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields of a form that was sent, each with its values in their order."""

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])

    def get(self, name: str, default: str = "") -> str:
        """Return the last value of a field."""
        values = self.fields.get(name)
        return values[-1] if values else default

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return list(self.fields.get(name, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A request that has passed the gate. `base` is the path under which the dashboard is.

    `confirmed` are the things that an action was confirmed for: it changes no others.
    """

    user: User | None
    session: Session | None
    base: str = ""
    path: str = "/"
    query: Form = field(default_factory=Form)
    form: Form = field(default_factory=Form)
    theme: str = "auto"
    cookies: Mapping[str, str] = field(default_factory=dict[str, str])
    is_secure: bool = False
    peer: str = ""
    confirmed: Set[Thing] | None = None
    app_name: str = ""

    @property
    def operates(self) -> bool:
        """Tell whether the user may act, and may see arguments."""
        return self.user is not None and self.user.may_operate

    def cookie(self, name: str) -> str:
        """Return the value of a cookie that this dashboard has set."""
        return self.cookies.get(cookie_name(name, self.base, self.is_secure), "")

    @property
    def csrf(self) -> str:
        """The token that a form of this session carries."""
        return self.session.csrf if self.session is not None else ""

    @property
    def here(self) -> str:
        """The path and query of this request, below `base`."""
        pairs = [(name, value) for name, all in self.query.fields.items() for value in all]
        return f"{self.path}?{urlencode(pairs)}" if pairs else self.path

    def url(self, path: str, **query: object) -> str:
        """Return a link to a page; values of None and empty ones are left out."""
        pairs = [(name, str(value)) for name, value in query.items() if value not in (None, "")]
        return f"{self.base}{path}?{urlencode(pairs)}" if pairs else f"{self.base}{path}"

    def link(self, path: str, **query: object) -> Markup:
        """Return `url` for a page, escaped once, since a link is no text to be made safe."""
        return escape(self.url(path, **query))


def visit_of(request: HTTPConnection) -> Visit:
    """Return the visit that the gate has made of a request."""
    found: Visit = request.scope[NAME]
    return found


def cookie_name(name: str, base: str, is_secure: bool) -> str:
    """Return the name under which a browser keeps a cookie.

    With its prefix no other site of the domain, and nobody on the way, can set it in its place.
    """
    return f"__Host-{name}" if is_secure and not base else name


def cookie_header(name: str, value: str, base: str, is_secure: bool, age: int | None = None) -> str:
    """Write a Set-Cookie header that no script and no other site can use."""
    name = cookie_name(name, base, is_secure)
    parts = [f"{name}={value}", f"Path={base or '/'}", "HttpOnly", "SameSite=Strict"]
    if age is not None:
        parts.append(f"Max-Age={age}")
    if is_secure:
        parts.append("Secure")
    return "; ".join(parts)


def split_url(text: str) -> SplitResult | None:
    """Return the parts of what a stranger gives as a URL; None for what cannot be one."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def guest(base: str = "") -> Visit:
    """Return the visit of nobody, for pages that say why a request was refused."""
    return Visit(user=None, session=None, base=base)
