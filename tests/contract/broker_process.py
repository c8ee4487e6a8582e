"""Programs that the process tests run, which talk in lines on stdout.

``python broker_process.py COMMAND URL NAMESPACE …``
"""

from __future__ import annotations

import select
import sys
import time

from broker_harness import job

from router.brokers import connect
from router.brokers.base import Done


def publish_for_ever(url: str, namespace: str, prefix: str) -> None:
    """Publish batches of 20 and print what was confirmed, after the confirm."""
    broker = connect(url, namespace)
    number = 0
    while True:
        batch = [
            job(id=f"{prefix}-{number + n:07}", body=f"{prefix}-{number + n:07}".encode().ljust(2000))
            for n in range(20)
        ]
        number += len(batch)
        print("trying", *(out.id for out in batch), flush=True)
        print("confirmed", *broker.publish(batch).confirmed, flush=True)


def consume(url: str, namespace: str, name: str) -> None:
    """Take and finish jobs until the queue is empty; print what was delivered."""
    broker = connect(url, namespace)
    consumer = broker.consumer(name)
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        deliveries = consumer.poll({"a": 7})
        if deliveries:
            print("delivered", *(delivery.body.decode() for delivery in deliveries), flush=True)
            consumer.settle([Done(delivery) for delivery in deliveries])
        elif not consumer.unsettled:
            numbers = broker.counts(["a"]).queues["a"]
            if not numbers.ready and not numbers.running:
                break
            select.select(consumer.wait_on(), [], [], consumer.patience())
    print("lost", len(consumer.take_lost()), flush=True)
    consumer.close()


if __name__ == "__main__":
    {"publish": publish_for_ever, "consume": consume}[sys.argv[1]](*sys.argv[2:])
