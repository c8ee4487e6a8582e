"""For the tests of applications: a Router without a broker, whose jobs run when the test says so, in virtual time.

``pytest`` has it as the fixture ``router`` (see `router.pytest_plugin`); docs/testing.md shows how it is used.
"""

from router.testing.records import Dispatched, FailedJob, QueuedJob, Ran, Report
from router.testing.router import TestRouter
from router.testing.running import EndlessJobs

__all__ = [
    "TestRouter",
    "Dispatched",
    "QueuedJob",
    "FailedJob",
    "Report",
    "Ran",
    "EndlessJobs",
]
