"""What is on the shelves, and how it leaves the house."""

from __future__ import annotations

from typing import Any

import router
from shop import journal, outside
from shop.events import OrderPlaced

_LARGE_ORDER = 10
_SERVED = {"AT", "CH", "DE", "DK", "FR", "NL", "PL"}


class NoCourier(Exception):
    """Nobody carries parcels to that country."""


def update_stock(order: OrderPlaced) -> int:
    """Take the articles from the shelves. A large order raises ``stock.low``: handlers may dispatch, too."""
    for item in order.items:
        journal.write("stock.taken", order=order.order_id, sku=item.sku, quantity=item.quantity)
        if item.quantity > _LARGE_ORDER:
            router.dispatch("stock.low", {"sku": item.sku, "supplier": "supplier@wholesale.example"})
    return sum(item.quantity for item in order.items)


def book_courier(order: OrderPlaced) -> str:
    """Registered by code in ``shop.extensions``. Raises NoCourier."""
    if order.country not in _SERVED:
        raise NoCourier(f"no courier goes to {order.country}")
    journal.write("courier.booked", order=order.order_id, country=order.country)
    return f"courier to {order.country}"


def reorder(event: dict[str, Any]) -> None:
    """Order more of an article from its supplier. A point without ``event:`` hands its payload over as it is."""
    outside.send_mail(event["supplier"], f"We need more {event['sku']}")
