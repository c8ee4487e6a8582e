"""Every implementation that the contract suites run over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from broker_harness import Clock, Harness
from harnesses import HARNESSES, LOCKS, SHARED, TABLES

from router.locks.base import Locks


def _made(request: pytest.FixtureRequest, path: Path) -> Iterator[Harness]:
    harness = HARNESSES[request.param](path)
    yield harness
    harness.close()


@pytest.fixture(params=sorted(HARNESSES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from _made(request, tmp_path)


@pytest.fixture(params=sorted(TABLES))
def table_harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """For what only those promise that keep jobs in a table."""
    yield from _made(request, tmp_path)


@pytest.fixture(params=SHARED)
def shared_harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    yield from _made(request, tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(LOCKS))
def locks(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Locks:
    return LOCKS[request.param](tmp_path, clock)
