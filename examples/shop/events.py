"""What can happen in the shop. A job carries its event as JSON, so an event holds values, not open connections."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True)
class Item:
    """Some pieces of one article."""

    sku: str
    quantity: int = 1


@dataclass(frozen=True)
class OrderPlaced:
    """A customer has placed an order. ``amount`` is in cents."""

    order_id: int
    email: str = "customer@shop.example"
    items: tuple[Item, ...] = ()
    amount: int = 0
    card: str = "4242"
    country: str = "DE"


@dataclass(frozen=True)
class PaymentDue:
    """A month of a subscription is to be paid. ``amount`` is in cents."""

    payment_id: int
    email: str
    amount: int
    card: str = "4242"


@dataclass(frozen=True)
class PaymentReceived:
    """Money has arrived."""

    payment_id: int
    email: str
    amount: int


class CatalogChanged(msgspec.Struct, frozen=True):
    """A supplier has published a new edition of a catalog."""

    catalog_id: str
    edition: int = 1
    products: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
