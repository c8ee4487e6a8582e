"""``extensions.yaml``: found, read, checked, and turned into frozen Settings, with every mistake in its place."""

from router.config.composition import Composition
from router.config.diagnostics import Diagnostic
from router.config.durations import format_duration, parse_duration
from router.config.loading import Loaded, find, load
from router.config.options import async_options
from router.config.problems import counted, did_you_mean
from router.config.schema import schema_text
from router.config.settings import (
    AsyncDefaults,
    AsyncOptions,
    Backoff,
    Point,
    Route,
    Settings,
    Unique,
)
from router.config.urls import mask_url
from router.config.watched import Look, Watched

__all__ = [
    "find",
    "load",
    "Loaded",
    "Composition",
    "Diagnostic",
    "async_options",
    "parse_duration",
    "format_duration",
    "mask_url",
    "did_you_mean",
    "counted",
    "schema_text",
    "Settings",
    "Point",
    "Route",
    "AsyncDefaults",
    "AsyncOptions",
    "Backoff",
    "Unique",
    "Look",
    "Watched",
]
