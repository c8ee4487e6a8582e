"""What waits for a transaction of SQLAlchemy: carried out after the outermost commit, dropped with a rollback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from router.errors import RouterError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

log = logging.getLogger("router.app")

T = TypeVar("T")

CarryOut = Callable[[Sequence[T]], None]

_KEY = "router.after_commit"
"""In ``Session.info``: transaction → what waits for it; None for the one that is begun next."""


@dataclass(slots=True)
class _Group(Generic[T]):
    carry_out: CarryOut[T]
    items: list[T] = field(default_factory=list)
    committed: bool = False


def wait_for_commit(session: Session, items: Sequence[T], carry_out: CarryOut[T]) -> None:
    """Once everything around is committed, ``carry_out`` gets these, with what else waits for that commit.

    They belong to the transaction, or the savepoint, that is open now; if none is, to the next one. What ``carry_out``
    raises comes out of the ``commit()``, at whose end it is called: the session can be used.
    """
    _listen()
    waiting: dict[SessionTransaction | None, _Group[T]] = session.info.setdefault(_KEY, {})
    waiting.setdefault(_current(session), _Group(carry_out)).items += items


def sync_session(session: Any) -> Session:
    """The Session behind an AsyncSession or a scoped session. Raises TypeError for anything else."""
    try:
        from sqlalchemy.orm import Session
    except ImportError as error:
        raise RouterError("after_commit needs SQLAlchemy: pip install 'extension-router[sqlalchemy]'") from error
    registry = getattr(session, "registry", None)
    found = registry() if callable(registry) else session
    found = getattr(found, "sync_session", found)
    if not isinstance(found, Session):
        raise TypeError(
            f"after_commit takes a Session or an AsyncSession of SQLAlchemy, not {type(session).__name__}; "
            "with Django: transaction.on_commit(lambda: router.dispatch(...))"
        )
    return found


@cache
def _listen() -> None:
    """Once for all sessions, so that nothing has to be taken away with each."""
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    event.listen(Session, "after_transaction_create", _begun)
    # First of all: what another listener raises must not hide that it was committed.
    event.listen(Session, "after_commit", _committed, insert=True)
    event.listen(Session, "after_transaction_end", _ended)


def _begun(session: Session, transaction: SessionTransaction) -> None:
    waiting = session.info.get(_KEY, {})
    if None in waiting and transaction.parent is None:
        waiting[transaction] = waiting.pop(None)


def _committed(session: Session) -> None:
    group = session.info.get(_KEY, {}).get(_current(session))
    if group is not None:
        group.committed = True


def _ended(session: Session, transaction: SessionTransaction) -> None:
    waiting = session.info.get(_KEY, {})
    group = waiting.pop(transaction, None)
    if group is None:
        return
    if group.committed and transaction.parent is not None:
        around = _boundary(transaction.parent)
        waiting.setdefault(around, _Group(group.carry_out)).items += group.items
        return
    if not waiting:
        del session.info[_KEY]
    if group.committed:
        group.carry_out(group.items)
    else:
        log.debug("rolled back, and so not dispatched: %d events", len(group.items))


def _current(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()


def _boundary(transaction: SessionTransaction) -> SessionTransaction:
    """That transaction, or the one of which it is but a flush."""
    while transaction.parent is not None and not transaction.nested:
        transaction = transaction.parent
    return transaction
