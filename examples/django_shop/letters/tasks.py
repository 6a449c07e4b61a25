"""Tasks of Django's own, which cloudq's workers run."""

from django.tasks import task


@task(queue_name="letters")
def thank(orders: int) -> str:
    """Thank for some orders."""
    return f"Thank you for {orders} orders!"
