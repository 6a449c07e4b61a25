"""The settings of the project, those of cloudq in `CLOUDQ`."""

import os
from pathlib import Path

import django

BASE_DIR = Path(__file__).resolve().parents[1]
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "for this machine alone")
INSTALLED_APPS = ["cloudq.contrib.django", "orders"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "shop.sqlite3",
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "Europe/Vienna"

CLOUDQ = {
    "BROKER": os.environ.get("SHOP_BROKER", f"sqlite:///{BASE_DIR}/cloudq.db"),
    "BACKEND": os.environ.get("SHOP_BACKEND"),
    "MAX_RETRIES": 5,
}

if django.VERSION >= (6,):  # which has tasks of its own, and cloudq runs them too
    INSTALLED_APPS.append("letters")
    TASKS = {
        "default": {
            "BACKEND": "cloudq.contrib.django.CloudQBackend",
            "QUEUES": ["default", "letters"],
        }
    }
