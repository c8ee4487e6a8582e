"""Stands for the services around the shop, so that it runs with nothing installed: a bank, a mail server, accounting.

Like the test cards of a payment provider, some values make them misbehave:

======================  ========================================================
``declined`` (card)     the bank declines the charge
``busy-2`` (card)       the bank is too busy for the first two tries of a charge
``refuse-2@…`` (mail)   the mail server refuses the first two tries of a mail
``hang-1@…`` (mail)     the mail server hangs at the first try of a mail
======================  ========================================================

A service is out of order while there is a file ``<service>.down`` beside the journal; its text says why.
"""

from __future__ import annotations

import re
import time
from typing import Any

from shop import journal

_TEST_VALUE = re.compile(r"(busy|refuse|hang)-(\d+)\b")
_FOREVER = 3600.0


class ServiceDown(Exception):
    """A service can't be used now; later it may work."""


class CardDeclined(Exception):
    """The bank doesn't accept this card, now or later."""


def charge(card: str, amount: int, reference: str) -> str:
    """Take ``amount`` cents. The bank charges a ``reference`` once, however often it is asked: safe to run again."""
    _check("bank", reference=reference)
    if card == "declined":
        journal.write("card.declined", reference=reference)
        raise CardDeclined(f"the bank declines the card for {reference}")
    if _misbehaves("busy", card, "bank.busy", reference=reference):
        raise ServiceDown("the bank is busy, try again later")
    journal.write("card.charged", reference=reference, amount=amount)
    return f"charged {amount / 100:.2f} for {reference}"


def send_mail(to: str, subject: str) -> None:
    """Hand a mail to the mail server."""
    _check("mail", to=to, subject=subject)
    if _misbehaves("refuse", to, "mail.refused", to=to, subject=subject):
        raise ServiceDown(f"the mail server refuses {subject!r}: 451 try again later")
    if _misbehaves("hang", to, "mail.hangs", to=to, subject=subject):
        time.sleep(_FOREVER)
    journal.write("mail.sent", to=to, subject=subject)


def book_invoice(reference: str, amount: int) -> None:
    """Tell accounting of an invoice."""
    _check("accounting", reference=reference)
    journal.write("invoice.booked", reference=reference, amount=amount)


def tell_staff(text: str) -> None:
    """A line in the staff's chat."""
    journal.write("staff.told", text=text)


def _check(service: str, **details: Any) -> None:
    sign = journal.path().with_name(f"{service}.down")
    if sign.exists():
        journal.write(f"{service}.down", **details)
        raise ServiceDown(f"{service} is down: {sign.read_text().strip() or 'nobody knows why'}")


def _misbehaves(how: str, value: str, what: str, **details: Any) -> bool:
    """Whether ``value`` asks for trouble at this try. The journal knows how many there were before."""
    found = _TEST_VALUE.match(value)
    if found is None or found[1] != how:
        return False
    before = sum(1 for line in journal.read() if line["what"] == what and details.items() <= line.items())
    if before >= int(found[2]):
        return False
    journal.write(what, **details)
    return True
