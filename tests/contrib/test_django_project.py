"""cloudq in a Django project: settings, their checks, manage.py, commits, and the test helper."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import django
import pytest

from cloudq.testing.waiting import PATIENCE
from tests.docs.blocks import Command, Shell

SHOP = Path(__file__).resolve().parents[2] / "examples" / "django_shop"


def python(
    folder: Path, *words: str, code: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """Run Python in a folder; returns its output and its errors, joined."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def manage(folder: Path, *words: str, code: int = 0) -> str:
    return python(folder, "manage.py", *words, code=code)


def program(folder: Path, text: str) -> str:
    """Run a program in the project, set up."""
    setup = 'import os, django\nos.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"\n'
    return python(folder, "-c", f"{setup}django.setup()\n{textwrap.dedent(text)}")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the example, with its database."""
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3", "*.db"))
    manage(folder, "migrate", "-v0")
    return folder


def with_settings(shop: Path, text: str) -> None:
    settings = shop / "shop" / "settings.py"
    settings.write_text(f"{settings.read_text()}\n{text}\n")


# ---- the example


def test_the_example_charges_its_orders(shop: Path) -> None:
    shown = ["charged 600 for 3 orders"]
    if django.VERSION >= (6,):
        shown.append("SUCCESSFUL: Thank you for 3 orders!")
    with Shell(shop) as shell:
        shell.run(Command(line="python manage.py cloudq worker --processes 2"))
        shell.run(Command(line="python manage.py place 3", output=shown))


def test_the_examples_own_tests_pass(shop: Path) -> None:
    assert "OK" in manage(shop, "test")


def test_the_models_and_the_migrations_agree(shop: Path) -> None:
    manage(shop, "makemigrations", "--check")


# ---- settings


def test_settings_are_a_dict_or_have_a_prefix(shop: Path) -> None:
    with_settings(shop, "CLOUDQ_RESULT_EXPIRES = 60\nCLOUDQ_INCLUDE = ('json',)")
    text = """
        from cloudq.contrib.django import app
        print(app.name, app.conf.max_retries, app.conf.result_expires, app.conf.include)
        print(app.conf.timezone)
        """
    assert program(shop, text).splitlines() == ["shop 5 60.0 ['json']", "Europe/Vienna"]


def test_a_zone_of_cloudqs_own_wins(shop: Path) -> None:
    with_settings(shop, 'CLOUDQ["TIMEZONE"] = "Asia/Tokyo"')
    text = "from cloudq.contrib.django import app\nprint(app.conf.timezone)"
    assert program(shop, text).strip() == "Asia/Tokyo"


def test_the_projects_own_app_takes_the_settings(shop: Path) -> None:
    (shop / "shop" / "queue.py").write_text(
        'from cloudq import CloudQ\napp = CloudQ("own", max_retries=9)\napp.autodiscover_tasks()\n'
    )
    with_settings(shop, 'CLOUDQ["APP"] = "shop.queue:app"')
    text = """
        from cloudq.contrib.django import app
        from orders.tasks import charge
        print(app.name, app.conf.max_retries, app.conf.timezone, charge.app is app)
        """
    assert program(shop, text).strip() == "own 9 Europe/Vienna True"
    assert "orders.tasks.charge" in manage(shop, "cloudq", "call", "orders.tasks.nothing", code=2)


WRONG = {
    "CLOUDQ_BROKR = 'x'": "(cloudq.E001) CLOUDQ_BROKR: there is no setting 'brokr': "
    "did you mean broker?",
    "CLOUDQ['max_retries'] = -1": "(cloudq.E001) CLOUDQ['max_retries'] and CLOUDQ['MAX_RETRIES'] "
    "are one setting",
    "CLOUDQ['MAX_RETRIES'] = -1": "(cloudq.E001) setting 'max_retries'",
    "CLOUDQ = ['x']": "(cloudq.E001) CLOUDQ is ['x']: give a dict",
    "CLOUDQ['BROKER'] = 'sqss://eu-west-1'": "(cloudq.E002) broker: there is none for 'sqss'",
    "CLOUDQ['BROKER'] = 'memory://x'": "(cloudq.W001) broker: memory: exists in one process",
    "CLOUDQ['APP'] = 'shop.nowhere:app'": '(cloudq.E001) CLOUDQ["APP"]: there is no module',
    "CLOUDQ['APP'] = 'shop.settings:app'": "(cloudq.E001) CLOUDQ[\"APP\"] is 'shop.settings:app'",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_system_check_tells_a_wrong_setting(shop: Path, wrong: str) -> None:
    with_settings(shop, wrong)
    said = manage(shop, "check", "--fail-level", "WARNING", code=1)
    assert WRONG[wrong] in said, said


# ---- manage.py


def test_the_whole_command_line_is_there(shop: Path) -> None:
    assert "worker" in manage(shop, "cloudq", "--help")
    manage(shop, "cloudq", "queues", "create", "default", "--settings=shop.settings")
    assert "default" in manage(
        shop, "cloudq", "--settings", "shop.settings", "queues", "list", "--names"
    )
    assert "no such command" in manage(shop, "cloudq", "wrker", code=2).lower()


def test_it_is_called_from_a_program(shop: Path) -> None:
    text = """
        from django.core.management import CommandError, call_command
        call_command("cloudq", "queues", "create", "mail")
        try:
            call_command("cloudq", "queues", "nothing")
        except CommandError as error:
            print(error.returncode)
        """
    assert program(shop, text).splitlines()[-1] == "2"


def test_schedules_stand_in_the_settings(shop: Path) -> None:
    with_settings(
        shop,
        'CLOUDQ["BEAT_SCHEDULE"] = {"often": {"task": "orders.tasks.charge", "schedule": 1.0, '
        '"args": [1]}}',
    )
    manage(shop, "cloudq", "queues", "create", "default")
    assert "often" in manage(shop, "cloudq", "schedules", "list")


# ---- commits


def test_calls_on_commit_follow_nested_blocks_and_their_rollbacks(shop: Path) -> None:
    text = """
        from django.db import transaction
        from cloudq.contrib.django.testing import tasks_in_memory
        from cloudq import errors, shared_task
        from cloudq.testing import drain

        ran = []

        @shared_task
        def note(items: list[int]) -> None:
            ran.append(items)

        class Undo(Exception):
            pass

        with tasks_in_memory() as app:
            items = [1]
            with transaction.atomic():
                first = note.delay_on_commit(items)
                items.append(99)  # it was read at the call
                try:
                    with transaction.atomic():
                        inner = note.delay_on_commit([2])
                        with transaction.atomic():
                            note.delay_on_commit([3])
                        raise Undo
                except Undo:
                    pass
                with transaction.atomic():
                    note.delay_on_commit([4])
                    try:
                        with transaction.atomic(savepoint=False):
                            note.delay_on_commit([5])
                    finally:
                        drain(app)
                        assert ran == [], ran
                try:
                    note.delay_on_commit()
                except errors.InvalidArguments:
                    pass
                else:
                    raise AssertionError("it was not checked at the call")
                assert drain(app) == []
            drain(app)
            assert ran == [[1], [4], [5]], ran
            first.get(timeout=5)
            try:
                inner.get(timeout=5)
            except errors.TaskRevoked:
                pass
            else:
                raise AssertionError("it was rolled back")
            try:
                with transaction.atomic():
                    note.delay_on_commit([6])
                    with transaction.atomic(durable=False):
                        note.delay_on_commit([7])
                    raise Undo
            except Undo:
                pass
            assert drain(app) == []
            note.delay_on_commit([8])  # outside of a block: now
            drain(app)
            assert ran[3:] == [[8]]
        """
    program(shop, text)


@pytest.mark.parametrize("switch", ["True", "False"])
def test_failures_are_mailed_by_the_mail_settings_of_django(shop: Path, switch: str) -> None:
    mails = shop / "mails"
    with_settings(
        shop,
        f"""
CLOUDQ["MAIL_FAILURES"] = {switch}
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = {str(mails)!r}
SERVER_EMAIL = "shop@shop.example"
ADMINS = ["ada@shop.example"] if django.VERSION >= (6,) else [("Ada", "ada@shop.example")]
""",
    )
    program(
        shop,
        """
        from cloudq import shared_task
        from cloudq.contrib.django import app
        from cloudq.testing import drain

        @shared_task
        def charge(card):
            raise ValueError("the bank said no")

        charge.delay("4111-1111")
        charge.delay("4111-1111")
        drain(app)
        """,
    )
    text = "".join(path.read_text() for path in mails.iterdir()) if mails.exists() else ""
    if switch == "False":
        assert not text
        return
    assert text.count("Subject:") == 1, "of one kind one is mailed a minute"
    assert "From: shop@shop.example" in text
    assert "To: ada@shop.example" in text
    assert "charge failed: ValueError: the bank said no" in " ".join(text.split())
    assert "4111" not in text
