"""Tasks that store and sum up."""

import json
from datetime import date, datetime

from celery import chain, chord, current_task, group, shared_task

from weather import ledger
from weather.bases import Recorded
from weather.celery import app
from weather.stations import tasks as stations


@shared_task(base=Recorded, kind="stored")
def store(values, station):
    """Store the readings of a station."""
    return {"station": station, "count": len(values), "mean": round(sum(values) / len(values), 1)}


@shared_task
def warmest(days):
    """The station with the highest mean."""
    return max(days, key=lambda day: day["mean"])["station"]


@shared_task(bind=True, ignore_result=False)
def sum_up(self, day, stations_=("vienna", "graz")):
    """Sum up a day: the task becomes the workflow."""
    flow = chord(
        [stations.read.s(station) | store.s(station) for station in stations_], warmest.s()
    )
    raise self.replace(flow)


@shared_task(ignore_result=True)
def tick(who):
    """Write down that it was called."""
    ledger.write("ticks", who)


@shared_task
def note(value, topic):
    """Write down what another has come to."""
    ledger.write("notes", f"{topic} {json.dumps(value)}")
    return value


@shared_task
def mean(*values):
    """The mean of values."""
    return sum(values) / len(values)


@shared_task
def double(value):
    """Twice the value."""
    return value * 2


@shared_task(bind=True)
def who(self):
    """All that a task knows of its call."""
    request = self.request
    return {
        "name": current_task.name,
        "same": current_task.request.id == request.id,
        "queue": request.delivery_info["routing_key"],
        "retries": request.retries,
        "host": "@" in request.hostname,
        "args": list(request.args),
        "root": request.root_id == request.id,
        "parent": request.parent_id,
        "eager": request.is_eager,
        "tenant": request.headers and request.headers.get("tenant"),
        "trace": getattr(request, "trace", None) or request.get("trace"),
    }


@shared_task
def spread(days):
    """Send a call for each day, and say which they are."""
    return group(double.s(day) for day in days).apply_async().as_tuple()


class Almanac(app.Task):
    """A task that is written as a class: it has what it was made with."""

    name = "weather.almanac"
    ignore_result = False

    def __init__(self, first):
        self.first = first
        self.asked = 0

    def run(self, year, *, leap=False):
        self.asked += 1
        return [self.first, year, leap, self.name]


almanac = app.register_task(Almanac("1775"))


def day_of(value):
    """A date, or a time, as its text."""
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


@shared_task
def since(when):
    """Dates go through JSON as text."""
    return day_of(when)[:10]


def archive(station_names, topic):
    """The signature of a whole archive's run, with its callbacks."""
    flow = chain(
        group(stations.read.s(name) for name in station_names),
        lengths.s(),
        note.s(topic=topic),
    )
    flow.link_error(stations.on_broken.s())
    return flow


@shared_task
def lengths(readings):
    """The number of readings of each station."""
    return [len(each) for each in readings]


@shared_task
def mean_of(values):
    """The mean of a list."""
    return mean(*values)
