"""Money: charging cards and booking invoices."""

from __future__ import annotations

import router
from shop import outside
from shop.events import OrderPlaced, PaymentDue, PaymentReceived


def process_payment(order: OrderPlaced) -> str:
    """At the checkout, while the customer waits. Raises CardDeclined: then nothing of the order goes on."""
    return outside.charge(order.card, order.amount, f"order {order.order_id}")


class ProcessPayment:
    """A subscription's payment, in the background: nobody waits, so that a busy bank is merely asked again.

    A handler may be a class: one instance in each process, ``handle`` is called for each event.
    """

    def handle(self, due: PaymentDue, context: router.Context) -> None:
        """Charge the card, then let whoever cares know. Raises router.Fail where another try is no use."""
        try:
            outside.charge(due.card, due.amount, f"payment {due.payment_id}")
        except outside.CardDeclined as declined:
            raise router.Fail(str(declined)) from declined
        context.logger.info("payment %d arrived at attempt %d", due.payment_id, context.attempt)
        router.dispatch(PaymentReceived(due.payment_id, due.email, due.amount))


def invoice(order: OrderPlaced) -> None:
    """Tell accounting."""
    outside.book_invoice(f"order {order.order_id}", order.amount)
