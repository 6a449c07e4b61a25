"""The app of the shop; its settings are in shop/config.py."""

from cloudq.contrib.celery import Celery

app = Celery("shop")
app.config_from_object("shop.config")
