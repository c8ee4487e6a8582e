"""The keys of locks that jobs hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from router.config.settings import AsyncOptions, Unique
from router.errors import InvalidPayload

_CANARY = "canary"


def lock_key(namespace: str, point: str, route: str, unique: Unique, event: bytes) -> str:
    """``namespace:point:route:digest``, the digest being SHA-256 of the canonical JSON of what ``uniqueBy`` names.

    ``event`` is the encoded payload. Raises InvalidPayload where it lacks one of the paths.
    """
    payload = msgspec.json.decode(event)
    values = [_value(payload, path, point, route) for path in unique.by] if unique.by else payload
    digest = hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()
    return f"{namespace}:{point}:{route}:{digest}"


def is_of(key: str, namespace: str) -> bool:
    """Whether a key is that of a lock of this namespace."""
    return key.startswith(f"{namespace}:")


def canary_key(namespace: str, job: str) -> str:
    """The key by which a canary of `router failed retry` is watched: its own, held until it is done."""
    return f"{namespace}:{_CANARY}:{job}"


def is_canary(key: str | None) -> bool:
    """Whether it is a `canary_key`, and not the `lock_key` of a point or route called canary, which has a part more."""
    parts = key.split(":") if key is not None else []
    return len(parts) == 3 and parts[1] == _CANARY


def until_start(key: str | None, options: AsyncOptions | None) -> bool:
    """Whether a job of that route gives up this lock when its handler starts."""
    unique = options.unique if options else None
    return key is not None and unique is not None and unique.until == "start" and not is_canary(key)


def key_parts(key: str) -> tuple[str, str, str]:
    """Point, route and digest of a `lock_key`; a route may have colons in it, a namespace and a point have none."""
    _, point, rest = key.split(":", 2)
    route, _, digest = rest.rpartition(":")
    return point, route, digest


def _value(payload: object, path: str, point: str, route: str) -> object:
    value = payload
    for word in path.split("."):
        if not isinstance(value, Mapping) or word not in value:
            raise InvalidPayload(
                f"{point}: the payload has no {path!r}, by which jobs of {route} are unique (uniqueBy)"
            )
        value = value[word]
    return value
