"""Tasks that run at once, in the test itself."""

from unittest import TestCase, mock

import pytest
from celery import chord, states
from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from weather import ledger
from weather.archive import tasks as archive
from weather.celery import app
from weather.stations import tasks as stations

pytestmark = pytest.mark.usefixtures("eager")


def test_a_task_runs_at_once():
    result = archive.double.delay(4)
    assert result.ready()
    assert result.get() == 8
    assert result.state == states.SUCCESS


def test_a_workflow_runs_at_once():
    flow = stations.read.s("vienna") | archive.store.s("vienna")
    assert flow.delay().get() == {"station": "vienna", "count": 3, "mean": 5.7}


def test_hooks_are_called():
    archive.store.delay([1, 2], "graz")
    assert ledger.lines("stored") == [
        "weather.archive.tasks.store success {'station': 'graz', 'count': 2, 'mean': 1.5}"
    ]


def test_an_error_is_raised():
    with pytest.raises(stations.StationBroken) as caught:
        stations.check.delay("linz")
    assert caught.value.code == 7


def test_an_error_is_kept_when_it_is_not_to_be_raised():
    result = stations.check.apply(("linz",), throw=False)
    assert result.failed()
    assert isinstance(result.result, stations.StationBroken)
    assert "StationBroken" in result.traceback


def test_a_chord_runs_at_once():
    flow = chord([stations.read.s("graz") | archive.store.s("graz")], archive.warmest.s())
    assert flow.delay().get() == "graz"


def test_a_retry_is_asked_for():
    error = TimeoutError("linz")
    with mock.patch.object(stations.ask, "retry", side_effect=Retry()) as retry:
        with pytest.raises(Retry):
            stations.ask("linz")
    assert retry.call_args.kwargs["countdown"] == 0
    assert type(retry.call_args.kwargs["exc"]) is type(error)


@mock.patch("weather.stations.tasks.probe.retry", side_effect=MaxRetriesExceededError)
def test_the_last_try(retry):
    assert stations.probe("graz", 3) == "never"
    retry.assert_called_once()


def test_what_is_sent_is_looked_at():
    with mock.patch("weather.archive.tasks.note.delay") as delay:
        archive.note.delay(1, topic="x")
    delay.assert_called_once_with(1, topic="x")
    with mock.patch.object(archive.note, "apply_async") as apply_async:
        archive.note.delay(1, topic="x")
    apply_async.assert_called_once()


def test_states_are_set_without_a_store():
    with mock.patch.object(stations.scan, "update_state") as update:
        assert stations.scan(2) == {"done": 2, "total": 2}
    assert update.call_args == mock.call(state="PROGRESS", meta={"done": 1, "total": 2})


def test_a_task_is_a_function():
    assert archive.mean(1, 3) == 2
    assert archive.mean.run(1, 3) == 2
    assert archive.double.__name__ == "double"
    assert archive.double.__doc__ == "Twice the value."
    assert archive.almanac(1999) == ["1775", 1999, False, "weather.almanac"]


def test_ignored_and_rejected():
    with pytest.raises(Reject):
        stations.refuse()
    with mock.patch.object(stations.give_up, "update_state"), pytest.raises(Ignore):
        stations.give_up("x")


def test_a_request_is_made_up():
    stations.probe.push_request(retries=2)
    try:
        assert stations.probe.run("graz", 2) == "graz after 2"
    finally:
        stations.probe.pop_request()


def test_settings_and_routes():
    assert app.conf.task_default_queue == "weather"
    assert app.conf.beat_schedule["weekly letter"]["args"] == ["week"]
    assert set(app.conf.beat_schedule) >= {"sum up yesterday", "look for silent stations"}
    assert app.main == "weather"
    app.loader.import_default_modules()
    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in app.tasks


class Schedules(TestCase):
    """Times of schedules."""

    def test_midnight(self):
        schedule = app.conf.beat_schedule["sum up yesterday"]["schedule"]
        self.assertEqual(schedule.hour, {0})
        self.assertEqual(schedule.minute, {15})

    def test_signature(self):
        made = archive.mean.s(1, 2)
        self.assertEqual(made.args, (1, 2))
        self.assertEqual(made.task, "weather.archive.tasks.mean")
        self.assertEqual(made["options"], {})
        self.assertEqual(made.set(queue="x").options["queue"], "x")
