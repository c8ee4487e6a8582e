"""docs/reference.md: as it is made from the schema now, complete, and with examples that work."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator

from router.config import load, schema_text

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SCHEMA: dict[str, Any] = msgspec.json.decode(schema_text())


def _names(node: object) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_names, node))
    if not isinstance(node, dict):
        return set()
    own = node["properties"].keys() if isinstance(node.get("properties"), dict) else ()
    return set(own).union(*map(_names, node.values()))


def test_the_page_is_as_it_is_made_from_the_schema_now() -> None:
    assert runpy.run_path(str(DOCS / "make_reference.py"))["page"]() == PAGE, "run `make reference`"


@pytest.mark.parametrize("name", sorted(_names(SCHEMA)))
def test_every_key_is_explained_and_shown(name: str) -> None:
    assert re.search(rf"^\| \[?`{name}`", PAGE, re.MULTILINE)
    assert any(re.search(rf"\b{name}:", example) for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_works(example: str, tmp_path: Path) -> None:
    for name, content in {
        "config/extensions.yaml": example,
        "config/extensions/shop.yaml": "version: 1\nextensions: {order.shipped: {}}\n",
        "schemas/order_placed.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    Draft7Validator(SCHEMA).validate(yaml.safe_load(example))
    load(tmp_path / "config/extensions.yaml", environ={})


def test_every_link_leads_to_a_heading() -> None:
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\(#([^)]*)\)", PAGE)) <= headings
