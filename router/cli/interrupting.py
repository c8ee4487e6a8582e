"""Ctrl-C in a command that does many things one after the other."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import NoReturn

import typer

from router.cli.common import error

INTERRUPTED = 130
"""Exit code after Ctrl-C, as everywhere."""


def interrupted(what_is: str) -> NoReturn:
    """End the command after Ctrl-C; ``what_is``: what was done, and what wasn't."""
    error(f"interrupted: {what_is}")
    raise typer.Exit(INTERRUPTED)


class CtrlC:
    """Ctrl-C takes effect where the work allows it; before it has begun, and the second time, at once.

    ``insisted``: it was pressed a second time.
    """

    def __init__(self) -> None:
        self.insisted = False
        self._at_once = True
        self._asked = False

    def may_take_effect(self) -> None:
        """Here."""
        self._at_once = False
        if self._asked:
            raise KeyboardInterrupt

    def may_take_effect_at_once(self) -> None:
        """From here to the next `may_take_effect`."""
        self.may_take_effect()
        self._at_once = True

    def __enter__(self) -> CtrlC:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _pressed(self, _: int, __: FrameType | None) -> None:
        self.insisted = self._asked
        self._asked = True
        if self.insisted or self._at_once:
            raise KeyboardInterrupt
