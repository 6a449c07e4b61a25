"""The one door of the dashboard: every request is checked here before any page sees it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from starlette.datastructures import MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloudq.dashboard.access import Access, User
from cloudq.dashboard.sessions import SESSION, Session, Sessions
from cloudq.dashboard.throttle import Guess, Throttle
from cloudq.dashboard.visit import (
    NAME,
    THEMES,
    Form,
    Visit,
    cookie_header,
    cookie_name,
    split_url,
)
from cloudq.operations import audit

MOST_BYTES = 1_000_000
"""The largest body of a form."""
# A form of somebody who has not signed in has a name and a password.
_MOST_OF_NOBODY = 16_000
_MOST_FIELDS = 12_000
_LONGEST_QUERY = 8_000
_METHODS = frozenset({"GET", "HEAD", "POST"})
# Anybody may see these; they tell nothing of the app.
_PUBLIC = ("/static/", "/healthz")
# A user who only looks may send these.
_OWN = frozenset({"/login", "/logout", "/theme"})
THEME = "cloudq_theme"
_FORM = "application/x-www-form-urlencoded"
# Who comes through a proxy on this machine may come from anywhere.
_OF_PROXIES = ("x-forwarded-for", "forwarded", "x-real-ip", "via")

SECURITY: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
"""The headers of every answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The names by which a browser may call the dashboard.

    An address is always one: what a page of another site makes a browser call is a name, which
    its owner has pointed here (DNS rebinding).
    """

    names: frozenset[str] = frozenset()

    @staticmethod
    def of(names: Iterable[str]) -> Hosts:
        """Return these names, with those that this machine has."""
        own = {"localhost", socket.gethostname().lower()}
        return Hosts(names=frozenset(own | {name.lower().rstrip(".") for name in names}))

    def allows(self, host: str) -> bool:
        """Tell whether a Host header names this dashboard."""
        name = _host_name(host)
        if name is None:
            return False
        return name in self.names or _is_address(name)


class Refusal(Exception):
    """A request that is refused: the status, and the reason for people."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class Gate:
    """Checks hosts, sizes, users, sessions, CSRF tokens and roles, and adds security headers."""

    def __init__(
        self,
        inner: ASGIApp,
        *,
        access: Access,
        hosts: Hosts,
        sessions: Sessions,
        throttle: Throttle,
        refused: Callable[[Refusal, str], Response],
        app_name: str = "",
    ) -> None:
        self._inner = inner
        self._access = access
        self._hosts = hosts
        self._sessions = sessions
        self._throttle = throttle
        self._refused = refused
        self._app_name = app_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _joined(scope)
        is_secure = self._is_secure(scope, headers)
        try:
            visit, began = await self._admitted(scope, receive, headers, is_secure)
        except Refusal as refusal:
            response = self._answer(refusal, scope)
            await response(scope, receive, _with(send, scope, None, is_secure=is_secure))
            return
        scope[NAME] = visit
        cookie = self._sessions.cookie(began) if began is not None else None
        door = _with(send, scope, cookie, is_secure=is_secure)
        turned_away = self._turned_away(visit)
        await (turned_away or self._inner)(scope, receive, door)

    async def _admitted(
        self, scope: Scope, receive: Receive, headers: Mapping[str, str], is_secure: bool
    ) -> tuple[Visit, Session | None]:
        """Return the visit, and the session if it begins with it. Raises `Refusal`."""
        if not self._hosts.allows(headers.get("host", "")):
            raise Refusal(421, "this host name is not one of the dashboard's: see --allowed-host")
        if scope["method"] not in _METHODS:
            raise Refusal(405, "only GET and POST are known here", {"allow": "GET, HEAD, POST"})
        query = _fields(scope.get("query_string", b""), _LONGEST_QUERY, "query")
        base, path = _place(scope)
        peer = (scope.get("client") or ("", 0))[0]
        cookies = cookie_parser(headers.get("cookie", ""))
        session = self._sessions.find(cookies.get(cookie_name(SESSION, base, is_secure), ""))
        user = self._user(headers, peer, session, path)
        form = Form()
        if scope["method"] == "POST":
            self._check_origin(headers)
            form = await _body(receive, headers, MOST_BYTES if user else _MOST_OF_NOBODY)
            if session is None or not self._sessions.checks(session, form.get("csrf")):
                raise Refusal(403, "the form is too old, or is not of this page: load it again")
            if path not in _OWN and (user is None or not user.may_operate):
                audit.log.warning("%s may not operate: %s is refused", user and user.name, path)
                raise Refusal(403, "your role only looks: this needs the role operate")
        began = None
        if session is None and not path.startswith((*_PUBLIC, "/api/", "/live")):
            session = began = self._sessions.begin(None)
        theme = cookies.get(cookie_name(THEME, base, is_secure), "auto")
        visit = Visit(
            user=user,
            session=session,
            base=base,
            path=path,
            query=query,
            form=form,
            theme=theme if theme in THEMES else "auto",
            cookies=cookies,
            is_secure=is_secure,
            peer=self._access.client(peer, headers),
            app_name=self._app_name,
        )
        return visit, began

    def _user(
        self, headers: Mapping[str, str], peer: str, session: Session | None, path: str
    ) -> User | None:
        """Find out who asks; None for nobody that is known. Raises `Refusal`."""
        if self._access.is_open:
            if not _is_loopback(peer) or any(name in headers for name in _OF_PROXIES):
                raise Refusal(403, "this dashboard has no user, and is for its own machine alone")
            return self._access.open_user
        by_proxy = self._access.by_proxy(peer, headers)
        if by_proxy is not None:
            return by_proxy
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and path.startswith("/api/"):
            return self._by_token(token.strip(), self._access.client(peer, headers))
        return session.user if session is not None else None

    def _by_token(self, token: str, client: str) -> User | None:
        guess = Guess(address=client)
        wait = self._throttle.wait(guess)
        if wait:
            raise Refusal(429, "too many wrong tokens", {"retry-after": str(int(wait) + 1)})
        found = self._access.by_token(token)
        if found is None:
            self._throttle.wrong(guess)
        return found

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """Refuse a form that a page of another site has sent, whatever else it knows."""
        site = headers.get("sec-fetch-site", "same-origin")
        origin = headers.get("origin")
        if origin is None and (referrer := headers.get("referer")):
            origin = referrer
        if site not in ("same-origin", "none") or origin is None:
            raise Refusal(403, "the form comes from another site, or from nowhere")
        parts = split_url(origin)
        if parts is None or parts.netloc.lower() != headers.get("host", "").lower():
            raise Refusal(403, "the form comes from another site")

    def _is_secure(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """Tell whether the browser came by https, also where that ends at a trusted proxy."""
        if scope.get("scheme") == "https":
            return True
        peer = (scope.get("client") or ("", 0))[0]
        return self._access.is_proxy(peer) and headers.get("x-forwarded-proto") == "https"

    def _answer(self, refusal: Refusal, scope: Scope) -> Response:
        base, path = _place(scope)
        if path.startswith("/api/"):
            headers = dict(refusal.headers)
            return JSONResponse({"error": refusal.reason}, refusal.status, headers=headers)
        return self._refused(refusal, base)

    def _turned_away(self, visit: Visit) -> Response | None:
        """Return the answer to somebody who has to sign in first; None for others."""
        if visit.user is not None or visit.path.startswith((*_PUBLIC, "/login")):
            return None
        if visit.path.startswith(("/api/", "/live")):
            return JSONResponse(
                {"error": "sign in, or send a token: Authorization: Bearer TOKEN"},
                status_code=401,
                headers={"www-authenticate": "Bearer"},
            )
        if not self._access.signs_in:
            return PlainTextResponse(
                "The proxy in front of this dashboard has named no user.\n", status_code=403
            )
        after = "" if visit.path == "/" and not visit.query.fields else visit.here
        target = f"{visit.base}/login"
        return RedirectResponse(
            f"{target}?next={quote(after, safe='')}" if after else target, status_code=303
        )


def _with(send: Send, scope: Scope, cookie: str | None, *, is_secure: bool) -> Send:
    """Return `send` with the security headers, and the cookie of a session that begins."""
    base, _ = _place(scope)

    async def door(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name, value in SECURITY.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
            # What a page has set itself, at sign-in and sign-out, stands.
            has_own = any(SESSION in value for value in headers.getlist("set-cookie"))
            if cookie is not None and not has_own:
                headers.append("set-cookie", cookie_header(SESSION, cookie, base, is_secure))
            message["headers"] = headers.raw
        await send(message)

    return door


def _joined(scope: Scope) -> dict[str, str]:
    """Return the headers by name; one that was sent more than once has all its values.

    A proxy adds its word to what a browser has claimed: the last of a list is the proxy's, and a
    name that is said twice is that of nobody.
    """
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
        sign = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{sign}{text}" if name in found else text
    return found


def _place(scope: Scope) -> tuple[str, str]:
    """Return the path under which the dashboard is, and the path below it."""
    base = str(scope.get("root_path", "")).rstrip("/")
    path = str(scope["path"])
    below = path[len(base) :] if base and path.startswith(base) else path
    return base, below or "/"


async def _body(receive: Receive, headers: Mapping[str, str], most: int) -> Form:
    """Read a form of so many bytes at most. Raises `Refusal`."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Refusal(415, f"a form is sent as {_FORM}")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise Refusal(413, f"a form has {most:,} bytes at most")
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the form was not sent whole")
        data += message.get("body", b"")
        if len(data) > most:
            raise Refusal(413, f"a form has {most:,} bytes at most")
        if not message.get("more_body"):
            return _fields(bytes(data), most, "form")


def _fields(raw: bytes, longest: int, name: str) -> Form:
    if len(raw) > longest:
        raise Refusal(414 if name == "query" else 413, f"the {name} is too long")
    try:
        text = raw.decode("ascii")
        found: dict[str, Sequence[str]] = {
            **parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="replace")
        }
    except ValueError as error:
        raise Refusal(400, f"the {name} cannot be read") from error
    return Form(fields=found)


def _host_name(host: str) -> str | None:
    """Return the name in a Host header, without its port; None for what is no host."""
    parts = split_url(f"//{host}")
    if parts is None or parts.netloc != host or "@" in host:
        return None
    return (parts.hostname or "").lower().rstrip(".") or None


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
