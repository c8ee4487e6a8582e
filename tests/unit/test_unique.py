"""The key of a unique job."""

import json

import pytest

from router.config.settings import Unique
from router.errors import InvalidPayload
from router.jobs.unique import canary_key, is_canary, lock_key


def key(payload, *by, point="catalog.imported", route="import", namespace="router"):
    return lock_key(namespace, point, route, Unique(by=by), json.dumps(payload).encode())


def test_the_key_looks_at_the_payload():
    assert key({"id": 1}) != key({"id": 2})
    assert key({"id": 1}) == key({"id": 1})


def test_the_order_of_fields_does_not_matter():
    assert key({"a": 1, "b": {"c": 2, "d": 3}}) == key({"b": {"d": 3, "c": 2}, "a": 1})


def test_unique_by_looks_only_at_the_named_paths():
    assert key({"id": 1, "when": "now"}, "id") == key({"id": 1, "when": "later"}, "id")
    assert key({"shop": {"id": 1}, "x": 1}, "shop.id") == key({"shop": {"id": 1}, "x": 2}, "shop.id")
    assert key({"shop": {"id": 1}}, "shop.id") != key({"shop": {"id": 2}}, "shop.id")


def test_a_number_is_not_the_text_of_it():
    assert key({"id": 1}, "id") != key({"id": "1"}, "id")


def test_points_routes_and_namespaces_do_not_share_keys():
    keys = {key({}), key({}, point="other"), key({}, route="other"), key({}, namespace="other")}
    assert len(keys) == 4


def test_a_missing_path_is_an_error_that_names_it():
    with pytest.raises(InvalidPayload, match=r"shop\.id"):
        key({"shop": {}}, "shop.id")
    with pytest.raises(InvalidPayload, match=r"shop\.id"):
        key({"shop": [1]}, "shop.id")


def test_null_is_a_value():
    assert key({"id": None}, "id") != key({"id": 0}, "id")


def test_a_point_or_a_route_called_canary_makes_no_canaries():
    assert is_canary(canary_key("router", "01a2137c-bea5-76df-8540-126f7a3c244b"))
    assert not is_canary(key({}, route="canary"))
    assert not is_canary(key({}, point="canary"))
    assert not is_canary(key({}, route="shop:canary:import"))
    assert not is_canary("of an import, which may hold anything")
