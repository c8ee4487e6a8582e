"""The shop's page, and where it is."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

import router
from django_shop.models import Order


def place_order(request: HttpRequest, item: str) -> JsonResponse:
    """The event belongs to the transaction: no commit, no event."""
    with transaction.atomic():
        order = Order.objects.create(item=item)
        transaction.on_commit(lambda: router.dispatch("order.placed", {"order_id": order.pk}))
        if item == "unicorn":
            transaction.set_rollback(True)  # sold out: neither the order nor the event happen
            return JsonResponse({"detail": "sold out"}, status=409)
    return JsonResponse({"order_id": order.pk})


def list_orders(request: HttpRequest) -> JsonResponse:
    """What was ordered."""
    return JsonResponse({"orders": [*Order.objects.order_by("pk").values("item", "confirmed")]})


urlpatterns = [path("orders/<str:item>", place_order), path("orders", list_orders)]
