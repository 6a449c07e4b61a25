"""The part of `celery.worker` that programs use: commands of their own."""
