"""Every mail that the shop sends."""

from __future__ import annotations

from shop import outside
from shop.events import OrderPlaced, PaymentReceived


class SendOrderNotification:
    """Tells the warehouse what to pack."""

    def handle(self, order: OrderPlaced) -> None:
        """Mail the list of articles."""
        articles = ", ".join(f"{item.quantity} x {item.sku}" for item in order.items)
        outside.send_mail("warehouse@shop.example", f"Please pack order {order.order_id}: {articles or 'nothing'}")


def send_confirmation(order: OrderPlaced) -> None:
    """Thanks the customer; a minute later, so that an order can still be changed."""
    outside.send_mail(order.email, f"Your order {order.order_id}")


class SendEmail:
    """Asks the customer how it was. Registered by code in ``shop.extensions``."""

    def handle(self, order: OrderPlaced) -> None:
        """Mail the question."""
        outside.send_mail(order.email, f"How do you like order {order.order_id}?")


async def send_payment_receipt(payment: PaymentReceived) -> None:
    """Handlers may be ``async def`` as well."""
    outside.send_mail(payment.email, f"We received {payment.amount / 100:.2f}, payment {payment.payment_id}")
