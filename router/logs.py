"""Logging of the command line and of the worker's processes: one line for each thing, as text or as JSON."""

from __future__ import annotations

import logging
import sys
import time


class TextFormatter(logging.Formatter):
    """``12:30:01.123 warning  message``; exceptions below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time of day, with milliseconds."""
        return time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        record.levelname = record.levelname.lower()
        return super().format(record)


def set_up_logging(level: str, log_format: str) -> None:
    """Log everything of ``level`` (``debug`` … ``error``) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
