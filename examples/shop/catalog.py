"""The suppliers' catalogs."""

from __future__ import annotations

import time

from shop import journal
from shop.events import CatalogChanged

_SECONDS_PER_PRODUCT = 0.05


def import_products(catalog: CatalogChanged) -> None:
    """Copy a supplier's catalog into ours. Two of these at once for one catalog would trip over each other."""
    details = {"catalog": catalog.catalog_id, "edition": catalog.edition}
    journal.write("import.started", **details)
    for product in catalog.products:
        if not product:
            journal.write("import.broken", **details)
            raise ValueError(f"catalog {catalog.catalog_id}: a product without a name")
        time.sleep(_SECONDS_PER_PRODUCT)
    journal.write("import.ended", **details, products=len(catalog.products))


def process_images(catalog: CatalogChanged) -> None:
    """Make thumbnails; takes all of a CPU, hence a queue that runs one at a time."""
    for image in catalog.images:
        journal.write("image.processed", catalog=catalog.catalog_id, image=image)
