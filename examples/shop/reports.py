"""What the management reads in the morning."""

from __future__ import annotations

from typing import Any

from shop import journal, outside


def generate_reports(event: dict[str, Any]) -> None:
    """The day's report. It can wait, and it may take a few minutes."""
    journal.write("report.generated", day=event["day"])


def archive_day(event: dict[str, Any]) -> None:
    """The day's invoices, closed. Accounting has its fixed hours, hence a fixed wait between the tries."""
    outside.book_invoice(f"all of {event['day']}", 0)
