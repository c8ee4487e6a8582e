"""What happens when something happens. Which of these runs when: extensions.yaml."""

from typing import Any


def reserve_stock(event: dict[str, Any]) -> str:
    """Runs inside `dispatch`, which gives its result back."""
    return f"reserved for order {event['order_id']}"


def send_confirmation(event: dict[str, Any]) -> None:
    """Runs in a worker, again if it raises."""
    print(f"confirmation of order {event['order_id']} sent", flush=True)


def tell_somebody(error: Exception, event: dict[str, Any]) -> None:
    """Called when a job has finally failed; `router failed list` has it then."""
    print(f"order {event['order_id']}: {error}", flush=True)
