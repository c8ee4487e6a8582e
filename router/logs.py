"""Logging of the command line and of the worker's processes: one line for each thing, as text or as JSON."""

from __future__ import annotations

import copy
import logging
import sys
import threading
import time
from types import TracebackType


class TextFormatter(logging.Formatter):
    """``12:30:01.123 warning  message``; exceptions below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time of day, with milliseconds."""
        return time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        ours = copy.copy(record)  # other handlers get the same record
        ours.levelname = record.levelname.lower()
        return super().format(ours)


def set_up_logging(level: str, log_format: str) -> None:
    """Log everything of ``level`` (``debug`` … ``error``) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
        # What Python would write to stderr by itself is a line of the log as well, not text between the lines.
        logging.captureWarnings(True)
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("router").critical("uncaught exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "unknown"
    about = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("router").error("uncaught exception in thread %s", name, exc_info=about)
