"""What objects make anew in a forked child, before any of its threads can use them.

A lock that another thread of the parent held at the fork is held for ever in the child. To notice the fork at the first
call instead would be a race: of two threads that come first, the second replaces the lock that the first has taken.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

_methods: set[weakref.WeakMethod[Callable[[], None]]] = set()


def in_forked_children(method: Callable[[], None]) -> None:
    """Call this bound method in each process that is forked while its object lives, with no other thread about."""
    _methods.add(weakref.WeakMethod(method, _methods.discard))


def _call_all() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_call_all)
