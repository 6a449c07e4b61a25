"""Letters to customers, written by the tasks of Django 6."""
