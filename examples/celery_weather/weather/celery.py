"""The app of the project."""

import os

from celery import Celery

os.environ.setdefault("WEATHER_SETTINGS", "weather.settings")

from weather.conf import settings

app = Celery("weather")
app.config_from_object("weather.conf:settings", namespace="CELERY")
app.autodiscover_tasks(lambda: settings.APPS)


@app.on_after_finalize.connect
def add_own_schedules(sender, **kwargs):
    from weather.archive.tasks import tick

    sender.add_periodic_task(3600.0, tick.s("hourly"), name="hourly tick")


@app.task(bind=True, ignore_result=True)
def debug_task(self):
    """Show what a call looks like."""
    print(f"Request: {self.request!r}")
