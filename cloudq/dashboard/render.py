"""Renders templates: everything that is written into a page is made safe on its way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from cloudq.dashboard import drawing, plots, static, words
from cloudq.dashboard.gate import Refusal
from cloudq.dashboard.looks import Watch
from cloudq.dashboard.navigation import NAVIGATION
from cloudq.dashboard.visit import Visit, guest


@cache
def templates() -> Environment:
    """Make the environment of the templates, once."""
    made = Environment(
        loader=PackageLoader("cloudq.dashboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=words.shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Any] = {
        "when": words.when,
        "duration": words.duration,
        "since": words.since,
        "number": words.number,
        "dollars": words.dollars,
        "size": words.size,
        "lines": words.lines,
        "plural": words.plural,
    }
    made.filters.update(filters)
    named: dict[str, Any] = {
        "static": static.path_of,
        "navigation": NAVIGATION,
        "sparkline": plots.sparkline,
        "bars": plots.bars,
        "meter": plots.meter,
        "picture": drawing.picture,
        "keep": words.keep,
        "dash": words.DASH,
    }
    made.globals.update(named)
    return made


def prepare() -> None:
    """Compile all templates, so that no first reader waits for that."""
    for name in templates().list_templates(extensions=["html"]):
        templates().get_template(name)


def fragment(template: str, visit: Visit, values: Mapping[str, Any]) -> str:
    """Render a template with the values of a page."""
    return templates().get_template(template).render(visit=visit, **values)


def page(
    template: str,
    visit: Visit,
    values: Mapping[str, Any],
    *,
    watch: Watch | None = None,
    status: int = 200,
) -> HTMLResponse:
    """Answer with a whole page, with the notices that wait for its reader."""
    session = visit.session
    notices = list(session.notices) if session is not None else []
    html = fragment(template, visit, {"watch": watch, "notices": notices, **values})
    if session is not None:
        del session.notices[: len(notices)]
    return HTMLResponse(html, status_code=status)


def trouble(title: str, text: str, visit: Visit, *, status: int) -> HTMLResponse:
    """Answer with a page that says what is wrong, and what to do."""
    return page("trouble.html", visit, {"title": title, "text": text, "here": ""}, status=status)


def refused(refusal: Refusal, base: str) -> HTMLResponse:
    """Answer a request that the gate has refused."""
    made = trouble("Refused", f"{refusal.reason}.", guest(base), status=refusal.status)
    for name, value in refusal.headers.items():
        made.headers[name] = value
    return made
