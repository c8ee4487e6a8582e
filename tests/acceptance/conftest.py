"""Fixtures of the acceptance tests that run over every broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.app import BROKERS, App


@pytest.fixture(scope="module", params=sorted(BROKERS))
def broker_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a broker; each App takes a namespace of its own on it."""
    return BROKERS[request.param](tmp_path_factory.mktemp("broker"))


@pytest.fixture
def make_app(broker_url: str, tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Makes an App of a file or the text of one; its workers end with the test."""
    with ExitStack() as stack:
        yield lambda config, **env: stack.enter_context(App(tmp_path, config, broker_url, **env))
