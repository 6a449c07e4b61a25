"""Celery's command line, carried over to cloudq's: `cloudq celery ...`."""
