"""The parts of `celery.contrib` that programs use."""
