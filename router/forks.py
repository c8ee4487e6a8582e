"""What objects make anew in a forked child, before any of its threads can use them.

A lock that another thread of the parent held at the fork is held for ever in the child. To notice the fork at the first
call instead would be a race: of two threads that come first, the second replaces the lock that the first has taken.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_renewals: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def in_forked_children(owner: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(owner)`` in each process that is forked while ``owner`` lives, with no other thread about."""
    _renewals[owner] = renew


def _renew_all() -> None:
    for owner, renew in list(_renewals.items()):
        renew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
