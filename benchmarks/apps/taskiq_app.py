"""taskiq on aio-pika: quorum queues and confirms are its defaults, and it acks after the run.

Its no-op is a coroutine, since it runs plain functions in threads, which is slower.
"""

from __future__ import annotations

import os

from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from benchmarks import work

broker = AioPikaBroker(
    os.environ["BENCH_URL"],
    qos=int(os.environ.get("BENCH_PREFETCH", "10")),
    task_queues=[Queue(name="bench", type=QueueType.QUORUM)],
)


@broker.task(task_name="noop")
async def noop(event: dict[str, int]) -> None:
    work.noop()


@broker.task(task_name="nap")
async def nap(event: dict[str, int]) -> None:
    await work.nap()


@broker.task(task_name="stamp")
def stamp(event: dict[str, float]) -> None:
    work.stamp(event)
