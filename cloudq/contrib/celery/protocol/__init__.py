"""Celery's message protocol 2: reads and writes the messages of Celery's producers and workers."""
