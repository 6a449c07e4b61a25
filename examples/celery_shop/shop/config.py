"""The settings of the shop's app, as they were for Celery but for the two addresses."""

import os
from datetime import timedelta

from cloudq.contrib.celery.schedules import crontab

broker_url = os.environ.get("SHOP_BROKER", "sqlite:///shop.db")
result_backend = os.environ.get("SHOP_RESULTS", "sqlite:///shop.db")

imports = ("shop.orders", "shop.billing", "shop.reports")
task_default_queue = "shop"
task_routes = {"shop.billing.*": {"queue": "billing"}}
task_annotations = {"shop.orders.price": {"time_limit": 30}}
task_serializer = "json"
accept_content = ["json"]
task_track_started = True
task_acks_late = True
worker_prefetch_multiplier = 1
worker_concurrency = 2
result_expires = timedelta(hours=1)
timezone = "Europe/Vienna"

beat_schedule = {
    "daily sales": {
        "task": "shop.reports.sales",
        "schedule": crontab(hour=6, minute=30),
        "args": ([["mug", 3]],),
    },
    "look for late orders": {
        "task": "shop.reports.late",
        "schedule": timedelta(minutes=10),
    },
}
