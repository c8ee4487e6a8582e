"""``router failed list | show | retry | forget | export | import``."""

from __future__ import annotations

from router.cli.grouping import lazy_app

COMMANDS = {
    "list": (
        "router.cli.failed.listing:list_failed",
        "List the failed jobs, those that failed last at the end: 50 of them, as JSON all, or as many as --limit says.",
    ),
    "show": (
        "router.cli.failed.listing:show",
        "Show everything about one failed job: payload, origin, each attempt with its error.",
    ),
    "retry": (
        "router.cli.failed.retrying:retry",
        "Put failed jobs back into their queues, with all their attempts anew and the same ids.",
    ),
    "forget": (
        "router.cli.failed.forgetting:forget",
        "Delete failed jobs, for good; the lock that a unique one still holds is freed.",
    ),
    "export": (
        "router.cli.failed.moving:export",
        "Write failed jobs, all or those that fit, as JSON, one a line; `router failed import` puts them back.",
    ),
    "import": (
        "router.cli.failed.moving:import_failed",
        "Put exported jobs back among the failed jobs. One that is there already stays as it is.",
    ),
}

app = lazy_app(
    COMMANDS,
    help="Jobs that have failed: see why, try them again, forget them, carry them elsewhere.",
)
