"""Files that hypothesis makes up: whatever is in them, they load or they are explained; what loads can be run; and the
published schema, by which editors judge, says the same as the router."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from router.config import Loaded, load, schema_text
from router.config.diagnostics import Diagnostic, Source
from router.config.syntax import YamlError, compose
from router.errors import ConfigError, ConfigNotFound
from router.routing.table import RoutingTable, compile_table

MAIN, INCLUDED, OVERLAY = "extensions.yaml", "points/orders.yaml", "extensions.production.yaml"
FILES = {
    MAIN: """\
version: 1
# The broker.
broker:
  url: ${BROKER:-sqlite:///var/router.db}
  namespace: shop
locks: {url: "redis://cache:6379/0"}
async:
  default_queue: default
  tries: 3
  backoff: 10
  backoff_strategy: exponential
bootstrap: shop.extensions:setup
pythonpath: [src, ../lib]
include:
  - points/*.yaml
unknownRouteFor: 10m
queues:
  heavy: {concurrency: 1}
extensions:
  order.placed: &order
    description: >
      A customer has paid:
      the order is placed.
    event: shop.events:OrderPlaced
    schema: order.json
    interruptible: true
    handlers:
      - handler: shop.inventory:update_stock
        priority: 10
        onError: continue
      - handler: shop.mail:send
        id: confirmation
        async: &slow
          queue: notifications
          delay: 60
          retries: 5
          backoff: linear
          backoffSeconds: 10
          timeout: 120
          onFailure: shop.alerts:notify
      - {handler: shop.catalog:update, async: {<<: *slow, uniqueJob: true, uniqueBy: [a.b], uniqueLockTimeout: 1h}}
      - handler: "shop.billing:invoice"
        async: true
  order.paid:
""",
    INCLUDED: """\
extensions:
  order.placed:
    handlers:
      - handler: shop.sms:send
        async: {backoffSeconds: [10, 30s, 5m]}
  stock.low: {handlers: [{handler: shop.buying:order}]}
queues:
  heavy:
  sms: {concurrency: 2}
""",
    OVERLAY: """\
broker:
  url: amqp://shop:${PASSWORD:-pass}@rabbit/
extensions:
  order.placed:
    handlers:
      - id: confirmation
        async: {retries: 7}
      - handler: shop.audit:log
        priority: 1000
""",
    "order.json": '{"type": "object"}',
}
ENVIRON = {"A": "1", "EMPTY": "", "TEXT": "x: [1"}

_ODD = "x yes 5 10s 0s -5s 400d a:b a.b:c memory:// sqlite:///x.db amqp://h amqp:// redis://h x/y.json fixed stop é *"
ODD: list[Any] = [
    *_ODD.split(),
    *(None, True, False, 0, 1, -1, 7, 1.5, 1e300, 10**30, "", " ", "a b", "x" * 300, "\N{NO-BREAK SPACE}x"),
    *([], ["x"], [1, "5s"], [[]], [None], ["a", "a"], {}, {"x": 1}, {"url": "memory://"}),
    *({"handler": "m:f"}, [{"handler": "m:f"}]),
]
"""Values that are right in one place, and wrong in most others."""

_SCALARS = (
    "~ true yes 0 -1 1.5 .inf .nan 1e9 10s 0x1F x x:y 'x \"x x' [ ] { } *slow *none &b << | > %x @x `x` ? : ... --- // "
    '${A} ${NONE} ${EMPTY:-} ${A ${TEXT} $${A} $A {{x}} & \'\\ "\\q" '
    "sqlite:///x amqp://u:p@h:x redis:// points/*.yaml points"
)
SCALARS = [
    *_SCALARS.split(),
    *("", "x: y", "x #y", "[x, y]", "{x: y}", "- x", "&slow x", "!!int x", "!x y", "| x", "extensions.yaml", "10 s"),
    *("\u201cx\u201d", "\u2013", "\u00a0", "\u200b", "\ufeff", "\t", "\x07", "x" * 300),
]
"""What may stand where a value was."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "points").mkdir()
    return folder


def _written(folder: Path, **changed: str | bytes) -> Path:
    for name, text in FILES.items():
        content = changed.get(name.partition(".")[0].rpartition("/")[2], text)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    return folder / MAIN


def _explained(file: Path, env: str | None = None) -> list[str]:
    """What is wrong with the file; nothing, if it loads, and then it can be run."""
    mistakes: tuple[Diagnostic, ...] = ()
    try:
        _can_be_run(load(file, ENVIRON, env))
    except ConfigError as error:
        mistakes = tuple(error.diagnostics)
    except ConfigNotFound as error:
        return [str(error)]
    for place in (place for mistake in mistakes for place in (mistake, *mistake.related)):
        assert min(place.line, place.column, place.length, place.caret) > 0
        assert not place.excerpt or place.caret - 1 + place.length <= max(len(place.excerpt), place.caret)
    return [mistake.message for mistake in mistakes]


def _can_be_run(loaded: Loaded) -> None:
    table = compile_table(loaded.settings)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(table), type=RoutingTable) == table
    assert msgspec.json.decode(msgspec.json.encode(table), type=RoutingTable) == table
    for route in table.routes():
        assert table.find(route.point, route.id) == route
    assert {options.queue for _, options in table.async_routes()} <= set(table.queues())
    assert all(0 < wait <= 365 * 86_400 for wait in table.waits())


def test_the_files_that_are_changed_here_are_right(folder: Path) -> None:
    assert _explained(_written(folder)) == []
    assert _explained(_written(folder), "production") == []


Change = Callable[[list[str]], None]


def _delete(at: int, lines: list[str]) -> None:
    del lines[at % len(lines)]


def _repeat(at: int, lines: list[str]) -> None:
    lines.insert(at % len(lines), lines[at % len(lines)])


def _swap(at: int, lines: list[str]) -> None:
    here, below = at % len(lines), (at + 1) % len(lines)
    lines[here], lines[below] = lines[below], lines[here]


def _indent(indentation: str, at: int, lines: list[str]) -> None:
    lines[at % len(lines)] = indentation + lines[at % len(lines)]


def _outdent(by: int, at: int, lines: list[str]) -> None:
    lines[at % len(lines)] = lines[at % len(lines)][by:]


def _replace(piece: str, scalar: str, at: int, lines: list[str]) -> None:
    """Puts ``scalar`` in the place of the value, the key, or everything behind the indentation."""
    line = lines[at % len(lines)]
    lines[at % len(lines)] = re.sub(piece, lambda match: match[1] + scalar, line, count=1)


def _insert(text: str, column: int, at: int, lines: list[str]) -> None:
    line = lines[at % len(lines)]
    lines[at % len(lines)] = line[: column % (len(line) + 1)] + text + line[column % (len(line) + 1) :]


_at = st.integers(0, 60)
_change: st.SearchStrategy[Change] = st.one_of(
    st.builds(partial, st.sampled_from([_delete, _repeat, _swap]), _at),
    st.builds(partial, st.just(_indent), st.sampled_from([" ", "  ", "    ", "\t", "- ", "# ", "\u00a0"]), _at),
    st.builds(partial, st.just(_outdent), st.integers(1, 4), _at),
    st.builds(
        partial,
        st.just(_replace),
        st.sampled_from([r"(: ).+", r"(^\s*(?:- )?)[\w.]+(?=:)", r"(^\s*).+", r"(\[|\{)[^,]+", r"(, )[^,:]+"]),
        st.sampled_from(SCALARS),
        _at,
    ),
    st.builds(partial, st.just(_insert), st.sampled_from([*SCALARS, ",", ":", " "]), st.integers(0, 60), _at),
)


def _changed(text: str, changes: list[Change]) -> str:
    lines = text.splitlines()
    for change in changes:
        if lines:
            change(lines)
    return "\n".join(lines) + "\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([MAIN, MAIN, INCLUDED, OVERLAY]), st.lists(_change, min_size=1, max_size=4))
def test_damaged_files_load_or_are_explained(folder: Path, name: str, changes: list[Change]) -> None:
    text = _changed(FILES[name], changes)
    for path, content in FILES.items():
        (folder / path).write_text(text if path == name else content, encoding="utf-8")
    _explained(folder / MAIN, "production" if name == OVERLAY else None)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([INCLUDED, OVERLAY]), st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_anything_may_stand_in_an_included_file_or_an_overlay(folder: Path, name: str, content: bytes) -> None:
    file = _written(folder)
    (folder / name).write_bytes(content)
    _explained(file, "production" if name == OVERLAY else None)


_PIECES = (
    "version m:f true 1 : - ? , [ ] { } [[ {{ }} \" ' # | > |- >+ |2 |0 & * ! % @ ` << ~ \\ \\u \\uD800 \\x0 "
    "/// a: : 'x' \"x\" ${A} $${ &a *a !!int !<x> !a!b %YAML %TAG --- ... 1.2 <<<<<<< \u00a0 \u201c \u2014 \ufeff"
)
_yaml = st.lists(
    st.sampled_from([*_PIECES.split(" "), " ", "\t", "\n", "\n  ", "\n    ", "\n- ", ": "]), max_size=14
).map("".join)


@settings(max_examples=500, deadline=None)
@given(_yaml)
def test_what_is_no_yaml_is_explained(text: str) -> None:
    with contextlib.suppress(YamlError):
        compose(Source("extensions.yaml", text))


# Plain data, as a file may hold it, out of which changes make what it may not.
_words = st.sampled_from(["a", "emails", "heavy-1", "x_y"])
_paths = st.sampled_from(["m:f", "shop.mail:send", "shop.mail:Mailer.send", "_a._b:_c"])
_durations = st.sampled_from([1, 10, 0.5, 3600, "10s", "500ms", "1.5h", "1d", 31_536_000])
_waits = _durations | st.lists(_durations, min_size=1, max_size=4)
_strategies = st.sampled_from(["fixed", "linear", "exponential"])
_shared: dict[str, st.SearchStrategy[Any]] = {
    "delay": _durations,
    "timeout": _durations,
    "onFailure": _paths,
    "onRetry": _paths,
    "uniqueJob": st.booleans(),
    "uniqueBy": st.lists(st.sampled_from(["id", "order.id", "a.b.c"]), min_size=1, max_size=3, unique=True),
    "uniqueLockTimeout": _durations,
}
_options = st.fixed_dictionaries(
    {},
    optional=_shared
    | {"queue": _words, "retries": st.integers(1, 20), "backoff": _strategies, "backoffSeconds": _waits},
)
_handlers = st.fixed_dictionaries(
    {"handler": _paths},
    optional={
        "id": st.sampled_from(["one", "two", "a:b.c-d", "_"]),
        "priority": st.integers(-1000, 1000),
        "onError": st.sampled_from(["stop", "continue"]),
        "async": st.booleans() | _options,
    },
)
_points = st.fixed_dictionaries(
    {},
    optional={
        "description": st.text("ab :#-'", max_size=8),
        "event": _paths,
        "schema": st.just("order.json"),
        "interruptible": st.booleans(),
        "handlers": st.none() | st.lists(_handlers, max_size=3),
    },
)
_broker = st.fixed_dictionaries(
    {},
    optional={
        "url": st.sampled_from(["memory://", "sqlite:///x.db", "amqp://u:p@h:5672/v"]),
        "namespace": _words,
        "publishTimeout": _durations,
    },
)
_defaults: dict[str, st.SearchStrategy[Any]] = {
    "default_queue": _words,
    "tries": st.integers(1, 20),
    "backoff": _waits,
    "backoff_strategy": _strategies,
}
_data = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "broker": _broker,
        "locks": st.none() | st.fixed_dictionaries({"url": st.sampled_from(["redis://h:6379/0", "sqlite:////x.db"])}),
        "async": st.fixed_dictionaries({}, optional=_shared | _defaults),
        "bootstrap": _paths,
        "pythonpath": st.lists(st.sampled_from(["src", "../lib"]), max_size=2),
        "include": st.sampled_from([[], ["points/*.yaml"], ["points/orders.yaml"]]),
        "unknownRouteFor": _durations,
        "queues": st.dictionaries(_words, st.none() | st.builds(dict, concurrency=st.integers(1, 9))),
        "extensions": st.dictionaries(st.sampled_from(["a", "order.placed", "a.b-c._d"]), st.none() | _points),
    },
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys or indexes, from the top down."""
    steps: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    for step in steps:
        yield value, step
        yield from _places(value[step])


@st.composite
def _changed_data(draw: st.DrawFn) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(draw(_data)))
    for _ in range(draw(st.integers(0, 2))):
        places = list(_places(data))
        if not places:
            break
        container, step = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["replace", "replace", "replace", "rename", "delete", "add"]))
        if change == "replace":
            container[step] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif change == "delete" or isinstance(container, list):
            del container[step]
        elif change == "rename":
            container[draw(st.sampled_from(["x", "a b", "${A}", f"{step}s", "", "handler", "1"]))] = container.pop(step)
        else:
            container["unknown"] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return json.loads(json.dumps(data))  # type: ignore[no-any-return]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_changed_data(), _changed_data(), st.booleans())
def test_data_that_is_put_together_loads_or_is_explained(
    folder: Path, main: dict[str, Any], other: dict[str, Any], overlay: bool
) -> None:
    file = _written(folder, extensions=json.dumps(main | {"include": [] if overlay else ["points/*.yaml"]}).encode())
    kept = other if overlay else {key: other[key] for key in ("queues", "extensions") if key in other}
    (folder / (OVERLAY if overlay else INCLUDED)).write_text(json.dumps(kept))
    _explained(file, "production" if overlay else None)


PUBLISHED = Draft7Validator(json.loads(schema_text()))

BEYOND_SCHEMA = {
    "an explicit false is legal where editors see a boolean": r"^`async` can't be `false`",
    "one value contradicts another": r"contradicts|has nothing to grow from|is for synchronous handlers",
    "the waits grow beyond a year": r"would wait longer than 365 days",
    "a text with a unit, longer than a year": r"is longer than 365 days",
    "0 where a duration must be longer": r"must be longer than 0$",
    "two of a name that must be unique": r"is taken$|is here twice|already belongs to",
    "a file that there is not, or of which nothing can be read": r"^there is no file|can't be read",
    "what a URL says beyond its start": r"URL",
    "a broker that keeps no locks": r"needs `locks.url`",
}
"""What the router refuses and the schema can't tell, as there is nothing in JSON Schema that could say it."""


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_changed_data())
def test_editors_and_router_agree_on_whole_files(folder: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, ensure_ascii=False)
    found = _explained(_written(folder, extensions=text.encode()))
    if "${" in text:
        return
    refused = [error.message for error in PUBLISHED.iter_errors(data)]
    if refused:
        assert found, refused
    else:
        beyond = re.compile("|".join(BEYOND_SCHEMA.values()))
        assert [message for message in found if not beyond.search(message)] == []
