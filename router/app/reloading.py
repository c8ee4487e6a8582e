"""Hot reload in an application: who looks at the file, when, and in which thread it is loaded."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import msgspec

from router.config import Look, Watched
from router.config.settings import Point, Settings
from router.config.watched import QUIET
from router.errors import RouterError
from router.routing.table import RoutingTable, difference

log = logging.getLogger("router.app")

LOOK_EVERY = 1.0


class Reloader:
    """Calls ``reload`` in a short-lived thread when the file was edited; again where it returns None. ``look_at``: the
    monotonic time at which the next dispatch is to call `look`."""

    def __init__(self, reload: Callable[[Callable[[Watched], bool]], object]) -> None:
        self.look_at = math.inf
        self._reload = reload
        self._look = Look(Watched())
        self._thread: threading.Thread | None = None
        self._begun = False

    def watch(self, watched: Watched) -> None:
        """From now on look at this: what was read last."""
        self._look = Look(watched)

    def look_from_now_on(self) -> None:
        """Let dispatches look, at most once a second."""
        self.look_at = time.monotonic() + LOOK_EVERY

    def look_no_more(self) -> None:
        """Let dispatches look at nothing."""
        self.look_at = math.inf

    def look(self) -> None:
        """See whether the file was edited; if it was, have it loaded while everything goes on under the old table."""
        self.look_at = time.monotonic() + LOOK_EVERY
        if self._thread is not None and self._thread.is_alive():
            return
        # What a thread had begun when this process was forked off is still to be done here.
        if self._begun or self._look.changed():
            self._begun = True
            self._thread = threading.Thread(target=self._run, name="router-reload", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._look.wait_until_quiet(time.sleep)
            while self._reload(_is_quiet) is None:
                self._look.wait_until_quiet(time.sleep)
        except RouterError as error:
            log.error("reload: the file can't be used, what was in force stays:\n%s", error)
        except Exception:
            log.exception("reload: the file can't be used, what was in force stays")
        self._begun = False


def _is_quiet(watched: Watched) -> bool:
    """Whether the files stay what was read: else that was perhaps half of what somebody was writing."""
    time.sleep(QUIET)
    return not Look(watched).changed()


def keep_versions(new: Settings, old: RoutingTable) -> tuple[Settings, tuple[str, ...]]:
    """``new`` with the versions that the points of ``old`` have, since the code that makes their payloads stays; and
    the keys of the file for which that made a difference. With another ``event`` only what fits that goes out."""
    kept = []

    def keep(point: Point) -> Point:
        before = old.points.get(point.name)
        if before is None or before.version == point.version or point.event not in (before.event, None):
            return point
        kept.append(f"extensions.{point.name}.version")
        return msgspec.structs.replace(point, version=before.version, upcasters=before.upcasters)

    return msgspec.structs.replace(new, points=tuple(map(keep, new.points))), tuple(kept)


def log_change(old: RoutingTable, new: RoutingTable, kept: tuple[str, ...]) -> None:
    """Say what a reload has changed, and what it could not: ``kept`` are the keys whose old value stays."""
    for change in difference(old, new) or ["no route changed"]:
        log.info("reload: %s", change)
    bootstrap = ["bootstrap"] if old.settings.bootstrap != new.settings.bootstrap else []
    for key in [*kept, *bootstrap]:
        log.warning("reload: %s is another now; that takes effect when this process is started again", key)
    log.info("reload: generation %d is in force; modules that were imported before keep their code", new.generation)
