"""The tasks of the orders."""

from django.utils import timezone

from cloudq import shared_task
from orders.models import Order


@shared_task
def charge(order_id: int) -> int:
    """Charge an order, and return its amount."""
    order = Order.objects.get(pk=order_id)
    order.charged_at = timezone.now()
    order.save()
    return order.amount
