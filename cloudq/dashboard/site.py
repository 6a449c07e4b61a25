"""Puts the dashboard together as an ASGI app: routes behind the gate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from cloudq.app import CloudQ
from cloudq.dashboard import static
from cloudq.dashboard.access import Access
from cloudq.dashboard.api import Api
from cloudq.dashboard.desk import Desk
from cloudq.dashboard.gate import Gate, Hosts
from cloudq.dashboard.live import Hub
from cloudq.dashboard.looks import Looks, Watch
from cloudq.dashboard.pages import dead as dead_page
from cloudq.dashboard.render import page, refused, trouble
from cloudq.dashboard.sessions import Sessions
from cloudq.dashboard.throttle import Throttle
from cloudq.dashboard.views import VIEWS, View
from cloudq.dashboard.visit import Visit, visit_of
from cloudq.driver.log import Log
from cloudq.errors import CloudQError, ConfigurationError
from cloudq.operations import audit, dead_letters
from cloudq.operations.audit import Actor
from cloudq.operations.overview import is_billed
from cloudq.text import describe

log = Log("cloudq.dashboard")

REFRESH, REFRESH_BILLED = 2.0, 15.0
"""Seconds between two looks of an open page, by default, and where requests are billed."""
_FASTEST, _SLOWEST = 0.5, 3600.0


class Site:
    """A dashboard over one app."""

    def __init__(self, app: CloudQ, *, access: Access, refresh: float | None = None) -> None:
        if refresh is not None and not _FASTEST <= refresh <= _SLOWEST:
            raise ConfigurationError(
                f"refresh is {refresh:g}: give seconds, {_FASTEST:g} to {_SLOWEST:g}"
            )
        self.app = app
        self.looks = Looks(app, refresh or (REFRESH_BILLED if is_billed(app) else REFRESH))
        self.hub = Hub(self.looks)
        self.sessions = Sessions()
        self.throttle = Throttle()
        self.desk = Desk(app, self.looks, access, self.sessions, self.throttle)
        self._access = access

    def asgi(self, hosts: Iterable[str]) -> ASGIApp:
        """Return the ASGI app; `hosts` are the names by which browsers may call it."""
        api = Api(self.looks)
        desk = self.desk
        routes = [
            *(Route(view.path, partial(self._page, view), methods=["GET"]) for view in VIEWS),
            Route("/login", desk.sign_in_form, methods=["GET"]),
            Route("/login", desk.sign_in, methods=["POST"]),
            Route("/logout", desk.sign_out, methods=["POST"]),
            Route("/theme", desk.theme, methods=["POST"]),
            Route("/job", desk.job, methods=["GET"]),
            Route("/stop", desk.stop, methods=["POST"]),
            Route("/act/{name}", desk.act, methods=["POST"]),
            Route("/download/dead", self._download, methods=["POST"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/keys", self._keys, methods=["GET"]),
            Route("/api/v1/schema", api.schema, methods=["GET"]),
            Route("/api/v1/{name}", api.serve, methods=["GET"]),
            Route("/static/{name}", static.serve, methods=["GET"]),
            Route("/healthz", _healthy, methods=["GET"]),
        ]
        inner = Starlette(
            routes=routes,
            exception_handlers={404: _not_found, 405: _not_found, Exception: _broken},
        )
        inner.router.redirect_slashes = False
        return Gate(
            inner,
            access=self._access,
            hosts=Hosts.of(hosts),
            sessions=self.sessions,
            throttle=self.throttle,
            refused=refused,
            app_name=self.app.name,
        )

    def _page(self, view: View, request: Request) -> Response:
        visit = visit_of(request)
        watch = Watch(self.looks)
        values = {"page": view.data(watch, visit), "view": view, "here": view.path, "site": self}
        return page(f"{view.name}.html", visit, values | self._said(), watch=watch)

    def _said(self) -> dict[str, object]:
        """Return what every page tells of the app."""
        return {"billed": is_billed(self.app), "refresh": self.looks.refresh}

    async def _live(self, request: Request) -> Response:
        visit = visit_of(request)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return self.hub.respond(visit, partial(self._still_there, visit))

    def _still_there(self, visit: Visit) -> bool:
        """Tell whether the session of an open page goes on."""
        session = visit.session
        if self._access.is_open or session is None or session.user is None:
            return True
        return self.sessions.find(self.sessions.cookie(session)) is not None

    def _keys(self, request: Request) -> Response:
        return page("keys.html", visit_of(request), {"here": ""})

    def _download(self, request: Request) -> Response:
        """Answer with dead letters as JSON lines, whole, with their arguments."""
        visit = visit_of(request)
        assert visit.user is not None  # the gate lets nobody else send a form
        queue = visit.form.get("queue") or None
        chosen = dead_page.filter_of(visit.form)
        try:
            found = dead_letters.search(self.app, chosen, queue)
        except CloudQError as error:
            return trouble("Not done", describe(error), visit, status=409)
        by = Actor(who=visit.user.name, via="dashboard")
        what = f"{f'queue {queue}' if queue else 'all queues'}, {chosen}"
        audit.write(self.app, by, "export dead letters", what, count=found.matched)
        headers = {"content-disposition": 'attachment; filename="dead-letters.jsonl"'}
        lines = _lines(dead_letters.export(found.letters))
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


def asgi(
    app: CloudQ,
    *,
    access: Access | None = None,
    hosts: Iterable[str] = (),
    refresh: float | None = None,
) -> ASGIApp:
    """Make the dashboard of an app as an ASGI app, to be served or mounted.

    `access` says who may use it (see `cloudq.dashboard.access`); left out, whoever comes from this
    machine may operate, and nobody else comes in. `hosts` are the names of the site: a browser that
    calls another is refused. `refresh` are the seconds between two looks of an open page: 2, or 15
    where requests are billed. Raises `ConfigurationError`.
    """
    return Site(app, access=access or Access(), refresh=refresh).asgi(hosts)


def _lines(found: Iterator[str]) -> Iterator[str]:
    for line in found:
        yield f"{line}\n"


def _healthy(request: Request) -> Response:
    return JSONResponse({"ok": True})


def _not_found(request: Request, error: Exception) -> Response:
    visit = visit_of(request)
    if visit.path.startswith("/api/"):
        return JSONResponse({"error": "there is no such path: see /api/v1/schema"}, 404)
    return trouble("No such page", "There is no such page here.", visit, status=404)


def _broken(request: Request, error: Exception) -> Response:
    log.exception("a page of the dashboard failed: %s", request.url.path, exc_info=error)
    text = f"{type(error).__name__} while this page was made: the log of the dashboard has more."
    return trouble("This page failed", text, visit_of(request), status=500)
