"""The rows of the shop."""

from django.db import models


class Order(models.Model):
    """An order, which a worker charges."""

    amount = models.IntegerField()
    charged_at = models.DateTimeField(null=True)
