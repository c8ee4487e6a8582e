"""The bootstrap of ``config/extensions.yaml``: routes that are made by code."""

from __future__ import annotations

from router import Router
from shop.inventory import book_courier


def setup(router: Router) -> None:
    """Called in every process: the application's, the command line's, a worker's children."""
    router.register("order.placed", book_courier, priority=15)
    router.register_async("order.placed", "shop.mail:SendEmail", queue="emails", delay=30, retries=5)
