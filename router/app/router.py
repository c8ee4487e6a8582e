"""The Router: holds the current table and the broker; dispatches, registers, reloads."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import msgspec

from router.app.aside import Stages, run_aside
from router.app.context import current_job
from router.app.dispatch import Dispatch, Overrides, Raised, lock_keys, overrides
from router.app.imports import import_mistakes
from router.app.listeners import TOLD_IN_APPLICATIONS, Listener, Listeners
from router.app.plan import Plan, make_plan, run_to_end
from router.app.registering import check_importable, check_route, path_of, warn_caller
from router.app.reloading import Reloader, keep_versions, log_change
from router.app.tracing import current_trace
from router.brokers import connect
from router.brokers.base import Broker, Outgoing, Receipt, Topology
from router.config.problems import did_you_mean
from router.config.settings import DEFAULT_PRIORITY, AsyncDefaults, OnError, Point, Route, Settings, keep_connections
from router.config.watched import Watched
from router.errors import (
    BrokerError,
    ConfigError,
    DispatchError,
    HandlerImportError,
    LocksUnavailable,
    RegistrationError,
    UnknownPoint,
    in_words,
)
from router.forks import in_forked_children
from router.jobs.following import LifecycleEvent, Name, level, log_event, of_job
from router.jobs.job import decode
from router.routing.events import import_event_type
from router.routing.handlers import Handler, as_handler, import_bootstrap, import_handler, refuse_coroutine, where
from router.routing.references import References
from router.routing.table import RoutingTable, compile_table

if TYPE_CHECKING:
    from router.app.after_commit import AfterCommit

log = logging.getLogger("router.app")

BULK = 1000
"""Jobs that `dispatch_many` publishes and confirms together."""


class _State:
    """A table and what was made of it so far. Replaced whole when routes change."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self.plans: dict[str, Plan] = {}
        self.point_of_type: dict[type, str] | None = None


_set_up = threading.local()


def being_set_up() -> Router | None:
    """The Router whose ``bootstrap`` runs in this thread."""
    return getattr(_set_up, "router", None)


class Router:
    """Routes events as one file says. Safe to use from many threads, and after a fork.

    ``config``: the file; None looks in the default places. ``env``: the name of its overlay, else ``$ROUTER_ENV``.
    Raises ConfigNotFound or ConfigError; HandlerImportError where ``bootstrap`` fails. Handlers are imported when their
    point is first raised, so that a module of handlers may import the module that makes the Router.

    ``hot_reload``: each second the next dispatch looks whether the file was edited, and has it loaded in a thread; what
    can't be used is logged and changes nothing.
    """

    _may_declare = True

    def __init__(self, config: str | Path | None = None, *, env: str | None = None, hot_reload: bool = True) -> None:
        from router.config import find, load  # slow to import, and a worker's children read no file

        loaded = load(find(None if config is None else str(config), env), env=env)
        self._start(loaded.settings, generation=1)
        self._reloader.watch(loaded.watched)
        if hot_reload:
            self._reloader.look_from_now_on()

    @classmethod
    def from_settings(cls, settings: Settings, generation: int = 1, *, declare: bool = True) -> Router:
        """A Router for a file that was read and checked elsewhere, as a worker's children get it. ``declare`` False: on
        RabbitMQ it makes nothing (`router run-worker --no-declare`)."""
        self = cls.__new__(cls)
        self._may_declare = declare
        self._start(settings, generation)
        return self

    def _start(self, settings: Settings, generation: int) -> None:
        self._renew()
        self._routes: list[Route] = []
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._broker: Broker | None = None
        self._declared: str | None = None
        self._in_bootstrap = False
        self.by_hand: list[str] = []
        """What was registered outside ``bootstrap``, in words: another Router of the same file lacks it."""
        self.listeners = Listeners()
        self.references = References()
        in_forked_children(self, Router._renew)
        self._reloader = Reloader(self._reload)
        self._loads = self._load_in_force = 0
        self._state = _State(compile_table(settings, generation=generation))
        extend_import_path(settings)
        self._bootstrap()

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def _bootstrap(self) -> None:
        path = self.table.settings.bootstrap
        if path is None:
            return
        before = being_set_up()
        _set_up.router = self
        self._in_bootstrap = True
        try:
            setup = import_bootstrap(path)
            try:
                setup(self)
            except (Exception, SystemExit) as error:  # user code
                raise HandlerImportError(f"{path}: {in_words(error)}{where(error)}") from error
        finally:
            self._in_bootstrap = False
            _set_up.router = before

    # -- the table -------------------------------------------------------------------------------------------------

    @property
    def table(self) -> RoutingTable:
        """The routing table in force: the file's routes and the registered ones."""
        return self._state.table

    def look_no_more(self) -> None:
        """As if it had been made with ``hot_reload=False``."""
        self._reloader.look_no_more()

    def reload(self) -> RoutingTable:
        """Read the file again and put it in force, in this thread: what runs goes on under the old table.

        Registered routes stay, and so do the connections, ``bootstrap``, what was imported already and the ``version``
        of each point, until the process is started again; of a file that wants others a warning is logged. Raises
        ConfigError, ConfigNotFound or RegistrationError, changing nothing.
        """
        table = self._reload(lambda watched: True)
        assert table is not None
        return table

    def _reload(self, certain: Callable[[Watched], bool]) -> RoutingTable | None:
        """`reload`, but nothing changes where ``certain`` denies that the files are still what was read; then None."""
        from router.config import find, load

        with self._lock:
            self._loads += 1
            number = self._loads
        old = self.table
        try:
            loaded = load(find(old.settings.path, old.settings.env), env=old.settings.env)
        except ConfigError as error:
            self._reloader.watch(error.watched)
            raise
        self._reloader.watch(loaded.watched)
        settings, connections = keep_connections(loaded.settings, old.settings)
        settings, versions = keep_versions(settings, old)
        extend_import_path(settings)
        mistakes = loaded.composition.ordered(import_mistakes(loaded.composition, later=False))
        if mistakes:
            raise ConfigError(mistakes, loaded.watched)
        if not certain(loaded.watched):
            return None
        with self._lock:
            if number < self._load_in_force:  # another thread has read the file later, and was faster
                return self.table
            try:
                state = _State(compile_table(settings, self._routes, self.table.generation + 1))
            except ValueError as error:
                raise RegistrationError(str(error)) from error
            state.plans = {name: self._make_plan(point) for name, point in state.table.points.items()}
            self._state = state
            self._load_in_force = number
        log_change(old, state.table, connections + versions)
        return state.table

    def register(
        self,
        point: str | type,
        handler: str | Callable[..., Any],
        *,
        priority: int = DEFAULT_PRIORITY,
        id: str | None = None,
        on_error: OnError = "stop",
    ) -> Route:
        """Add a synchronous route, in this process. ``handler``: an import path or anything that can be a handler.

        ``point``: its name (a new one is declared by this) or its event type. Raises RegistrationError.
        """
        path = path_of(handler)
        check_route(path, point, priority, id, on_error)
        try:
            ready = import_handler(handler) if isinstance(handler, str) else as_handler(handler, path)
        except HandlerImportError as error:
            raise RegistrationError(str(error)) from error
        route = Route(id or path, self._point_name(point), path, priority, on_error)
        return self._add(route, ready)

    def register_async(
        self,
        point: str | type,
        handler: str | Callable[..., Any],
        *,
        priority: int = DEFAULT_PRIORITY,
        id: str | None = None,
        **options: Any,
    ) -> Route:
        """Add a route that runs later. ``options`` are those of the file's ``async:``, by the same names.

        Call it from the file's ``bootstrap``, which workers run too; elsewhere it warns, since workers won't know the
        route. Raises RegistrationError.
        """
        path = path_of(handler)
        check_importable(handler, path)
        check_route(path, point, priority, id)
        if not self._in_bootstrap:
            warn_caller(f"register_async of {path} outside `bootstrap`: workers won't know this route")
        try:
            from router.config import async_options

            ready = async_options(options, self._defaults_of(self._point_name(point)))
        except ValueError as error:
            raise RegistrationError(f"{path}: {error}") from error
        if ready.unique is not None and self.broker.locks is None:
            raise RegistrationError(f"{path}: uniqueJob needs locks.url in the file")
        return self._add(Route(id or path, self._point_name(point), path, priority, options=ready), None)

    def register_reference(self, cls: type, *, key: Callable[[Any], Any], load: Callable[[type, Any], Any]) -> None:
        """Let objects of ``cls``, and of classes derived from it, travel by reference: as their type and key.

        ``key(object)`` is what JSON can hold, a number, text or a list of such; None where there is none yet. A worker
        calls ``load(type, key)`` in the time of the attempt, with the key as JSON has it: a UUID is text. None says
        that the object is gone, and then ``onMissing`` decides.
        Call it in the file's ``bootstrap``, which workers run too. Synchronous handlers get the object itself. For
        classes whose objects are no dataclasses or models, which travel by value. Raises RegistrationError.
        """
        with self._lock:
            self.references.add(cls, key, load)
        self._note(f"the reference to {cls.__qualname__}")

    def _defaults_of(self, point: str) -> AsyncDefaults:
        found, defaults = self.table.points.get(point), self.table.settings.defaults
        return found.defaults(defaults) if found else defaults

    def _add(self, route: Route, handler: Handler | None) -> Route:
        with self._lock:
            routes = [*self._routes, route]
            try:
                table = compile_table(self.table.settings, routes, self.table.generation)
            except ValueError as error:
                raise RegistrationError(str(error)) from error
            self._routes = routes
            if handler is not None:
                self._handlers[route.point, route.id] = handler
            self._state = _State(table)
        self._note(f"route {route.id} of {route.point}")
        return route

    def _note(self, added: str) -> None:
        if not self._in_bootstrap:
            self.by_hand.append(added)

    def _point_name(self, point: str | type) -> str:
        return point if isinstance(point, str) else self._point_of(point)

    def _point_of(self, event_type: type) -> str:
        state = self._state
        if state.point_of_type is None:
            declared = [(name, point.event) for name, point in state.table.points.items() if point.event]
            state.point_of_type = {import_event_type(path, travels=False): name for name, path in declared}
        try:
            return state.point_of_type[event_type]
        except KeyError:
            raise UnknownPoint(
                f"no point has the event type {event_type.__module__}:{event_type.__qualname__}; "
                "declare it by `event:` in the file, or dispatch by the point's name"
            ) from None

    # -- following -------------------------------------------------------------------------------------------------

    def on(self, event: Name, listener: Listener) -> None:
        """Let ``listener`` be told whenever that happens: ``app.on("failed", alert)``, with a `LifecycleEvent`.

        The names and what is known of each are in docs/following.md. Call it in the file's ``bootstrap``, which workers
        run too. In an application a listener is called by the dispatch, in its thread, in a worker by one of its
        children, in a thread of its own. What it raises is logged, and changes nothing. A process that is killed tells
        nothing: what must not be missed is a job, or an ``onFailure``. Raises RegistrationError.
        """
        with self._lock:
            self.listeners.add(event, listener)
            self._state = _State(self.table)
        self._note(f"a listener of {event!r}")
        if not self._in_bootstrap and event not in TOLD_IN_APPLICATIONS:
            warn_caller(f"on({event!r}) outside `bootstrap`: it happens in workers, which won't know this listener")

    def _follows(self, name: Name) -> bool:
        """Whether anybody wants to know when that happens."""
        return name in self.listeners.by_name or log.isEnabledFor(level(name))

    def _tell(self, events: Iterable[LifecycleEvent]) -> None:
        for event in events:
            log_event(log, event)
            self.listeners.tell(event)

    def _now(self) -> float:
        return time.time()

    # -- plans -----------------------------------------------------------------------------------------------------

    def _plan(self, point: str | type) -> Plan:
        """The plan of a point, by name or event type: made once for each table."""
        state = self._state
        name = self._point_name(point)
        plan = state.plans.get(name)
        if plan is None:
            found = state.table.points.get(name)
            if found is None:
                hint = did_you_mean(name, state.table.points, form="'{}'")
                raise UnknownPoint(f"unknown point {name!r}" + (f"; {hint}" if hint else ""))
            plan = state.plans[name] = self._make_plan(found)
        return plan

    def _make_plan(self, point: Point) -> Plan:
        return make_plan(point, self._handlers, self.references, followed=self._follows("dispatched"))

    # -- dispatching -----------------------------------------------------------------------------------------------

    def dispatch(
        self,
        event: str | object,
        payload: Any = None,
        *,
        delay: float | str | timedelta | None = None,
        at: datetime | None = None,
        queue: str | None = None,
    ) -> Dispatch:
        """Raise an extension point: run its synchronous handlers by priority, then queue the others, confirmed.

        ``event``: the point's name, with ``payload`` a mapping (None: empty) or an event object; or an event object
        alone, whose type says which point. ``delay``, ``at``, ``queue`` are for this event's jobs. An exception of a
        synchronous handler propagates unchanged, and nothing is queued.

        Raises UnknownPoint, InvalidPayload, HandlerImportError; DispatchError where jobs were not confirmed.
        """
        if monotonic() >= self._reloader.look_at:
            self._reloader.look()
        if event.__class__ is str:
            plan = self._state.plans.get(event)
            if (
                plan is not None
                and plan.plain is not None
                and payload.__class__ is dict
                and delay is None
                and at is None
                and queue is None
            ):
                results = {}
                for route_id, call in plan.plain:
                    results[route_id] = result = call(payload)
                    if result.__class__ is CoroutineType:
                        refuse_coroutine(result)
                return Dispatch(results)
        raised = self._begin(event, payload, self._overrides(delay, at, queue))
        self._run_steps(raised)
        return self._finish([raised])[0]

    async def adispatch(
        self,
        event: str | object,
        payload: Any = None,
        *,
        delay: float | str | timedelta | None = None,
        at: datetime | None = None,
        queue: str | None = None,
    ) -> Dispatch:
        """`dispatch` from asyncio code, which never keeps the event loop waiting.

        Handlers that are ``async def`` are awaited. All else is done in threads of the loop's default executor: looking
        at the file, importing at the first use of a point, checking and encoding the payload, synchronous handlers,
        publishing. All handlers run one after the other, by priority. A synchronous one may block; it has the caller's
        context variables, and what it sets of them the caller sees; but it isn't in the loop's thread. A handler that
        needs the loop, or what belongs to that thread, is an ``async def``.

        Cancelled, it stops before the next handler and before publishing; what a thread is in the middle of goes on.
        """
        stages = self._stages(event, payload, delay, at, queue)
        return await run_aside(stages, threads=not self._only_awaits(event))

    def _stages(
        self,
        event: str | object,
        payload: Any,
        delay: float | str | timedelta | None,
        at: datetime | None,
        queue: str | None,
    ) -> Stages[Dispatch]:
        raised = self._prepare(event, payload, delay, at, queue)
        yield from self._handled(raised)
        return self._finish([raised])[0]

    def _prepare(
        self,
        event: str | object,
        payload: Any,
        delay: float | str | timedelta | None,
        at: datetime | None,
        queue: str | None,
    ) -> Raised:
        if monotonic() >= self._reloader.look_at:
            self._reloader.look()
        return self._begin(event, payload, self._overrides(delay, at, queue))

    def _handled(self, raised: Raised) -> Stages[None]:
        for step in raised.plan.steps:
            yield None
            with raised.handling(step):
                call = partial(raised.call, step)
                raised.results[step.route.id] = (yield call) if step.handler.is_async else call()
            if raised.stops_at(step):
                break
        yield None

    def _only_awaits(self, event: str | object) -> bool:
        """Whether a dispatch does nothing but await handlers: no thread is needed for that."""
        plan = self._state.plans.get(event) if event.__class__ is str else None
        return (
            plan is not None
            and not plan.later
            and plan.event_type is None
            and plan.validator is None
            and monotonic() < self._reloader.look_at
            and "dispatched" not in self.listeners.by_name  # which may block
            and all(step.handler.is_async for step in plan.steps)
        )

    def dispatch_many(self, events: Iterable[tuple[str, Any] | object]) -> list[Dispatch]:
        """Dispatch many events in their order, their jobs confirmed a thousand at a time.

        Each event is a pair of point and payload, or an event object. The first exception of a synchronous handler (or
        of a wrong payload) ends it: the jobs of the events before it are confirmed, then it is raised.
        """
        done: list[Dispatch] = []
        waiting: list[Raised] = []
        count = 0
        try:
            for event in events:
                point, payload = event if isinstance(event, tuple) else (event, None)
                raised = self._prepare(point, payload, None, None, None)
                self._run_steps(raised)
                waiting.append(raised)
                count += len(raised.plan.later)
                if count >= BULK:
                    batch, waiting, count = waiting, [], 0
                    done += self._finish(batch, done)
        finally:
            done += self._finish(waiting, done)
        return done

    def after_commit(self, session: Any) -> AfterCommit:
        """Dispatches that wait for the commit of a Session or AsyncSession of SQLAlchemy (2.0 or newer).

        ``app.after_commit(session).dispatch("order.placed", {"order_id": 7})`` checks and encodes the event now; what
        is changed later, of the objects or of the file, changes nothing. After the outermost commit the handlers run
        and the jobs are queued, those of one commit together; under an AsyncSession as `adispatch` does it. A rollback,
        also of the savepoint in which it was called, drops it. Outside a transaction it belongs to the next one.

        Nothing undoes a commit: an exception of a handler, which the other events go on without, or a DispatchError,
        which `resend` helps with, is logged and comes out of the ``commit()``. A process that dies right after the
        commit has dispatched nothing.
        """
        from router.app.after_commit import AfterCommit  # only where there are sessions

        return AfterCommit(self, session)

    def resend(self, unconfirmed: Sequence[Outgoing]) -> Receipt:
        """Publish again what a DispatchError could not confirm, with the same ids. Raises DispatchError."""
        now = time.time()
        due = [decode(job.body).not_before for job in unconfirmed]
        again = [
            msgspec.structs.replace(job, delay=max(when - now, 0.0)) if when else job
            for job, when in zip(unconfirmed, due, strict=True)
        ]
        return self._publish(again)

    def _begin(self, event: Any, payload: Any, wanted: Overrides) -> Raised:
        plan = self._plan(event if isinstance(event, str) else type(event))
        if isinstance(event, str):
            event = {} if payload is None else payload
        elif payload is not None:
            raise TypeError("an event object is its own payload: dispatch(event), or dispatch(point, payload)")
        event, data = plan.prepare(event)
        keys = lock_keys(plan, data, self.table.settings.namespace)
        return Raised(plan, event, data, wanted, keys, current_job.get(), current_trace())

    def _run_steps(self, raised: Raised) -> None:
        for step in raised.plan.steps:
            with raised.handling(step):
                result = raised.call(step)
                raised.results[step.route.id] = run_to_end(result, step.route.id) if step.handler.is_async else result
            if raised.stops_at(step):
                break

    def _finish(self, batch: Sequence[Raised], before: Sequence[Dispatch] = ()) -> list[Dispatch]:
        """Publish the jobs of the batch together, and say what became of each event."""
        jobs = [raised.jobs() for raised in batch]
        outgoing = [job for of_event in jobs for job in of_event.values()]
        try:
            duplicates = self._publish(outgoing).duplicates if outgoing else {}
        except DispatchError as error:
            error.confirmed = (*(job for dispatch in before for job in dispatch.jobs.values()), *error.confirmed)
            raise
        if self._follows("dispatched") or self._follows("skipped"):
            for raised in batch:
                self._tell(raised.followed(self._now()))
        return [raised.result(of_event, duplicates) for raised, of_event in zip(batch, jobs, strict=True)]

    def _overrides(self, delay: float | str | timedelta | None, at: datetime | None, queue: str | None) -> Overrides:
        if delay is None and at is None and queue is None:
            return Overrides()
        return overrides(delay, at, queue, self.table.queues(), time.time())

    # -- the broker ------------------------------------------------------------------------------------------------

    @property
    def broker(self) -> Broker:
        """The broker of the file, opened at first use."""
        with self._lock:
            if self._broker is None:
                settings = self.table.settings
                urls = settings.broker_url, settings.namespace, settings.locks_url
                self._broker = connect(*urls, declare=self._may_declare)
            return self._broker

    def _publish(self, outgoing: Sequence[Outgoing]) -> Receipt:
        try:
            timeout = self.table.settings.publish_timeout
            self._declare(timeout)
            receipt = self.broker.publish(outgoing, deadline=timeout)
        except (BrokerError, LocksUnavailable) as error:
            raise DispatchError(f"nothing was queued: {error}", unconfirmed=outgoing) from error
        if self._follows("queued") or (receipt.duplicates and self._follows("duplicate")):
            self._tell(_followed(outgoing, receipt, self._now()))
        if receipt.unconfirmed:
            left = [job for job in outgoing if job.id in receipt.unconfirmed]
            why = "; ".join(sorted(set(receipt.unconfirmed.values())))
            raise DispatchError(
                f"{len(left)} of {len(outgoing)} jobs were not confirmed: {why}",
                confirmed=receipt.confirmed,
                unconfirmed=left,
            )
        return receipt

    def _declare(self, deadline: float) -> None:
        table = self.table
        if self._declared != table.hash:
            self.broker.declare(topology(table), deadline=deadline)
            self._declared = table.hash

    def _drop_broker(self) -> None:
        broker, self._broker, self._declared = self._broker, None, None
        if broker is not None:
            broker.close()

    def close(self) -> None:
        """Close the connections; they are opened again when needed."""
        with self._lock:
            self._drop_broker()


def _followed(outgoing: Sequence[Outgoing], receipt: Receipt, at: float) -> Iterator[LifecycleEvent]:
    """What the broker made of these jobs."""
    for published in outgoing:
        if published.id in receipt.unconfirmed:
            continue
        job = decode(published.body)
        holder = receipt.duplicates.get(published.id)
        if holder is None:
            yield of_job("queued", job, published.queue, at, wait=published.delay or None)
        else:
            yield of_job("duplicate", job, published.queue, at, holder=holder)


def topology(table: RoutingTable) -> Topology:
    """What the table needs on the broker."""
    return Topology(frozenset(table.queues()), table.waits())


def extend_import_path(settings: Settings) -> None:
    """Put the current directory and, before all else behind it, the file's ``pythonpath`` on ``sys.path``."""
    try:
        wanted = [os.getcwd(), *settings.pythonpath]
    except OSError:  # it was deleted, as that of an older release is by some deployments
        wanted = [*settings.pythonpath]
    sys.path[:] = wanted + [path for path in sys.path if path not in wanted]
