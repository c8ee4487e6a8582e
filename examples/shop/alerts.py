"""Callbacks: what happens when a job is to be retried, or has finally failed."""

from __future__ import annotations

import logging
from typing import Any

from shop import journal, outside

log = logging.getLogger("shop.alerts")


class NotifyOnFailure:
    """onFailure. Callbacks may be classes as well: one instance in each process."""

    def __call__(self, exception: Exception, event: Any) -> None:
        """The job has failed for good, and waits in `router failed list`."""
        log.error("handler failed: %s", exception)
        outside.tell_staff(f"Handler failed: {exception} ({type(event).__name__})")


class LogRetryAttempt:
    """onRetry."""

    def __call__(self, attempt: int, exception: Exception) -> None:
        """Attempt number ``attempt`` has failed, and another one follows."""
        log.warning("attempt %d failed: %s", attempt, exception)
        journal.write("retry.logged", attempt=attempt, error=f"{type(exception).__name__}: {exception}")


notify_admin = NotifyOnFailure()
log_retry = LogRetryAttempt()
