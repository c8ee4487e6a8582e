"""The quick look at a file says yes only where jsonschema says yes, and it does so for each file that is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from router.config.fitting import fits
from router.config.schema import file_validator, included_validator, options_validator, overlay_validator

VALID = Path(__file__).parents[1] / "cases" / "valid"

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "b", "ab"])
values = st.recursive(
    scalars | st.just(float("nan")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)
types = st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null"])
limits = st.integers(0, 3)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
        "const": scalars,
        "enum": st.lists(scalars, min_size=1, max_size=3),
        **dict.fromkeys(("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"), limits),
        "uniqueItems": st.booleans(),
        "items": inner,
        "required": st.lists(st.sampled_from(["a", "b"]), max_size=2),
        "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        "additionalProperties": st.booleans() | inner,
        "not": inner,  # unknown to the quick look
    }
    return st.fixed_dictionaries({}, optional=keywords)


@given(st.recursive(st.just({}), _schemas, max_leaves=4), values)
def test_what_surely_fits_fits(schema: Any, value: Any) -> None:
    if fits(value, schema):
        assert Draft7Validator(schema).is_valid(value)


def _mutations(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, dict):
        one = st.sampled_from(sorted(value)) if value else st.just("extensions")
        inside = one.flatmap(lambda key: st.tuples(st.just(key), _mutations(value.get(key))))
        return scalars | inside.map(lambda pair: {**value, pair[0]: pair[1]})
    if isinstance(value, list) and value:
        return scalars | _mutations(value[0]).map(lambda first: [first, *value[1:]])
    return scalars | st.just(value)


FILE = {
    "version": 1,
    "broker": {"url": "sqlite:///a.db", "namespace": "shop"},
    "async": {"tries": 3, "backoff": [1, 2], "backoff_strategy": "linear"},
    "queues": {"heavy": {"concurrency": 1}},
    "extensions": {
        "a.b": {
            "interruptible": True,
            "handlers": [{"handler": "m:f", "async": {"retries": 2, "uniqueJob": True, "uniqueBy": ["a", "b"]}}],
        }
    },
}


@given(_mutations(FILE))
def test_so_it_is_with_our_own_schemas(value: Any) -> None:
    for validator in (file_validator(), included_validator(), overlay_validator(), options_validator()):
        if fits(value, validator.schema):
            assert Draft7Validator(validator.schema).is_valid(value)


def test_a_file_that_is_right_is_known_to_be() -> None:
    assert fits(FILE, file_validator().schema)


def test_no_file_that_is_right_needs_jsonschema() -> None:
    files = [path for path in VALID.glob("*.yaml") if "schema:" not in path.read_text()]
    assert len(files) > 3
    program = (
        "import sys; from router.config import load\n"
        "for path in sys.argv[1:]: load(path); assert 'jsonschema' not in sys.modules, path"
    )
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
