"""The part of `celery.contrib.django` that programs use."""
