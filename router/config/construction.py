"""YAML nodes → plain data: YAML 1.2 core types, merge keys, ``${…}``, and everything in YAML that we refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from router.config.interpolation import InterpolationError, interpolate, is_single_reference

MAX_DEPTH = 64
MAX_REPEATED = 250_000
"""Most values that aliases may repeat: a few lines of aliases of aliases can otherwise stand for billions."""

TAG_PREFIX = "tag:yaml.org,2002:"
PLAIN_TAG = "plain"
"""Given by our parser to scalars without quotes and tag, whose type is decided here."""

Report = Callable[..., None]
"""Called as ``report(node, message, hint, first, note)``: ``first`` is the node that ``node`` repeats, or that it is
also about, as ``note`` says."""


class Unusable:
    """Stands in the data for a value whose mistake has been reported already, so that nobody reports it again."""

    def __repr__(self) -> str:
        return "UNUSABLE"


UNUSABLE: Final = Unusable()

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN = (".nan", ".NaN", ".NAN")
_NUMBER_STARTS = frozenset("-+.0123456789")
_MAX_DIGITS = 500
"""Of whatever base: Python refuses to show a number of more than 4,300 decimal digits, and may be told to at 640."""

_TAG_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
}


class TooManyValues(Exception):
    """The aliases of the file repeat more than MAX_REPEATED values; reported already."""


def core_value(text: str) -> object:
    """The value of a plain scalar in the core schema of YAML 1.2: ``yes``, ``on`` and ``12:30`` are strings."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0) if len(text) <= _MAX_DIGITS else math.inf
    if infinite := _INFINITE.fullmatch(text):
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in _NAN else text


class Constructor:
    """Builds plain data out of nodes and reports every mistake on the way; ``environ`` is what ``${…}`` reads."""

    def __init__(self, environ: Mapping[str, str], report: Report) -> None:
        self._environ = environ
        self._report = report
        self._values = 0
        self._repeated = 0
        self._deepest = 0
        # id(node) → (data, values in it, levels in it); None while the node is being built.
        self._built: dict[int, tuple[object, int, int] | None] = {}

    def build(self, node: Node, depth: int = 0) -> object:
        """The data of ``node``. Raises TooManyValues, reported, where aliases multiply without end."""
        if isinstance(node, ScalarNode):
            self._values += 1
            return self._scalar(node)
        if id(node) in self._built:
            return self._again(node, depth)
        if depth > MAX_DEPTH:
            return self._too_deep(node)
        self._built[id(node)] = None
        values, deepest = self._values, self._deepest
        self._values += 1
        self._deepest = depth
        if isinstance(node, MappingNode):
            usable = self._tag_is(node, "map") and not self._is_template(node)
            data: object = self._mapping(node, depth) if usable else UNUSABLE
        else:
            data = [self.build(item, depth + 1) for item in node.value] if self._tag_is(node, "seq") else UNUSABLE
        self._built[id(node)] = data, self._values - values, self._deepest - depth
        self._deepest = max(deepest, self._deepest)
        return data

    def _again(self, node: Node, depth: int) -> object:
        built = self._built[id(node)]
        if built is None:
            self._report(node, "this value contains itself, through an alias", "write out what the alias stands for")
            return UNUSABLE
        data, values, levels = built
        self._values += values
        self._repeated += values
        if self._repeated > MAX_REPEATED:
            message = f"the aliases of this file repeat more than {MAX_REPEATED:,} values"
            self._report(node, message, "use fewer aliases of aliases")
            raise TooManyValues
        return self._too_deep(node) if depth + levels > MAX_DEPTH else data

    def _is_template(self, node: MappingNode) -> bool:
        """Whether this is the ``{{ name }}`` of a template, which YAML reads as a mapping in a mapping; reported."""
        if not (node.flow_style and len(node.value) == 1 and isinstance(node.value[0][0], MappingNode)):
            return False
        hint = "the file is no template: `${NAME}` stands for a value of the environment"
        self._report(node, "`{{ … }}` is not resolved", hint)
        return True

    def _too_deep(self, node: Node) -> Unusable:
        self._report(node, f"nested more than {MAX_DEPTH} levels deep", "no setting needs more than 7 levels")
        return UNUSABLE

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, object]:
        data: dict[str, object] = {}
        merged: list[tuple[Node, Node]] = []
        firsts: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            if key == "<<" and key_node.tag == PLAIN_TAG:
                if merged:
                    self._report(key_node, "a second `<<` in one mapping", "merge several with a list: `<<: [*a, *b]`")
                merged.append((key_node, value_node))
            elif key in data:
                firsts = firsts or _by_name(node)
                hint = "remove or rename one of them"
                if key == "handler":
                    hint = "start each handler with a `- ` of its own, or remove one of them"
                self._report(key_node, f"duplicate key `{key}`", hint, firsts[key])
            else:
                data[key] = self.build(value_node, depth + 1)
        for key_node, value_node in merged:
            self._merge(key_node, value_node, data, depth)
        return data

    def _merge(self, key_node: Node, node: Node, data: dict[str, object], depth: int) -> None:
        for source in node.value if isinstance(node, SequenceNode) else (node,):
            if not isinstance(source, MappingNode):
                message, hint = "`<<` needs a mapping, or a list of mappings", "for example `<<: *defaults`"
                if source.start_mark.index < key_node.start_mark.index:
                    note = "this is what the alias stands for"
                    self._report(key_node, f"{message}; the alias stands for something else", hint, source, note)
                else:
                    self._report(source, message, hint)
                continue
            built = self.build(source, depth + 1)
            if isinstance(built, dict):
                for key, value in built.items():
                    data.setdefault(key, value)

    def _key(self, node: Node) -> str | None:
        if not isinstance(node, ScalarNode):
            self._report(
                node, "a key must be text, not a list or a mapping", "a value in braces needs quotes to be text"
            )
            return None
        if node.tag == PLAIN_TAG:
            if isinstance(core_value(node.value), str):
                return str(node.value)
            if node.value == "":
                self._report(node, "a key is missing before this `:`", "write `key: value`")
            else:
                hint = f'put quotes around it if it is meant to be a name: `"{node.value[:50]}"`'
                self._report(node, f"a key must be text, and `{node.value[:50]}` is not", hint)
            return None
        return str(node.value) if self._tag_is(node, "str") else None

    def _scalar(self, node: ScalarNode) -> object:
        text: str = node.value
        plain = node.tag == PLAIN_TAG
        if "${" in text:
            try:
                value = interpolate(text, self._environ)
            except InterpolationError as error:
                self._report(node, str(error), error.hint)
                return UNUSABLE
            return core_value(value) if plain and is_single_reference(text) else value
        if plain:
            return core_value(text)
        return self._tagged(node)

    def _tagged(self, node: ScalarNode) -> object:
        kind = str(node.tag).removeprefix(TAG_PREFIX)
        if kind not in _TAG_TYPES:
            return node.value if self._tag_is(node, "str") else UNUSABLE
        value = core_value(node.value)
        if (isinstance(value, bool) and kind != "bool") or not isinstance(value, _TAG_TYPES[kind]):
            self._report(node, f"this is not what its tag `!!{kind}` says", "remove the tag")
            return UNUSABLE
        return value

    def _tag_is(self, node: Node, kind: str) -> bool:
        tag = str(node.tag)
        if tag in (TAG_PREFIX + kind, "!"):
            return True
        shown = f"!!{tag.removeprefix(TAG_PREFIX)}" if tag.startswith(TAG_PREFIX) else tag
        self._report(
            node, f"the tag `{shown}` is not allowed here", "remove the tag: this file holds plain values only"
        )
        return False


def _by_name(node: MappingNode) -> dict[str, Node]:
    """The keys of a mapping that are text, the first of each name."""
    return {key.value: key for key, _ in reversed(node.value) if isinstance(key, ScalarNode)}
