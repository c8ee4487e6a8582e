"""Dramatiq on RabbitMQ: confirmed, and on a quorum queue, for which its broker has no setting but this method."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware.asyncio import AsyncIO

from benchmarks import work


class QuorumBroker(RabbitmqBroker):
    """Declares quorum queues. It acks after the run anyway."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


broker = QuorumBroker(url=os.environ["BENCH_URL"], confirm_delivery=True)
if os.environ.get("BENCH_ASYNC"):
    broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bench")
def noop(event: object) -> None:
    work.noop()


@dramatiq.actor(queue_name="bench")
def stamp(event: dict[str, float]) -> None:
    work.stamp(event)


if os.environ.get("BENCH_ASYNC"):

    @dramatiq.actor(queue_name="bench")
    async def nap(event: object) -> None:
        await work.nap()
