"""Every file in tests/cases: the wrong ones beside what a user reads about them, the right ones beside what they mean.

After a change of wording, ``ROUTER_WRITE_CASES=1 pytest tests/unit/test_cases.py`` writes the expected outputs anew;
read each as somebody would at three in the morning before committing it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from msgspec import structs

from router.config import AsyncOptions, Loaded, load
from router.config.lint import CODES
from router.config.places import overlays
from router.config.settings import AsyncDefaults, Backoff, Point, Settings, Unique
from router.errors import ConfigError

CASES = Path(__file__).parents[1] / "cases"
INVALID = sorted({*(CASES / "invalid").glob("*.yaml"), *(CASES / "invalid").glob("*/extensions.yaml")})
WARNED = sorted({*(CASES / "warned").glob("*.yaml"), *(CASES / "warned").glob("*/extensions.yaml")})
REWRITE = "ROUTER_WRITE_CASES"
MASKED = ("pa/ss", "secret@", "ss@word", "hunter2")


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "extensions" else file.stem


def _load(file: Path) -> Loaded:
    """What the file says, under its overlay if it has one."""
    (env,) = overlays(str(file)) or [None]
    return load(file.name, environ={}, env=env)


def _compare(file: Path, text: str) -> None:
    shown = text.replace(str(file.parent), "DIR") + "\n"
    expected = file.with_suffix(".txt")
    if os.environ.get(REWRITE):
        expected.write_text(shown, encoding="utf-8")
    assert expected.exists(), f"{expected} is missing; write it with {REWRITE}=1 and read it"
    assert shown == expected.read_text(encoding="utf-8"), f"if the new wording is better, run again with {REWRITE}=1"
    assert not any(secret in shown for secret in MASKED)


@pytest.mark.parametrize("file", INVALID, ids=_name)
def test_a_wrong_file_is_explained_as_expected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as caught:
        _load(file)
    assert all(one.severity == "error" for one in caught.value.diagnostics)
    _compare(file, str(caught.value))


@pytest.mark.parametrize("file", WARNED, ids=_name)
def test_a_questionable_file_is_warned_of_as_expected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    warnings = _load(file).warnings
    assert all(one.severity == "warning" and one.code in CODES for one in warnings)
    _compare(file, "\n\n".join(map(str, warnings)))


def test_there_are_many_wrong_files() -> None:
    assert len(INVALID) >= 100


def test_every_expected_output_belongs_to_a_file() -> None:
    outputs = {path for folder in ("invalid", "warned") for path in (CASES / folder).rglob("*.txt")}
    assert outputs == {path.with_suffix(".txt") for path in (*INVALID, *WARNED)}


def test_every_warning_has_a_case() -> None:
    shown = "".join(path.read_text() for path in (CASES / "warned").rglob("*.txt"))
    needs_more = {"timeout-above-broker-limit", "event-does-not-fit-schema"}  # a broker, the code: tested elsewhere
    assert [code for code in CODES if f"[{code}]" not in shown and code not in needs_more] == []


def _valid(name: str) -> Settings:
    return load(CASES / "valid" / name, environ={}).settings


def _options(settings: Settings) -> dict[str, AsyncOptions]:
    return {
        route.handler.removeprefix("m:"): route.options
        for point in settings.points
        for route in point.routes
        if route.options
    }


def test_a_version_is_enough_and_everything_else_has_its_default() -> None:
    settings = _valid("smallest.yaml")
    folder = (CASES / "valid").resolve()
    assert settings == Settings(
        path=str(folder / "smallest.yaml"),
        hash=hashlib.sha256(b"version: 1\n").hexdigest(),
        broker_url=f"sqlite:///{folder}/router.db",
    )


def test_sections_whose_content_is_commented_out_count_as_missing() -> None:
    settings = _valid("empty_sections.yaml")
    assert settings.defaults == AsyncDefaults()
    assert [(point.name, point.routes) for point in settings.points] == [("order.placed", ()), ("order.paid", ())]


def test_the_file_of_the_design_means_what_the_design_says() -> None:
    settings = _valid("config/design.yaml")
    folder = (CASES / "valid").resolve()
    assert settings.broker_url == f"sqlite:///{folder}/var/router.db"
    assert settings.locks_url == f"sqlite:///{folder}/var/locks.db"
    assert settings.bootstrap == "shop.extensions:setup"
    assert settings.concurrency == {"heavy": 1}
    (point,) = settings.points
    assert point.event == "shop.events:OrderPlaced"
    assert point.schema == {"type": "object", "required": ["order_id"]}
    assert [route.id for route in point.routes] == [
        "shop.inventory:update_stock",
        "confirmation",
        "shop.catalog:import_products",
        "shop.billing:invoice",
    ]
    stock, confirmation, catalog, invoice = (route.options for route in point.routes)
    assert stock is None
    assert confirmation == AsyncOptions(
        queue="notifications",
        delay=60.0,
        max_attempts=5,
        backoff=Backoff("exponential", (10.0,)),
        timeout=120.0,
        on_failure="shop.alerts:notify_admin",
        on_retry="shop.alerts:log_retry",
    )
    assert catalog is not None
    assert catalog.max_attempts == 5
    assert catalog.backoff == Backoff(None, (10.0, 30.0, 60.0, 300.0))
    assert catalog.unique == Unique(("catalog_id",), 3600.0)
    assert invoice == AsyncOptions("default", 0.0, 3, Backoff("exponential", (10.0,)), 600.0)


def test_the_hash_covers_the_file_and_the_schemas_it_names() -> None:
    parts = [CASES / "valid/config/design.yaml", CASES / "valid/schemas/order_placed.json"]
    assert (
        _valid("config/design.yaml").hash == hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    )


def test_lower_priorities_come_first_and_ties_keep_the_order_of_the_file() -> None:
    handlers = [route.handler for route in _valid("order.yaml").points[0].routes]
    assert handlers == ["m:first", "m:second", "m:third", "m:fourth", "m:fifth"]


def test_routes_inherit_the_defaults_and_override_them_one_by_one() -> None:
    settings = _valid("defaults.yaml")
    unique = Unique(("order.id",), 86400.0)
    linear = Backoff("linear", (60.0,))
    defaults = AsyncDefaults("mail", 4, linear, 5.0, 7200.0, "shop.alerts:failed", "shop.alerts:retried", unique)
    assert settings.defaults == defaults
    options = _options(settings)
    inherited = AsyncOptions("mail", 5.0, 4, linear, 7200.0, "shop.alerts:failed", "shop.alerts:retried", unique)
    assert options["inherits"] == inherited
    assert options["overrides"] == structs.replace(
        inherited,
        queue="own",
        delay=0.0,
        max_attempts=2,
        backoff=Backoff("fixed", (3.0,)),
        timeout=9.0,
        unique=Unique(("x",), 7.0),
    )
    assert options["not_unique"].unique is None
    assert options["listed"].backoff == Backoff(None, (1.0, 2.0, 180.0))
    assert options["listed"].max_attempts == 4
    assert options["listed_with_retries"].max_attempts == 9


def test_a_list_as_default_backoff_gives_the_default_number_of_attempts() -> None:
    settings = _valid("default_list.yaml")
    assert settings.defaults.tries == 3
    options = _options(settings)
    assert options["inherits"].backoff == Backoff(None, (10.0, 30.0))
    assert options["grows"].backoff == Backoff("exponential", (5.0,))


def test_merge_keys_give_way_to_explicit_keys_and_the_first_of_several_wins() -> None:
    options = _options(_valid("anchors.yaml"))
    assert [(o.queue, o.max_attempts, o.timeout) for o in options.values()] == [
        ("slow", 2, 3600.0),
        ("slow", 9, 3600.0),
        ("merged", 7, 3600.0),
        ("slow", 2, 3600.0),
    ]


def test_types_are_those_of_yaml_1_2() -> None:
    settings = _valid("core_types.yaml")
    assert settings.concurrency == {"on": 17, "no": 15, "12-30": 31}
    assert settings.points[0] == Point("yes", description="12:30", interruptible=True)
