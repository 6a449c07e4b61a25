"""`cloudq keys`: makes, lists and checks keys, and what is shown to who has none."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from cloudq import CloudQ
from cloudq.testing import drain
from tests.cli.conftest import Run

APP = ("-A", "shop:app")
K1, K2 = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
UNKNOWN = "sealed with key 'k1', which is not among encryption_keys"
MARK = "the-card-4111"


def env(*names: str, current: str | None = None) -> dict[str, str | None]:
    keys = {name: {"k1": K1, "k2": K2}[name] for name in names}
    return {"CLOUDQ_ENCRYPTION_KEYS": json.dumps(keys), "CLOUDQ_ENCRYPTION_KEY": current}


@pytest.fixture
def history(project: Path) -> dict[str, str]:
    """The project's file with a success, a failure with its dead letter, and one that waits."""
    url = f"sqlite:///{project}/shop.db"
    with CloudQ("shop", broker=url, encryption_keys={"k1": K1}, task_events="final") as app:

        @app.task(name="shop.send")
        def send(to: str) -> str:
            return to

        @app.task(name="shop.fail", dead_letter=True, max_retries=0)
        def fail(what: str) -> None:
            raise ValueError(what)

        ids = {"send": send.delay(MARK).id, "fail": fail.delay(MARK).id}
        drain(app)
        ids["waits"] = send.delay(MARK).id
    return ids


def test_a_new_key_is_one_that_is_taken(command: Run) -> None:
    made = command("keys", "new", "k9", "--json").json
    assert made["id"] == "k9"
    assert len(base64.b64decode(made["key"])) == 32
    shown = command("keys", "new").out
    line = next(line for line in shown.splitlines() if "CLOUDQ_ENCRYPTION_KEYS=" in line)
    setting = line.partition("'")[2].rstrip("'")
    [(id, key)] = json.loads(setting).items()
    listed = command("keys", "list", *APP, "--json", env={"CLOUDQ_ENCRYPTION_KEYS": setting})
    assert [(row["id"], row["role"]) for row in listed.json] == [(id, "encrypts, opens")]
    assert key not in listed.out
    assert command("keys", "new", "no good").code == 2


def test_a_new_key_with_the_id_of_another_is_warned_of(command: Run) -> None:
    warned = command("keys", "new", "k1", *APP, "--json", env=env("k1"))
    assert warned.json["id"] == "k1"
    assert "the app has a key k1 already" in warned.err
    assert "already" not in command("keys", "new", "k2", *APP, env=env("k1")).err
    assert command("keys", "new", "k1", "-A", "shop:gone", "--json").json["id"] == "k1"


def test_a_new_key_without_an_id_has_none_of_the_app(command: Run) -> None:
    today = command("keys", "new", *APP, "--json").json["id"]
    taken = {"CLOUDQ_ENCRYPTION_KEYS": json.dumps({today: K1})}
    assert command("keys", "new", *APP, "--json", env=taken).json["id"] != today


def test_keys_are_listed_without_a_secret(command: Run) -> None:
    signing = {"CLOUDQ_SIGNING_KEYS": json.dumps({"s1": "s" * 32})}
    ran = command("keys", "list", *APP, env={**env("k1", "k2", current="k2"), **signing})
    rows = [line.split() for line in ran.lines[1:]]
    assert [row[0] for row in rows] == ["k1", "k2", "s1"]
    assert [" ".join(row[2:-1]) for row in rows] == ["opens", "encrypts, opens", "signs, verifies"]
    for secret in (K1, K2, "s" * 32):
        assert secret not in ran.out + ran.err
    assert "no keys" in command("keys", "list", *APP).out + command("keys", "list", *APP).err


def test_check_opens_what_is_there(command: Run, history: dict[str, str]) -> None:
    ran = command("keys", "check", *APP, "--json", env=env("k1"))
    assert ran.code == 0
    [use] = ran.json["uses"]
    assert (use["queued"], use["dead"]) == (1, 1)
    assert use["stored"] >= 2
    wrong = {"CLOUDQ_ENCRYPTION_KEYS": json.dumps({"k1": K2})}
    ran = command("keys", "check", *APP, env=wrong)
    assert ran.code == 1
    assert "do not open" in ran.out
    assert "changed, or not what key 'k1' has encrypted" in ran.out
    ran = command("keys", "check", *APP, env=env("k2"))
    assert ran.code == 1
    assert "not among encryption_keys" in ran.out
    assert command("keys", "check", *APP).code == 2


def test_check_tells_of_a_service_that_does_not_answer(command: Run) -> None:
    url = "awskms://k?region=us-east-1&endpoint_url=http://127.0.0.1:9"
    access = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    keys = {"CLOUDQ_ENCRYPTION_KEYS": json.dumps({"kms": url})}
    assert command("queues", "create", "default", *APP).code == 0
    ran = command("keys", "check", *APP, env={**access, **keys})
    assert ran.code == 1
    assert "no answer" in ran.out


def test_rotate_says_which_step_is_next(command: Run, history: dict[str, str]) -> None:
    def states(settings: dict[str, str | None]) -> list[str]:
        ran = command("keys", "rotate", "k2", *APP, env=settings)
        assert ran.code == 0
        assert K1 not in ran.out + ran.err
        return [line.split()[1] for line in ran.lines if line[0].isdigit()]

    assert states(env("k1")) == ["next:", "then:", "then:"]
    assert states(env("k1", "k2")) == ["done:", "next:", "then:"]
    assert states(env("k1", "k2", current="k2")) == ["done:", "done:", "next:"]
    said = command("keys", "rotate", "k2", *APP, env=env("k1", "k2", current="k2")).err
    assert "k1 still has 1 message, 1 dead letter and" in said
    assert states(env("k2")) == ["done:", "done:", "done:"]


@pytest.mark.parametrize("keys", [(), ("k2",)], ids=["no key", "another key"])
def test_who_has_no_key_is_told_so(
    command: Run, history: dict[str, str], keys: tuple[str, ...]
) -> None:
    given = env(*keys) if keys else {}
    shown = [
        command("result", history["send"], *APP, env=given),
        command("result", history["send"], "--json", *APP, env=given),
        command("result", history["fail"], "--traceback", *APP, env=given),
        command("queues", "peek", "default", *APP, env=given),
        command("dead", "show", "default", history["fail"], *APP, env=given),
        command("dead", "list", "default", *APP, env=given),
        command("tasks", "list", "--name", "shop.fail", *APP, env=given),
    ]
    for ran in shown:
        assert UNKNOWN in ran.out, ran
        assert "Traceback (most recent call last)" not in ran.out + ran.err
    for listed, task in ((shown[3], "shop.send"), (shown[5], "shop.fail")):
        assert f"{task}  {UNKNOWN}" in listed.out, "the name of a task is not encrypted"
    opened = command("result", history["send"], *APP, env=env("k1"))
    assert MARK in opened.out
