"""Run it by: python -m pytest"""

import pytest

from router import Router


def test_an_order_reserves_stock_and_queues_its_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_BROKER_URL", "memory://")
    done = Router("extensions.yaml").dispatch("order.placed", {"order_id": 7})
    assert done.results == {"handlers:reserve_stock": "reserved for order 7"}
    assert list(done.jobs) == ["handlers:send_confirmation"]
