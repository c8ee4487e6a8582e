"""``router config``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.cli.common import ConfigOption, Format, FormatOption, print_json
from router.config import Composition, find, load, mask_url
from router.config.construction import core_value
from router.config.diagnostics import Source
from router.config.problems import Path
from router.config.syntax import compose
from router.config.urls import absolute_path, absolute_url


def config(
    config: ConfigOption = None,
    origins: Annotated[bool, typer.Option("--origins", help="Say of each value where it comes from.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show what the file says with its includes, its overlay and the environment, all resolved, passwords masked."""
    composition = load(find(config)).composition
    data = {key: _resolved(value, (key,), composition) for key, value in composition.data.items() if key != "include"}
    if format is Format.JSON:
        print_json([*_origins(data, composition)] if origins else data)
        return
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    typer.echo(_annotated(text, composition) if origins else text, nl=False)


_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)")


class _Dumper(yaml.SafeDumper):
    """Block style, lists of plain values in one line, and nothing that YAML 1.1 and 1.2 read differently."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> Node:
        ambiguous = not isinstance(core_value(text), str)
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if ambiguous else None)

    def represent_items(self, items: list[Any]) -> Node:
        short = not any(isinstance(item, dict | list) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_items)


def _resolved(value: Any, path: Path, composition: Composition) -> Any:
    """``value``, from ``path``, as it could stand in any file: paths absolute, ``${`` escaped, passwords masked."""
    if isinstance(value, dict):
        return {key: _resolved(item, (*path, key), composition) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, (*path, number), composition) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    match path:
        case ("broker" | "locks", "url"):
            value = absolute_url(value, composition.folder(path))
        case ("pythonpath", _) | ("extensions", _, "schema"):
            value = absolute_path(value, composition.folder(path))
    return mask_url(value).replace("${", "$${")


def _annotated(text: str, composition: Composition) -> str:
    """``text``, YAML made of the data, with the origin of each value behind it."""
    lines = text.split("\n")
    root = compose(Source("", text))
    width = min(max(map(len, lines)), 72)
    for path, node in _leaves(root, ()):
        line = node.end_mark.line
        lines[line] = f"{lines[line]:<{width}}  # {_origin(path, composition)}"
    return "\n".join(lines)


def _leaves(node: Node | None, path: Path) -> Iterator[tuple[Path, Node]]:
    """Every value that is shown in one line, and where it is in the data."""
    if isinstance(node, MappingNode) and node.value:
        for key, value in node.value:
            yield from _leaves(value, (*path, key.value))
    elif isinstance(node, SequenceNode) and not node.flow_style:
        for number, item in enumerate(node.value):
            yield from _leaves(item, (*path, number))
    elif isinstance(node, ScalarNode | SequenceNode | MappingNode):
        yield path, node


def _origin(path: Path, composition: Composition) -> str:
    """``extensions.yaml:3, $VARIABLE``: the place, and what of the environment is in the value."""
    document, inner = composition.place(path)
    place = document.note(inner, "")
    variables = _VARIABLE.findall(document.written(inner) or "")
    return ", ".join([f"{place.file}:{place.line}", *(f"${name}" for name in variables)])


def _origins(data: object, composition: Composition, path: Path = ()) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _origins(value, composition, (*path, key))
    elif isinstance(data, list) and any(isinstance(item, dict | list) for item in data):
        for number, item in enumerate(data):
            yield from _origins(item, composition, (*path, number))
    else:
        yield {"path": list(path), "value": data, "origin": _origin(path, composition)}
