"""The JSON Schemas of event classes, and finding one's way in a schema."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

_MAX_STEPS = 100


class Node(NamedTuple):
    """A schema, and what its references are looked up with."""

    schema: Any
    resolver: Any

    @classmethod
    def root(cls, schema: Any) -> Node:
        from referencing import Registry
        from referencing.jsonschema import DRAFT202012

        registry: Registry[Any] = Registry()
        return cls(schema, registry.resolver_with_root(DRAFT202012.create_resource(schema)))

    def inner(self, schema: Any) -> Node:
        """A schema that stands in this one."""
        from referencing.jsonschema import DRAFT202012

        if not isinstance(schema, dict) or not isinstance(schema.get("$id"), str):
            # In draft 4, `id` is what references below it start from; nothing is known about them here.
            return Node({} if isinstance(schema, dict) and isinstance(schema.get("id"), str) else schema, self.resolver)
        return Node(schema, self.resolver.in_subresource(DRAFT202012.create_resource(schema)))

    def target(self) -> Node | None:
        """Where ``$ref`` leads. None: nowhere, or to another document."""
        from referencing.exceptions import Unresolvable

        try:
            found = self.resolver.lookup(self.schema["$ref"])
        except (Unresolvable, LookupError, ValueError, TypeError):
            return None
        return Node(found.contents, found.resolver)

    def get(self, key: str) -> Any:
        """The value of a keyword; None if it isn't there."""
        return self.schema.get(key) if isinstance(self.schema, dict) else None

    def properties(self) -> dict[str, Node]:
        """The schemas of the keys of a mapping."""
        found = self.get("properties")
        return {name: self.inner(schema) for name, schema in found.items()} if isinstance(found, dict) else {}


def generated(event_type: Any, *, written: bool = False, by_name: bool = False) -> Node:
    """The schema of an event class. ``written``: of the JSON that is made of an event, not of what an event is made of.
    ``by_name``: with the names that fields have in Python."""
    if hasattr(event_type, "model_json_schema"):
        mode = "serialization" if written else "validation"
        return Node.root(event_type.model_json_schema(mode=mode, by_alias=not by_name))
    return Node.root(msgspec.json.schema(event_type))


def plain(node: Node) -> Node:
    """What ``node`` stands for: where a reference leads, what may be left out as null."""
    for _ in range(_MAX_STEPS):
        inner = None
        if isinstance(node.get("$ref"), str):
            inner = node.target()
        else:
            for key in ("allOf", "anyOf", "oneOf"):
                options = [one for one in node.get(key) or () if one != {"type": "null"}]
                inner = node.inner(options[0]) if len(options) == 1 else inner
        if inner is None:
            return node
        node = inner
    return node
