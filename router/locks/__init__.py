"""Lock stores of unique jobs; `open_locks` chooses one by the scheme of its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.errors import BrokerRefused

if TYPE_CHECKING:
    from router.locks.base import Locks


def open_locks(url: str) -> Locks:
    """The lock store at ``url``: ``sqlite:///path``, ``redis://host`` or ``memory://``. Opens nothing yet.

    Raises BrokerRefused for a URL that no lock store of this version understands.
    """
    scheme = url.partition(":")[0]
    match scheme:
        case "sqlite":
            from router.locks.sqlite import SqliteLocks
            from router.storage.sqlite import open_database

            return SqliteLocks(open_database(url))
        case "memory":
            from router.locks.memory import MemoryLocks

            return MemoryLocks()
        case "redis" | "rediss":
            try:
                from router.locks.redis import RedisLocks
            except ImportError as error:
                raise BrokerRefused(
                    f"locks.url: locks in Redis need the redis package ({error}): pip install 'extension-router[redis]'"
                ) from error
            return RedisLocks(url)
        case _:
            raise BrokerRefused(f"locks.url: there is no lock store for {scheme}://; use sqlite:///path/to/locks.db")
