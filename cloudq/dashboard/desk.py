"""Signing in and out, and the actions: confirmed with their number, then carried out and logged."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from cloudq.app import CloudQ
from cloudq.dashboard.access import Access, User
from cloudq.dashboard.actions import dead, others
from cloudq.dashboard.actions.plan import Action, Done, Plan
from cloudq.dashboard.gate import THEME
from cloudq.dashboard.jobs import Job, Jobs, new_job
from cloudq.dashboard.looks import Looks
from cloudq.dashboard.questions import Question, Questions
from cloudq.dashboard.render import page, trouble
from cloudq.dashboard.sessions import KNOWN, SESSION, Session, Sessions
from cloudq.dashboard.throttle import Guess, Throttle
from cloudq.dashboard.visit import THEMES, Visit, cookie_header, split_url, visit_of
from cloudq.errors import CloudQError
from cloudq.operations import audit
from cloudq.operations.audit import Actor
from cloudq.text import describe

ACTIONS = {action.name: action for action in (*dead.ACTIONS, *others.ACTIONS)}
"""The actions by name."""

# Longer ones are watched on a page of their own.
_PATIENCE = 1.5
_YEAR = 31_536_000


class Desk:
    """The POST requests of a dashboard. Every check but that of the password is the gate's."""

    def __init__(
        self, app: CloudQ, looks: Looks, access: Access, sessions: Sessions, throttle: Throttle
    ) -> None:
        self._app = app
        self._looks = looks
        self._access = access
        self._sessions = sessions
        self._throttle = throttle
        self._jobs = Jobs(self._stopped)
        self._one_at_a_time = threading.Lock()
        self._questions = Questions()

    # ---- signing in

    def sign_in_form(self, request: Request) -> Response:
        """Show the form."""
        visit = visit_of(request)
        if visit.user is not None:
            return RedirectResponse(visit.url("/"), status_code=303)
        return self._form(visit, visit.query.get("next"))

    def sign_in(self, request: Request) -> Response:
        """Check a name and a password, or a token, and begin a new session."""
        visit = visit_of(request)
        form, session = visit.form, visit.session
        name, after = form.get("name").strip()[:200], form.get("next")
        browser = self._sessions.recognises(visit.cookie(KNOWN), name)
        guess = Guess(address=visit.peer, name=name, browser=browser)
        # One at a time: a hundred guesses at once cost no more memory than one.
        with self._one_at_a_time:
            wait = self._throttle.wait(guess)
            if wait:
                text = f"Too many wrong tries: wait {int(wait) + 1} s."
                answer = self._form(visit, after, name=name, error=text, status=429)
                answer.headers["retry-after"] = str(int(wait) + 1)
                return answer
            user = self._known(name, form.get("password"))
            if user is None:
                self._throttle.wrong(guess)
            else:
                self._throttle.right(guess)
        if user is None:
            # What is typed in the wrong field may be a password.
            said = name if self._access.knows(name) else "unknown"
            audit.log.warning("a sign-in failed: name %s, from %s", said, visit.peer)
            text = "This name and password do not go together."
            return self._form(visit, after, name=name, error=text, status=401)
        if session is not None:
            self._sessions.end(session)
        begun = self._sessions.begin(user)
        answer = RedirectResponse(visit.base + _local(after), status_code=303)
        _set(answer, visit, SESSION, self._sessions.cookie(begun))
        _set(answer, visit, KNOWN, self._sessions.recognised(name), age=_YEAR)
        return answer

    def sign_out(self, request: Request) -> Response:
        """End the session."""
        visit = visit_of(request)
        if visit.session is not None:
            self._sessions.end(visit.session)
        answer = RedirectResponse(visit.url("/login"), status_code=303)
        _set(answer, visit, SESSION, "", age=0)
        return answer

    def theme(self, request: Request) -> Response:
        """Keep a theme in a cookie."""
        visit = visit_of(request)
        chosen = visit.form.get("theme")
        answer = RedirectResponse(visit.base + _local(visit.form.get("back")), status_code=303)
        if chosen in THEMES:
            _set(answer, visit, THEME, chosen, age=_YEAR)
        return answer

    def _known(self, name: str, secret: str) -> User | None:
        if not name:
            return self._access.by_token(secret) if secret else None
        return self._access.by_password(name, secret)

    def _form(
        self, visit: Visit, after: str, *, name: str = "", error: str = "", status: int = 200
    ) -> Response:
        values = {
            "next": after,
            "name": name,
            "error": error,
            "has_passwords": bool(self._access.passwords),
            "has_tokens": bool(self._access.tokens),
            "here": "/login",
        }
        return page("login.html", visit, values, status=status)

    # ---- acting

    def act(self, request: Request) -> Response:
        """Ask for the confirmation of an action; when it is confirmed, carry it out."""
        visit = visit_of(request)
        action = ACTIONS.get(request.path_params["name"])
        if action is None:
            return trouble("No such action", "There is no such action.", visit, status=404)
        back = _local(visit.form.get("back") or action.back)
        confirmed = bool(visit.form.get("confirmed"))
        if confirmed:
            question = self._questions.answer(visit.form.get("once"), _session(visit), action.name)
            if question is None:
                return self._failed(visit, "This was sent already, and is done once.", back)
            visit = replace(visit, confirmed=question.things)
        try:
            plan = action.plan(self._app, visit)
        except CloudQError as error:
            return self._failed(visit, describe(error), back)
        if plan.nothing is not None:
            return self._failed(visit, plan.nothing, back)
        if not confirmed:
            return self._ask(visit, action, plan, back)
        return self._carried_out(visit, plan, back)

    def _ask(self, visit: Visit, action: Action, plan: Plan, back: str) -> Response:
        form = visit.form
        kept = [(name, value) for name in action.fields for value in form.all(name)]
        if "id" not in action.fields and form.get("scope") != "all":
            kept += [("id", value) for value in form.all("id")]
        asked = Question(session=_session(visit), action=action.name, things=plan.things)
        values = {
            "plan": plan,
            "action": action,
            "kept": kept,
            "back": back,
            "once": self._questions.ask(asked),
            "here": action.back,
        }
        return page("confirm.html", visit, values)

    def _carried_out(self, visit: Visit, plan: Plan, back: str) -> Response:
        assert visit.user is not None  # the gate lets nobody else act
        actor = Actor(who=visit.user.name, via="dashboard")
        job = new_job(plan.question, visit.user.name, plan.number, back)
        try:
            self._jobs.start(job, partial(plan.run, actor))
        except CloudQError as error:
            return self._failed(visit, describe(error), back)
        # What is quick is over when its answer is sent; one that is not told of a number is.
        job.over.wait(_PATIENCE if plan.long else None)
        if job.ended is None:
            # It may be stopped, or end with this process: that it has begun is known.
            audit.write(self._app, actor, "begin", job.question, outcome="under way")
            return RedirectResponse(visit.url("/job", id=job.id), status_code=303)
        self._looks.forget()
        if job.error is not None:
            return self._failed(visit, job.error, back)
        done = job.done or Done(text="Done")
        if done.failed and plan.long:
            return RedirectResponse(visit.url("/job", id=job.id), status_code=303)
        _notice(visit.session, done)
        target = visit.base + (done.link or back)
        return RedirectResponse(target, status_code=303)

    def job(self, request: Request) -> Response:
        """Show how far an action is."""
        visit = visit_of(request)
        job = self._jobs.find(visit.query.get("id"))
        if job is None or not visit.operates:
            return trouble("No such action", "It is over, or never was.", visit, status=404)
        if job.ended is not None:
            self._looks.forget()
        return page("job.html", visit, {"job": job, "here": ""})

    def stop(self, request: Request) -> Response:
        """Stop an action that takes long."""
        visit = visit_of(request)
        job = self._jobs.find(visit.form.get("id"))
        if job is None:
            return trouble("No such action", "It is over, or never was.", visit, status=404)
        job.stopped_by = visit.user.name if visit.user is not None else job.who
        job.over.wait(_PATIENCE)
        return RedirectResponse(visit.url("/job", id=job.id), status_code=303)

    def _stopped(self, job: Job) -> None:
        by = Actor(who=job.stopped_by or job.who, via="dashboard")
        what = f"{job.question} (begun by {job.who})"
        audit.write(self._app, by, "stop", what, count=job.handled, outcome=job.error or "")

    @staticmethod
    def _failed(visit: Visit, text: str, back: str) -> Response:
        values = {"title": "Not done", "text": text, "here": back.partition("?")[0]}
        return page("trouble.html", visit, values | {"back": back}, status=409)


def _session(visit: Visit) -> str:
    assert visit.session is not None  # the gate takes no form without one
    return visit.session.id


def _set(answer: Response, visit: Visit, name: str, value: str, *, age: int | None = None) -> None:
    header = cookie_header(name, value, visit.base, visit.is_secure, age)
    answer.headers.append("set-cookie", header)


def _notice(session: Session | None, done: Done) -> None:
    if session is not None:
        session.notices.append(done.text)
        session.notices += done.failed
        del session.notices[:-20]


def _local(path: str) -> str:
    """Return a path of this dashboard; its start page for anything that leads elsewhere."""
    parts = split_url(path)
    is_local = path.startswith("/") and not path.startswith(("//", "/\\"))
    has_odd = any(sign in path for sign in "\\\r\n\t") or not path.isprintable()
    leads_off = parts is None or bool(parts.netloc or parts.scheme)
    return "/" if leads_off or not is_local or has_odd else path
