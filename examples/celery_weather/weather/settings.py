"""Settings of the whole project; those of Celery begin with CELERY_."""

import os
from datetime import timedelta

from celery.schedules import crontab

DEBUG = False
TIME_ZONE = "Europe/Vienna"
LEDGER = os.environ.get("WEATHER_LEDGER", "ledger.db")
APPS = ["weather.stations", "weather.archive", "weather.reports"]

CELERY_BROKER_URL = os.environ.get("WEATHER_BROKER", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("WEATHER_RESULTS", "redis://localhost:6379/1")
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_ACCEPT_CONTENT = ["application/json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_EXPIRES = timedelta(days=2)
CELERY_TIMEZONE = TIME_ZONE
CELERY_ENABLE_UTC = True
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 60
CELERY_TASK_SOFT_TIME_LIMIT = 50
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1000
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_TASK_DEFAULT_QUEUE = "weather"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {
    "weather.stations.*": {"queue": "stations"},
    "weather.reports.tasks.*": {"queue": "reports"},
}
CELERY_TASK_ANNOTATIONS = {
    "weather.stations.tasks.calibrate": {"soft_time_limit": 1, "time_limit": 20},
    "weather.reports.tasks.letter": {"rate_limit": "100/s"},
}
CELERY_BEAT_SCHEDULE = {
    "heartbeat of the archive": {
        "task": "weather.archive.tasks.tick",
        "schedule": 1.0,
        "args": ("beat",),
        "options": {"expires": 30},
    },
    "sum up yesterday": {
        "task": "weather.archive.tasks.sum_up",
        "schedule": crontab(hour=0, minute=15),
        "kwargs": {"day": "yesterday"},
        "options": {"queue": "weather", "priority": 5},
    },
    "weekly letter": {
        "task": "weather.reports.tasks.letter",
        "schedule": crontab(minute="0", hour="7", day_of_week="mon"),
        "args": ["week"],
    },
    "look for silent stations": {
        "task": "silent-stations",
        "schedule": timedelta(minutes=30),
    },
}
