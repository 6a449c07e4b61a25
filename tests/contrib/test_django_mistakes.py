"""A Django project whose settings are not as they should be is told so, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import django
import pytest

from tests.contrib.test_django_project import manage, program, shop, with_settings

__all__ = ["shop"]

OF_DJANGO_6 = pytest.mark.skipif(django.VERSION < (6,), reason="django.tasks is of Django 6")
TASKS = 'TASKS = {{"default": {{"BACKEND": "cloudq.contrib.django.CloudQBackend", {}}}}}'


@OF_DJANGO_6
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"OPTIONS": {"broker": "x"}', "OPTIONS has broker"),
        ('"OPTION": {"broker": "x"}', "did you mean OPTIONS?"),
        ('"QUEUE": ["mail"]', "did you mean QUEUES?"),
        ('"QUEUES": "default"', "QUEUES is a text"),
    ],
)
def test_the_check_tells_of_wrong_options_of_a_backend(shop: Path, more: str, said: str) -> None:
    with_settings(shop, TASKS.format(more))
    came = manage(shop, "check", code=1)
    assert "cloudq.E003" in came
    assert said in came


@OF_DJANGO_6
def test_all_queues_of_a_backend_are_served(shop: Path) -> None:
    (shop / "shop" / "backends.py").write_text(
        "from cloudq.contrib.django import CloudQBackend\nclass Mine(CloudQBackend):\n    pass\n"
    )
    with_settings(
        shop,
        'TASKS = {"default": {"BACKEND": "shop.backends.Mine", "QUEUES": ["default", "letters"]},'
        ' "open": {"BACKEND": "cloudq.contrib.django.CloudQBackend", "QUEUES": [], "MINE": 1}}',
    )
    (shop / "orders" / "open.py").write_text(
        "from django.tasks import task\n"
        '@task(queue_name="declared", backend="open")\n'
        "def opened(): pass\n"
    )
    came = program(
        shop,
        """
        from cloudq.contrib.django import app
        print(app.queues())
        import orders.open
        print(app.queues())
        """,
    )
    assert came.splitlines() == ["['default', 'letters']", "['default', 'letters', 'declared']"]
    assert "no issues" in manage(shop, "check")


def test_celerys_settings_count_where_the_app_is_named_and_are_told_of_elsewhere(
    shop: Path,
) -> None:
    with_settings(shop, 'CELERY_TASK_TIME_LIMIT = 7\nCELERY_TASK_DEFAULT_QUEUE = "celq"')
    assert "cloudq.W002) CELERY_TASK_DEFAULT_QUEUE, CELERY_TASK_TIME_LIMIT" in manage(shop, "check")
    (shop / "shop" / "celery.py").write_text(
        "from cloudq.contrib.celery import Celery\n"
        'app = Celery("shop", broker="sqlite:///celery.db")\n'
        'app.config_from_object("django.conf:settings", namespace="CELERY")\n'
    )
    with_settings(shop, 'CLOUDQ = {"APP": "shop.celery:app", "MAX_RETRIES": 9}')
    assert "no issues" in manage(shop, "check")
    came = program(
        shop,
        """
        from cloudq.contrib.django import app
        conf = app.conf
        print(conf.task_default_queue, conf.task_time_limit, conf.max_retries, conf.broker)
        """,
    )
    assert came.strip() == "celq 7 9 sqlite:///celery.db"
