"""The parts of `celery.contrib.testing` that programs use."""
