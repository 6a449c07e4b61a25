"""Tasks that a worker of the test runs."""

import pytest
from celery import chord, group
from celery.result import AsyncResult
from weather import ledger
from weather.archive import tasks as archive
from weather.stations import tasks as stations

pytestmark = pytest.mark.usefixtures("ledger_file")


def test_a_task_of_the_test(celery_app, celery_worker):
    @celery_app.task
    def mul(x, y):
        return x * y

    celery_worker.reload()
    assert mul.delay(4, 4).get(timeout=10) == 16


@pytest.mark.celery(task_always_eager=True)
def test_settings_of_one_test(celery_app):
    @celery_app.task
    def here(x):
        return x + 1

    assert celery_app.conf.task_always_eager
    assert here.delay(1).get() == 2


@pytest.mark.usefixtures("celery_session_app", "celery_session_worker")
class TestShared:
    def test_a_shared_task(self):
        assert archive.double.delay(21).get(timeout=10) == 42

    def test_a_group(self):
        result = group(archive.double.s(n) for n in range(3)).apply_async()
        assert result.get(timeout=10) == [0, 2, 4]

    def test_a_chord(self):
        flow = chord([archive.double.s(1), archive.double.s(2)], archive.mean_of.s())
        assert flow.apply_async().get(timeout=10) == 3

    def test_hooks(self):
        assert archive.store.delay([1, 3], "graz").get(timeout=10)["mean"] == 2
        assert ledger.lines("after") == ["weather.archive.tasks.store SUCCESS"]

    def test_an_error(self):
        result = stations.check.delay("linz")
        with pytest.raises(stations.StationBroken, match="linz"):
            result.get(timeout=10)
        assert AsyncResult(result.id).state == "FAILURE"
