"""The page that this project comes from (``seed/000_1264bf3010ea2fb0.txt``), block by block.

Each test names its block and shows, with a real worker, that the shop's file (``config/extensions.yaml``) does what the
page says. The worker runs a copy of it with shorter waits; that the waits are those of the page is read from the
compiled table of the file itself. Of the timing only this is claimed: nothing is ever early.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from shop.events import CatalogChanged, Item, OrderPlaced, PaymentDue, PaymentReceived
from shorten import shorten

import router
from tests.app import ROOT, SHOP_FILE, App

FASTER = 100
"""The copy's waits are the page's, divided by this."""
CLOCK_STEP = 0.005
"""How far the clocks that two processes read may be apart."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The compiled table of the file as it is."""
    with App(tmp_path_factory.mktemp("table"), SHOP_FILE, broker_url) as app:
        return app.routes()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[App]:
    """The shop with shortened waits and timeouts, one worker with two children at work, this process its application.

    Tests share it, so each uses orders, cards and addresses of its own.
    """
    folder = tmp_path_factory.mktemp("shop")
    file = shorten(SHOP_FILE, folder / "extensions.yaml", waits=FASTER, timeouts=10)
    with App(folder, file, broker_url) as app, app.application():
        app.start_worker("--concurrency", "2")
        yield app


@pytest.fixture
def idle_shop(make_app: Callable[..., App], tmp_path: Path) -> App:
    """The shop with shortened waits, and no worker yet."""
    return make_app(shorten(SHOP_FILE, tmp_path / "extensions.yaml", waits=FASTER))


def assert_never_early(attempts: Sequence[dict[str, Any]], waits: Sequence[float]) -> None:
    """Each attempt came after the one before it by at least the wait of the file, shortened."""
    assert len(attempts) == len(waits) + 1
    for (before, after), wait in zip(pairwise(attempts), waits, strict=True):
        assert after["at"] - before["at"] >= wait / FASTER - CLOCK_STEP


def dispatched_at(job: str) -> float:
    """When the job of that id was made: a UUIDv7 begins with the milliseconds since the epoch."""
    return (uuid.UUID(job).int >> 80) / 1000


@contextmanager
def accounting_down(app: App) -> Iterator[None]:
    """The shop's accounting service is out of order meanwhile."""
    sign = app.folder / "accounting.down"
    sign.write_text("closed")
    try:
        yield
    finally:
        sign.unlink()


# -- Using the Async Attribute -----------------------------------------------------------------------------------------


def test_using_the_async_attribute__a_handler_on_a_queue_runs_in_the_background(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    route = table["order.placed", "shop.mail:SendOrderNotification"]
    assert (route["queue"], route["delay"], route["retries"]) == ("notifications", 0, 3)

    done = router.dispatch(OrderPlaced(1001))

    assert "shop.mail:SendOrderNotification" in done.jobs
    assert "shop.mail:SendOrderNotification" not in done.results
    (mail,) = shop.wait_for("mail.sent", subject="Please pack order 1001: nothing")
    assert mail["pid"] != os.getpid()


# -- Async Attribute Options -------------------------------------------------------------------------------------------


def test_async_attribute_options__every_option_of_the_list_is_in_the_table(
    table: dict[tuple[str, str], dict[str, Any]],
) -> None:
    route = table["payment.due", "shop.billing:ProcessPayment"]
    assert route["queue"] == "high-priority"
    assert route["delay"] == 60
    assert route["retries"] == 3
    assert route["waits"] == [10, 20]
    assert route["timeout"] == 120
    assert route["onFailure"] == "shop.alerts:NotifyOnFailure"
    assert route["onRetry"] == "shop.alerts:LogRetryAttempt"
    assert route["uniqueJob"] is False


def test_async_attribute_options__the_list_as_the_page_has_it_is_a_sound_file(make_app: Callable[..., App]) -> None:
    app = make_app(
        """
version: 1
extensions:
  order.placed:
    handlers:
      - handler: shop.mail:SendOrderNotification
        async: {queue: high-priority, delay: 60, retries: 3, backoff: exponential, backoffSeconds: 10, timeout: 120,
                onFailure: shop.alerts:notify_admin, onRetry: shop.alerts:log_retry,
                uniqueJob: false, uniqueLockTimeout: 3600}
"""
    )
    app.router("validate", "--no-import")


def test_async_attribute_options__delay_retries_backoff_and_callbacks_work_together(shop: App) -> None:
    due = PaymentDue(2001, "reader@shop.example", 499, card="busy-2")
    job = router.dispatch(due).jobs["shop.billing:ProcessPayment"]
    queued_at = dispatched_at(job)

    (charged,) = shop.wait_for("card.charged", reference="payment 2001")
    busy = shop.journal("bank.busy", reference="payment 2001")
    assert busy[0]["at"] - queued_at >= 60 / FASTER - CLOCK_STEP
    assert_never_early([*busy, charged], [10, 20])
    shop.wait_for("mail.sent", to="reader@shop.example", subject="We received 4.99, payment 2001")


def test_async_attribute_options__a_job_has_as_many_attempts_as_retries_says(shop: App) -> None:
    router.dispatch(PaymentDue(2002, "reader@shop.example", 499, card="busy-9"))
    shop.wait_for("staff.told", text="Handler failed: the bank is busy, try again later (PaymentDue)")
    assert len(shop.journal("bank.busy", reference="payment 2002")) == 3
    assert not shop.journal("card.charged", reference="payment 2002")


# -- Configuration -----------------------------------------------------------------------------------------------------


def test_configuration__the_four_defaults_are_the_pages_own() -> None:
    assert yaml.safe_load(SHOP_FILE.read_text())["async"] == {
        "default_queue": "default",
        "tries": 3,
        "backoff": 10,
        "backoff_strategy": "exponential",
    }


def test_configuration__a_handler_that_says_nothing_gets_the_defaults(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    route = table["order.placed", "shop.billing:invoice"]
    assert (route["queue"], route["retries"], route["waits"]) == ("default", 3, [10, 20])

    with accounting_down(shop):
        job = router.dispatch(OrderPlaced(3001)).jobs["shop.billing:invoice"]
        tries = shop.wait_for("accounting.down", 3, reference="order 3001")
        shop.wait_until(lambda: [failed for failed in shop.failed() if failed["job"] == job])

    assert_never_early(tries, [10, 20])


# -- Backoff Strategies ------------------------------------------------------------------------------------------------


def test_backoff_strategies__linear_increases_by_a_fixed_amount(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert table["stock.low", "shop.inventory:reorder"]["waits"] == [10, 20, 30]

    router.dispatch("stock.low", {"sku": "lamp", "supplier": "refuse-3@linear.example"})

    (sent,) = shop.wait_for("mail.sent", to="refuse-3@linear.example")
    assert_never_early([*shop.journal("mail.refused", to="refuse-3@linear.example"), sent], [10, 20, 30])


def test_backoff_strategies__exponential_doubles_each_time(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert table["order.placed", "confirmation"]["waits"] == [10, 20, 40, 80]

    router.dispatch(OrderPlaced(4002, email="refuse-4@exponential.example"))

    mail = {"to": "refuse-4@exponential.example", "subject": "Your order 4002"}
    (sent,) = shop.wait_for("mail.sent", **mail)
    assert_never_early([*shop.journal("mail.refused", **mail), sent], [10, 20, 40, 80])


def test_backoff_strategies__fixed_waits_the_same_each_time(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    assert table["day.ended", "shop.reports:archive_day"]["waits"] == [10, 10, 10]

    with accounting_down(shop):
        router.dispatch("day.ended", {"day": "Monday"})
        tries = shop.wait_for("accounting.down", 4, reference="all of Monday")

    assert_never_early(tries, [10, 10, 10])


def test_backoff_strategies__a_list_gives_each_wait_and_the_number_of_attempts(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    route = table["catalog.changed", "shop.catalog:import_products"]
    assert (route["waits"], route["retries"]) == ([10, 30, 60, 300], 5)

    router.dispatch(CatalogChanged("broken", products=("",)))

    tries = shop.wait_for("import.broken", 5, catalog="broken")
    assert_never_early(tries, [10, 30, 60, 300])
    shop.wait_for("staff.told", text="Handler failed: catalog broken: a product without a name (CatalogChanged)")
    assert len(shop.journal("import.broken", catalog="broken")) == 5


# -- Failure Handling --------------------------------------------------------------------------------------------------


def test_failure_handling__on_failure_gets_the_exception_and_the_event_once_when_no_attempt_is_left(shop: App) -> None:
    router.dispatch(OrderPlaced(5001, email="refuse-9@on-failure.example"))

    told = "Handler failed: the mail server refuses 'Your order 5001': 451 try again later (OrderPlaced)"
    (line,) = shop.wait_for("staff.told", text=told)
    refused = shop.journal("mail.refused", subject="Your order 5001")
    assert len(refused) == 5
    assert refused[-1]["at"] <= line["at"]


def test_failure_handling__on_retry_gets_the_number_and_exception_of_each_attempt_that_is_retried(shop: App) -> None:
    router.dispatch(OrderPlaced(5002, email="refuse-9@on-retry.example"))

    told = "Handler failed: the mail server refuses 'Your order 5002': 451 try again later (OrderPlaced)"
    shop.wait_for("staff.told", text=told)
    error = "ServiceDown: the mail server refuses 'Your order 5002': 451 try again later"
    assert [line["attempt"] for line in shop.journal("retry.logged", error=error)] == [1, 2, 3, 4]


# -- Unique Jobs -------------------------------------------------------------------------------------------------------


def test_unique_jobs__only_one_import_per_catalog_at_a_time_and_other_catalogs_are_free(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    route = table["catalog.changed", "shop.catalog:import_products"]
    assert (route["uniqueJob"], route["uniqueBy"], route["uniqueLockTimeout"]) == (True, ["catalog_id"], 3600)
    lamps, name = ("lamp",) * 20, "shop.catalog:import_products"

    first = router.dispatch(CatalogChanged("lamps", edition=1, products=lamps))
    second = router.dispatch(CatalogChanged("lamps", edition=2, products=lamps))
    other = router.dispatch(CatalogChanged("books", edition=1))

    assert second.duplicates == ((name, first.jobs[name]),)
    assert name not in second.jobs
    assert name in other.jobs
    assert not other.duplicates

    shop.wait_for("import.ended", catalog="books")
    shop.wait_for("import.ended", catalog="lamps")
    third = shop.wait_until(lambda: router.dispatch(CatalogChanged("lamps", edition=3)).jobs.get(name))
    assert third != first.jobs[name]
    shop.wait_for("import.ended", catalog="lamps", edition=3)
    assert not shop.journal("import.started", catalog="lamps", edition=2)


# -- Programmatic Async ------------------------------------------------------------------------------------------------


def test_programmatic_async__a_route_registered_by_the_bootstrap_is_run_by_workers(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    route = table["order.placed", "shop.mail:SendEmail"]
    assert (route["queue"], route["delay"], route["retries"]) == ("emails", 30, 5)

    job = router.dispatch(OrderPlaced(6001, email="refuse-1@bootstrap.example")).jobs["shop.mail:SendEmail"]

    mail = {"subject": "How do you like order 6001?"}
    (sent,) = shop.wait_for("mail.sent", **mail)
    (refused,) = shop.journal("mail.refused", **mail)
    assert refused["at"] - dispatched_at(job) >= 30 / FASTER - CLOCK_STEP
    assert_never_early([refused, sent], [10])


# -- Mixing Sync and Async ---------------------------------------------------------------------------------------------

_MIXED = """
from shop.billing import process_payment
from shop.events import OrderPlaced
from shop.inventory import update_stock


def setup(router):
    router.register_async(OrderPlaced, "shop.mail:send_confirmation", priority=1)
    router.register(OrderPlaced, process_payment, priority=20)
    router.register_async(OrderPlaced, "shop.billing:invoice", priority=2)
    router.register(OrderPlaced, update_stock, priority=10)
"""


def test_mixing_sync_and_async__sync_handlers_run_first_in_their_order_and_async_ones_are_queued_after_them(
    make_app: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "mixed_bootstrap.py").write_text(_MIXED)
    app = make_app(
        f"""
version: 1
pythonpath: [".", "{ROOT / "examples"}"]
bootstrap: mixed_bootstrap:setup
extensions:
  order.placed: {{event: "shop.events:OrderPlaced"}}
"""
    )
    with app.application():
        with pytest.raises(Exception, match="the bank declines the card"):
            router.dispatch(OrderPlaced(7001, card="declined"))
        assert sum(queue["ready"] for queue in app.status()["queues"].values()) == 0
        done = router.dispatch(OrderPlaced(7002, items=(Item("lamp"),)))

    assert list(done.results) == ["shop.inventory:update_stock", "shop.billing:process_payment"]
    assert list(done.jobs) == ["shop.mail:send_confirmation", "shop.billing:invoice"]
    app.start_worker("--stop-when-empty").wait()
    written = [line["what"] for line in app.journal()]
    assert written[:3] == ["card.declined", "stock.taken", "card.charged"]
    assert sorted(written[3:]) == ["invoice.booked", "mail.sent"]
    assert app.journal("mail.sent", subject="Your order 7002")


def test_mixing_sync_and_async__an_order_whose_payment_fails_queues_nothing_whatever_the_priorities(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    first = table["order.placed", "shop.mail:SendOrderNotification"]
    last = table["order.placed", "shop.billing:process_payment"]
    assert first["priority"] < last["priority"]

    with pytest.raises(Exception, match="the bank declines the card for order 7003"):
        router.dispatch(OrderPlaced(7003, card="declined"))

    router.dispatch(OrderPlaced(7004))
    shop.wait_for("mail.sent", subject="How do you like order 7004?")
    assert not [line for line in shop.journal("mail.sent") if "7003" in line["subject"]]
    assert not shop.journal("invoice.booked", reference="order 7003")


# -- Monitoring Async Jobs ---------------------------------------------------------------------------------------------


def test_monitoring_async_jobs__status_counts_what_waits_and_a_worker_for_one_queue_takes_only_that(
    idle_shop: App,
) -> None:
    with idle_shop.application():
        router.dispatch(OrderPlaced(8001))
        router.dispatch("day.ended", {"day": "Tuesday"})

    before = idle_shop.status()["queues"]
    assert before["notifications"]["ready"] >= 1
    assert before["low"]["ready"] == 2
    if idle_shop.counts_by_queue:
        assert before["low"]["oldest"] is not None
    assert before["heavy"]["ready"] == 0

    idle_shop.start_worker("--queue", "notifications", "--stop-when-empty").wait()

    after = idle_shop.status()["queues"]
    assert after["notifications"]["ready"] == 0
    if idle_shop.counts_by_queue:
        assert after["notifications"]["running"] == 0
    assert after["low"]["ready"] == 2
    assert after["default"]["ready"] == 1
    assert {line["subject"] for line in idle_shop.journal("mail.sent")} == {
        "Please pack order 8001: nothing",
        "Your order 8001",
    }


# -- Best Practices ----------------------------------------------------------------------------------------------------


def test_best_practices_1__an_event_with_values_inside_values_is_the_same_in_the_worker(shop: App) -> None:
    router.dispatch(OrderPlaced(9101, items=(Item("lamp", 2), Item("ladder"))))
    shop.wait_for("mail.sent", subject="Please pack order 9101: 2 x lamp, 1 x ladder")


def test_best_practices_2__a_handlers_own_queue_wins_over_the_default(
    idle_shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    queues = {route: options.get("queue") for (_, route), options in table.items()}
    assert queues["shop.mail:send_payment_receipt"] == "high"
    assert queues["shop.reports:generate_reports"] == "low"
    assert queues["shop.catalog:process_images"] == "heavy"

    with idle_shop.application() as app:
        app.dispatch(PaymentReceived(9201, "reader@shop.example", 100))
        app.dispatch("day.ended", {"day": "Wednesday"})
        app.dispatch(CatalogChanged("queues"))

    ready = {name: queue["ready"] for name, queue in idle_shop.status()["queues"].items() if queue["ready"]}
    assert ready == {"high": 1, "low": 2, "heavy": 2}


def test_best_practices_2__what_is_time_critical_starts_before_what_can_wait(idle_shop: App) -> None:
    days, payments = 3, 3
    with idle_shop.application() as app:
        app.dispatch_many([("day.ended", {"day": f"day {number}"}) for number in range(days)])
        app.dispatch_many([PaymentReceived(number, "reader@shop.example", 100) for number in range(payments)])

    idle_shop.start_worker("--queue", "high", "--queue", "low", "--concurrency", "1", "--stop-when-empty").wait()

    written = [line["what"] for line in idle_shop.journal()]
    assert written[:payments] == ["mail.sent"] * payments
    assert sorted(written[payments:]) == sorted(["report.generated", "invoice.booked"] * days)


def test_best_practices_2__a_queue_for_heavy_work_runs_one_job_at_a_time_although_two_children_are_free(
    shop: App,
) -> None:
    names = ("heavy-1", "heavy-2", "heavy-3")
    for name in names:
        router.dispatch(CatalogChanged(name, products=("lamp",) * 4))

    for name in names:
        shop.wait_for("import.ended", catalog=name)
    lines = [line["what"] for line in shop.journal() if line.get("catalog") in names]
    assert lines == ["import.started", "import.ended"] * len(names)


def test_best_practices_3__timeouts_of_quick_medium_and_long_tasks(
    shop: App, table: dict[tuple[str, str], dict[str, Any]]
) -> None:
    timeouts = {route: options.get("timeout") for (_, route), options in table.items()}
    assert timeouts["shop.mail:send_payment_receipt"] == 30
    assert timeouts["shop.reports:generate_reports"] == 300
    assert timeouts["shop.catalog:process_images"] == 3600

    router.dispatch(PaymentReceived(9301, "hang-1@timeout.example", 100))

    (sent,) = shop.wait_for("mail.sent", to="hang-1@timeout.example")
    (hung,) = shop.journal("mail.hangs", to="hang-1@timeout.example")
    assert sent["at"] - hung["at"] >= 30 / 10
    assert sent["pid"] != hung["pid"], "the child that hung is the one that was killed"
    (logged,) = [line for line in shop.journal("retry.logged") if "JobTimeout" in line["error"]]
    assert logged["attempt"] == 1
