"""`python manage.py place 3`: places some orders, and waits until they are charged."""

from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand
from django.db import transaction

from orders.models import Order
from orders.tasks import charge


class Command(BaseCommand):
    """Places orders as a view would: the calls are sent when the rows are committed."""

    help = "Place some orders, and wait until they are charged."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the number of orders."""
        parser.add_argument("number", type=int)

    def handle(self, *args: Any, number: int, **options: Any) -> None:
        """Place the orders, and print what came of them."""
        with transaction.atomic():
            orders = [Order.objects.create(amount=100 * n) for n in range(1, number + 1)]
            results = [charge.delay_on_commit(order.pk) for order in orders]
        charged = sum(result.get(timeout=60) for result in results)
        done = Order.objects.filter(charged_at__isnull=False).count()
        self.stdout.write(f"charged {charged} for {done} orders")
        if apps.is_installed("letters"):
            self._write_to_customers(number)

    def _write_to_customers(self, number: int) -> None:
        from letters.tasks import thank

        from cloudq.contrib.django import app

        letter = thank.enqueue(number)
        app.AsyncResult(letter.id).get(timeout=60)
        letter.refresh()
        self.stdout.write(f"{letter.status}: {letter.return_value}")
