"""huey on SQLite, each transaction on disk before it returns (synchronous FULL), as ours."""

from __future__ import annotations

import os
from pathlib import Path

from huey import SqliteHuey

from benchmarks import work

huey = SqliteHuey(filename=Path(os.environ[work.FOLDER], "huey.db"), fsync=True, results=False)


@huey.task()
def noop(event: dict[str, int]) -> None:
    work.noop()
