"""Hot reload in an application, and how an edit is noticed: whatever way it is written, and never half."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from watchfiles._rust_notify import WatchfilesRustInternalError

from router import ConfigError, ConfigNotFound, RegistrationError, Router
from router.app import reloading
from router.brokers.memory import MemoryBroker
from router.config import Look, Watched, find, load
from router.jobs.job import decode
from router.worker import watching
from router.worker.watching import Watcher

HANDLERS = """
from dataclasses import dataclass

calls = []

@dataclass
class Order:
    order_id: int

def one(event):
    calls.append("one")

def two(event):
    calls.append("two")

def setup(router):
    calls.append("setup")
"""

FILE = """
version: 1
broker: {url: "memory://"}
extensions:
  raised: {handlers: [{handler: "reloaded:one"}]}
"""
WITH_TWO = FILE.replace('"reloaded:one"}', '"reloaded:one"}, {handler: "reloaded:two"}')


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "reloaded.py").write_text(HANDLERS)
    (tmp_path / "extensions.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(reloading, "LOOK_EVERY", 0.05)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("reloaded")]:
        del sys.modules[name]


@pytest.fixture
def app(folder: Path) -> Iterator[Router]:
    app = Router()
    yield app
    app.close()


def wait_until(condition: Callable[[], object], deadline: float = 20.0) -> None:
    until = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def dispatch_until(app: Router, condition: Callable[[], object]) -> None:
    """As an application does: it dispatches now and then, and nothing else looks at the file."""

    def dispatched() -> object:
        app.dispatch("raised", {})
        return condition()

    wait_until(dispatched)


def test_an_edit_is_in_force_soon_without_being_asked_for(app: Router, folder: Path) -> None:
    assert [*app.dispatch("raised", {}).results] == ["reloaded:one"]
    (folder / "extensions.yaml").write_text(WITH_TWO)
    dispatch_until(app, lambda: app.table.generation == 2)
    assert [*app.dispatch("raised", {}).results] == ["reloaded:one", "reloaded:two"]


def test_a_router_stays_with_the_overlay_it_was_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "extensions.test.yaml").write_text("async: {tries: 9}\n")
    monkeypatch.setenv("ROUTER_ENV", "production")
    app = Router("extensions.yaml", env="test")
    assert app.table.settings.defaults.tries == 9
    assert app.reload().settings.defaults.tries == 9


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FILE.replace("handlers", "handelrs"), "did you mean `handlers`?"),
        (
            FILE.replace("reloaded:one", "reloaded:oen"),
            "extensions.yaml:5:33: error: reloaded:oen: module",
        ),
        (FILE.replace("reloaded:one", "reloaded_exit:one"), "importing reloaded_exit fails: SystemExit: 3"),
    ],
)
def test_a_broken_edit_changes_nothing_and_says_why_once(
    app: Router, folder: Path, caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    (folder / "reloaded_exit.py").write_text("raise SystemExit(3)")
    (folder / "extensions.yaml").write_text(text)
    dispatch_until(app, lambda: why in caplog.text)
    for _ in range(20):
        time.sleep(0.01)
        assert [*app.dispatch("raised", {}).results] == ["reloaded:one"]
    assert app.table.generation == 1
    assert caplog.text.count("what was in force stays") == 1
    (folder / "extensions.yaml").write_text(WITH_TWO)
    dispatch_until(app, lambda: app.table.generation == 2)


def test_without_hot_reload_only_reload_looks_at_the_file(folder: Path) -> None:
    app = Router(hot_reload=False)
    (folder / "extensions.yaml").write_text(WITH_TWO)
    assert app._reloader.look_at > time.monotonic() + 1e9
    assert app.reload().generation == 2
    assert [*app.dispatch("raised", {}).results] == ["reloaded:one", "reloaded:two"]


def test_a_reload_that_fails_raises_and_changes_nothing(app: Router, folder: Path) -> None:
    (folder / "extensions.yaml").write_text(FILE.replace("reloaded:one", "nowhere:one"))
    with pytest.raises(ConfigError, match="there is no module 'nowhere'"):
        app.reload()
    assert app.table.generation == 1


def test_a_current_directory_that_was_deleted_keeps_no_edit_out(
    app: Router, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "release").mkdir()
    monkeypatch.chdir(folder / "release")
    (folder / "release").rmdir()
    (folder / "extensions.yaml").write_text(WITH_TWO)
    assert len(app.reload().points["raised"].routes) == 2
    (folder / "extensions.yaml").unlink()
    with pytest.raises(ConfigNotFound, match="looked in a current directory that was deleted"):
        app.reload()
    with pytest.raises(ConfigNotFound, match="in a current directory that was deleted"):
        find(environ={})


def test_a_reload_that_takes_long_does_not_undo_a_later_one(
    app: Router, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing, goes_on = threading.Event(), threading.Event()
    meeting = SimpleNamespace(wait=lambda: (importing.set(), goes_on.wait(20)))
    monkeypatch.setitem(sys.modules, "meeting", meeting)  # type: ignore[arg-type]
    (folder / "reloaded_slow.py").write_text("import meeting\nmeeting.wait()\ndef handler(event): ...")
    (folder / "extensions.yaml").write_text(FILE.replace("reloaded:one", "reloaded_slow:handler"))
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(app.reload)
        assert importing.wait(20)
        (folder / "extensions.yaml").write_text(WITH_TWO)
        table = app.reload()
        goes_on.set()
        assert slow.result() is app.table is table


def test_an_event_under_way_ends_under_the_table_it_began_with(app: Router, folder: Path) -> None:
    def edits(event: object) -> None:
        (folder / "extensions.yaml").write_text(FILE.replace("reloaded:one", "reloaded:two"))
        app.reload()

    app.register("raised", edits, priority=1, id="edits")
    assert [*app.dispatch("raised", {}).results] == ["edits", "reloaded:one"]
    assert [*app.dispatch("raised", {}).results] == ["edits", "reloaded:two"]


def test_connections_and_bootstrap_stay_until_the_process_ends_and_that_is_said(
    app: Router, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = app.broker
    edited = WITH_TWO.replace('"memory://"', '"sqlite:///other.db", namespace: other')
    (folder / "extensions.yaml").write_text(edited + "bootstrap: reloaded:setup\n")
    table = app.reload()
    assert app.broker is broker
    assert (table.settings.broker_url, table.settings.namespace) == ("memory://", "router")
    for key in ("broker.url", "broker.namespace", "bootstrap"):
        assert f"{key} is another now; that takes effect when this process is started again" in caplog.text
    assert "setup" not in sys.modules["reloaded"].calls
    assert [*app.dispatch("raised", {}).results] == ["reloaded:one", "reloaded:two"]


def test_payloads_keep_their_version_until_the_code_that_makes_them_is_started_again(
    app: Router, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def file(version: int, event: str = "") -> str:
        upcasters = ["reloaded:one"] * (version - 1)
        about = f"version: {version}, upcasters: {json.dumps(upcasters)}, {event}"
        return f"{FILE}  queued: {{{about} handlers: [{{handler: 'reloaded:one', async: true}}]}}\n"

    def sent() -> int:
        app.dispatch("queued", {"order_id": 7})
        assert isinstance(app.broker, MemoryBroker)
        return decode(app.broker.waiting()[-1].body).event_version

    said = "extensions.queued.version is another now; that takes effect when this process is started again"
    (folder / "extensions.yaml").write_text(file(2))
    app.reload()
    assert (sent(), caplog.text) == (2, "")  # a new point
    for _ in range(2):
        (folder / "extensions.yaml").write_text(file(3))
        app.reload()
        assert said in caplog.text
        assert (sent(), app.table.points["queued"].upcasters) == (2, ("reloaded:one",))
        caplog.clear()
    (folder / "extensions.yaml").write_text(file(3, "event: 'reloaded:Order',"))
    app.reload()
    assert (sent(), caplog.text) == (3, "")  # it was checked by the type that the file names now
    app.close()
    assert Router().table.points["queued"].version == 3


def test_registered_routes_survive_and_a_new_file_may_not_take_their_ids(app: Router, folder: Path) -> None:
    app.register("raised", "reloaded:two")
    (folder / "extensions.yaml").write_text(FILE.replace("reloaded:one", "reloaded:setup"))
    app.reload()
    assert [*app.dispatch("raised", {}).results] == ["reloaded:setup", "reloaded:two"]
    (folder / "extensions.yaml").write_text(WITH_TWO)
    with pytest.raises(RegistrationError, match="already has a route 'reloaded:two'"):
        app.reload()
    assert app.table.generation == 2


def test_the_log_says_what_changed_and_that_code_stays(
    app: Router, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (folder / "extensions.yaml").write_text(WITH_TWO)
    app.reload()
    assert "added reloaded:two of raised" in caplog.text
    assert "generation 2 is in force; modules that were imported before keep their code" in caplog.text


def test_a_forked_process_reloads_by_itself(app: Router, folder: Path) -> None:
    (folder / "extensions.yaml").write_text(WITH_TWO)
    dispatch_until(app, lambda: app._reloader._thread is not None)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            dispatch_until(app, lambda: app.table.generation == 2)
            (folder / "extensions.yaml").write_text(FILE)
            dispatch_until(app, lambda: app.table.generation == 3)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- how files are edited --


def _composed(folder: Path) -> Path:
    (folder / "points").mkdir()
    (folder / "points/a.yaml").write_text('extensions: {a: {schema: a.json, handlers: [{handler: "m:a"}]}}')
    (folder / "points/a.json").write_text("{}")
    (folder / "extensions.yaml").write_text("version: 1\ninclude: [points/*.yaml]\n")
    (folder / "extensions.test.yaml").write_text("extensions: {a: {handlers: [{id: 'm:a', priority: 3}]}}")
    return folder / "extensions.yaml"


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def _rename(folder: Path) -> None:
    (folder / "new").write_text("version: 1\n")
    (folder / "new").rename(folder / "extensions.yaml")


EDITS: dict[str, Callable[[Path], None]] = {
    "written in place": _write("extensions.yaml", "version: 1\n"),
    "written by rename": _rename,
    "deleted": lambda folder: (folder / "extensions.yaml").unlink(),
    "an included file": _write("points/a.yaml", "extensions: {}"),
    "a schema": _write("points/a.json", '{"type": "object"}'),
    "the overlay": _write("extensions.test.yaml", "extensions: {b: {}}"),
    "a file more that fits": _write("points/b.yaml", "extensions: {b: {}}"),
    "a file less that fits": lambda folder: (folder / "points/a.yaml").unlink(),
    "a folder gone": lambda folder: shutil.rmtree(folder / "points"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_every_file_that_was_read_is_watched(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    loaded = load(_composed(tmp_path), {}, env="test")
    assert loaded.settings.points[0].routes[0].priority == 3
    look = Look(loaded.watched)
    assert not look.changed()
    edit(tmp_path)
    assert look.changed()
    assert not look.changed()


def test_a_file_that_was_missing_is_watched(tmp_path: Path) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\ninclude: [more.yaml]\nextensions: {a: {schema: a.json}}\n")
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    look = Look(caught.value.watched)
    assert not look.changed()
    (tmp_path / "more.yaml").write_text("extensions: {}")
    assert look.changed()
    (tmp_path / "a.json").write_text("{}")
    assert look.changed()


def test_a_link_that_points_elsewhere_is_an_edit(tmp_path: Path) -> None:
    """As Kubernetes swaps a ConfigMap: ..data is replaced, the file itself stays the same link."""
    for version, text in (("v1", "version: 1\n"), ("v2", "version: 1\nbootstrap: a:b\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "extensions.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "extensions.yaml").symlink_to("..data/extensions.yaml")
    look = Look(load(tmp_path / "extensions.yaml", {}).watched)
    assert not look.changed()
    (tmp_path / "..next").symlink_to("v2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    assert look.changed()


def test_a_file_touched_but_not_edited_is_no_edit(tmp_path: Path) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\n")
    look = Look(load(file, {}).watched)
    os.utime(file, (1, 1))
    assert not look.changed()
    file.write_text("version: 1\n")
    assert not look.changed()


def test_an_edit_of_the_same_size_in_the_same_tick_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\n")
    look = Look(load(file, {}).watched)
    assert not look.changed()
    times = file.stat()
    file.write_text("version: 2\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert look.changed()


def test_a_file_that_is_just_being_written_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "extensions.yaml"
    file.write_text("")
    look = Look(Watched({str(file): None}))
    assert look.changed()
    pieces = ["version: 1\n", "extensions:\n", "  a: {}\n"]

    def wait(seconds: float) -> None:
        if pieces:
            with file.open("a") as stream:
                stream.write(pieces.pop(0))

    look.wait_until_quiet(wait)
    assert not pieces
    assert not look.changed()


@pytest.mark.parametrize("error", [WatchfilesRustInternalError("Too many open files"), FileNotFoundError("gone")])
def test_an_edit_is_noticed_also_where_folders_cannot_be_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """As where inotify has no more instances, or where a folder vanishes at that moment."""
    monkeypatch.setattr(watching, "watch", Mock(side_effect=error))
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.05)
    file = tmp_path / "extensions.yaml"
    file.write_text("version: 1\n")
    changes = threading.Semaphore(0)
    watcher = Watcher(load(file, {}).watched)
    watcher.start(changes.release)
    try:
        for number in range(2):
            file.write_text(f"version: 1\n# edit {number}\n")
            assert changes.acquire(timeout=20)
    finally:
        watcher.close()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(error) in warning


def test_a_watcher_follows_what_the_last_load_read(tmp_path: Path) -> None:
    main = tmp_path / "extensions.yaml"
    main.write_text("version: 1\n")
    changes = threading.Semaphore(0)
    watcher = Watcher(load(main, {}).watched)
    watcher.start(changes.release)
    try:
        file = _composed(tmp_path)
        assert changes.acquire(timeout=20)
        watcher.watch(load(file, {}, env="test").watched)
        (tmp_path / "points/a.json").write_text('{"type": "object"}')
        assert changes.acquire(timeout=20)
        shutil.rmtree(tmp_path / "points")
        assert changes.acquire(timeout=20)
        (tmp_path / "points").mkdir()
        (tmp_path / "points/b.yaml").write_text("extensions: {}")
        assert changes.acquire(timeout=20)
    finally:
        watcher.close()
