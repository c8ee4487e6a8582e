"""Celery: prefork, acks late, confirmed, a quorum queue, no results and no events."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

from benchmarks import work

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_queues=[Queue("bench", Exchange("bench"), routing_key="bench", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="bench",
    task_default_exchange="bench",
    task_default_routing_key="bench",
    task_acks_late=True,
    task_ignore_result=True,
    task_send_sent_event=False,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(event: object) -> None:
    work.noop()


@app.task(name="stamp")
def stamp(event: dict[str, float]) -> None:
    work.stamp(event)
