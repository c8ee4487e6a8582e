"""Brokers; `connect` chooses one by the scheme of its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import BrokerRefused
from router.locks import open_locks

if TYPE_CHECKING:
    from router.brokers.base import Broker
    from router.locks.base import Locks


def connect(broker_url: str, namespace: str, locks_url: str | None = None, *, declare: bool = True) -> Broker:
    """The broker at ``broker_url``, with the lock store at ``locks_url``. Opens nothing yet.

    ``sqlite:///path`` keeps locks in the same file unless ``locks_url`` names another place; ``memory://`` keeps them
    in memory; RabbitMQ, ``amqp://`` or ``amqps://``, has locks only where ``locks_url`` says. Raises BrokerRefused for
    a URL that no broker, or no lock store, of this version understands. ``declare`` False: on RabbitMQ nothing is made,
    only looked at.
    """
    scheme = broker_url.partition(":")[0]
    match scheme:
        case "sqlite":
            return _sqlite(broker_url, namespace, locks_url)
        case "memory":
            from router.brokers.memory import MemoryBroker

            return MemoryBroker(namespace, open_locks(locks_url or "memory://"))
        case "amqp" | "amqps":
            from router.brokers.amqp import AmqpBroker

            return AmqpBroker(broker_url, namespace, open_locks(locks_url) if locks_url else None, declare=declare)
        case _:
            raise BrokerRefused(f"broker.url: there is no broker for {scheme}://; use sqlite:///path/to/router.db")


def _sqlite(broker_url: str, namespace: str, locks_url: str | None) -> Broker:
    from router.brokers.sqlite import SqliteBroker
    from router.locks.sqlite import SqliteLocks
    from router.storage.sqlite import open_database

    database = open_database(broker_url)
    locks: Locks = SqliteLocks(database) if locks_url is None else open_locks(locks_url)
    if isinstance(locks, SqliteLocks) and locks.database.same_file(database):
        locks = SqliteLocks(database)  # one connection, one transaction
    return SqliteBroker(database, namespace, locks)
