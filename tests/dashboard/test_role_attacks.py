"""Attacks of a user who may only look: arguments in places where one does not expect them."""

from __future__ import annotations

import json

import pytest

from cloudq import CloudQ
from cloudq.dashboard.access import Role, User
from cloudq.dashboard.pages import schedules
from cloudq.dashboard.site import Site
from cloudq.dashboard.visit import Visit
from cloudq.driver import Outgoing
from cloudq.messages.message import new_id
from cloudq.schedules.cloud_sync import Step
from cloudq.testing import drain
from tests.dashboard.conftest import signed_in

HIDDEN = "12 Side St"


@pytest.mark.parametrize(
    "wrong",
    [{"args": HIDDEN}, {"kwargs": [HIDDEN]}, {"args": [HIDDEN], "retries": HIDDEN},
     {"args": [HIDDEN], "no": HIDDEN}, {"args": [HIDDEN], "id": [HIDDEN]}, {"task": [HIDDEN]}],
)  # fmt: skip
def test_what_is_wrong_in_a_message_is_told_without_it(
    guarded: Site, app: CloudQ, wrong: dict[str, object]
) -> None:
    given: dict[str, object] = {"v": 1, "id": "an-id", "task": "shop.add", "args": []}
    body = given | wrong
    app.broker.driver.send("default", [Outgoing(id=new_id(), body=json.dumps(body).encode())])
    drain(app, ["default"])
    lars = signed_in(guarded, "lars")
    for path in ("/task?id=an-id", "/tasks", "/dead", "/letter?queue=default&id=an-id", "/"):
        assert HIDDEN not in lars.open(path)
        api = "/overview" if path == "/" else path
        assert HIDDEN not in lars.client.get(f"/api/v1{api}").text


def test_what_is_refused_is_in_the_program_s_log(
    guarded: Site, caplog: pytest.LogCaptureFixture
) -> None:
    lars = signed_in(guarded, "lars")
    lars.open("/queues")
    assert lars.send("/act/purge", [("csrf", lars.csrf()), ("name", "mail")]).status_code == 403
    assert "lars may not operate: /act/purge is refused" in caplog.text


def test_what_the_cloud_s_scheduler_sends_is_hidden() -> None:
    parts = {"Target.Input": (f'{{"args": ["{HIDDEN}"]}}', None), "State": ("ENABLED", "DISABLED")}
    step = Step(action="update", name="daily", parts=parts)

    def seen(role: Role) -> str:
        visit = Visit(user=User(name="x", role=role), session=None)
        return "; ".join(schedules.change_of(step, visit).parts)

    assert seen(Role.LOOK) == "Target.Input; State"
    assert HIDDEN in seen(Role.OPERATE)
