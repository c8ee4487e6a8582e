"""What is done about orders, at once and in workers, with Django's models."""

from __future__ import annotations

import os
from typing import Any

import django
from django.apps import apps
from django.db import close_old_connections

from router import Router


def setup(router: Router) -> None:
    """The file's ``bootstrap``: a worker isn't Django, and has to make it ready. The application has done that."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_shop.settings")
    if not apps.models_ready:
        django.setup()


def log_order(event: dict[str, Any]) -> None:
    """At once, after the commit."""
    print(f"order {event['order_id']} is committed", flush=True)


def confirm(event: dict[str, Any]) -> None:
    """Later, in a worker."""
    from django_shop.models import Order  # models can be imported once `setup` has run

    close_old_connections()  # as Django does before each request: the database may have been away since the last job
    order = Order.objects.get(pk=event["order_id"])
    print(f"mail: {order.item} is on its way", flush=True)
    order.confirmed = True
    order.save(update_fields=["confirmed"])
