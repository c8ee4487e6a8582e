"""``python -m benchmarks.consumer COUNT``: plain py-amqp consumes so many jobs of ours and prints the seconds."""

from __future__ import annotations

import os
import sys
import time

from benchmarks import raw, work
from benchmarks.systems import QUEUES

if __name__ == "__main__":
    start = time.perf_counter()
    raw.consume(os.environ["BENCH_URL"], QUEUES["router"], int(sys.argv[1]), lambda message: work.noop())
    print(time.perf_counter() - start)
