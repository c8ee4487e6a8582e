"""The pytest plugin: a fixture ``router``, a `router.testing.TestRouter` of the project's file; see docs/testing.md.

Whatever takes long to import is imported by the fixture, since every run of pytest loads this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from router.testing import TestRouter


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings of the fixture."""
    parser.addini("router_config", "the extensions.yaml of the `router` fixture, relative to this file", default="")
    parser.addini("router_env", "its overlay, as by --env (default: $ROUTER_ENV)", default="")


@pytest.fixture
def router(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestRouter]:
    """A router.testing.TestRouter of the project's extensions.yaml; during the test `router.dispatch` uses it, too."""
    from router.errors import RouterError
    from router.testing import TestRouter

    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # where the application is started, and its modules are found
    wrong = None
    try:
        made = TestRouter(_file(pytestconfig), env=pytestconfig.getini("router_env") or None)
    except RouterError as error:
        wrong = str(error)
    if wrong is not None:
        pytest.fail(wrong, pytrace=False)  # out of the `except`, in which pytest would show it twice
    with made:
        yield made


def _file(config: pytest.Config) -> Path | None:
    """The file of the project; None: the one that $ROUTER_CONFIG names. Raises ConfigNotFound."""
    from router.config.places import DEFAULT_PLACES, VARIABLE
    from router.errors import ConfigNotFound

    named: str = config.getini("router_config")
    if named:
        return (config.inipath.parent if config.inipath else config.rootpath) / named
    if os.environ.get(VARIABLE):
        return None
    for place in DEFAULT_PLACES:
        if (config.rootpath / place).exists():
            return config.rootpath / place
    places = " nor ".join(DEFAULT_PLACES)
    raise ConfigNotFound(
        f"the `router` fixture has no file: there is neither {places} in {config.rootpath}.\n"
        "Name it in the settings of pytest: router_config = path/to/extensions.yaml"
    )
