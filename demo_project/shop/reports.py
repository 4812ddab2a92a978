"""What the shop reports by itself: tasks with their schedules beside them. IMPORTS in the settings names it."""

from __future__ import annotations

from demo_project.shop.models import Customer
from djtasks import crontab, shared_task


@shared_task(schedule=crontab(hour=6, minute=0))
def count_customers() -> int:
    """Return how many have signed up; each morning."""
    return Customer.objects.count()
