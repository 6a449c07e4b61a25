"""The project's own tests: `python manage.py test`."""

from django.db import transaction
from django.test import TestCase

from cloudq.contrib.django.testing import CloudQTestMixin
from orders.models import Order
from orders.tasks import charge


class Charging(CloudQTestMixin, TestCase):
    """Orders are charged when they are committed."""

    def test_an_order_is_charged(self) -> None:
        """The call is sent at the commit, and runs when the test says so."""
        with self.captureOnCommitCallbacks(execute=True):
            order = Order.objects.create(amount=300)
            result = charge.delay_on_commit(order.pk)
        assert self.run_tasks() == 1
        assert result.get() == 300
        order.refresh_from_db()
        assert order.charged_at is not None

    def test_an_order_that_is_rolled_back_is_not_charged(self) -> None:
        """Nothing is sent."""
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            charge.delay_on_commit(Order.objects.create(amount=300).pk)
            transaction.set_rollback(True)
        assert self.run_tasks() == 0
