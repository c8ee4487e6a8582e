"""The JSON Schemas of payloads that a file names: read, checked, and hashed with it."""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from router.config.problems import Problem
from router.config.schema_checking import schema_problem

MAX_BYTES = 8 * 1024 * 1024


class PayloadSchemas:
    """Reads each schema file once."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[dict[str, Any] | bool | None, Problem | None]] = {}
        self.contents: list[bytes] = []
        """The bytes of the files read, in the order in which they were first asked for."""
        self.digests: dict[str, str | None] = {}
        """Each path that was asked for, and the SHA-256 of what was read there; None: nothing."""

    def get(self, path: str) -> tuple[dict[str, Any] | bool | None, Problem | None]:
        """The schema in the file at this absolute path, or what is wrong with it."""
        if path not in self._read:
            self._read[path] = self._load(path)
        return self._read[path]

    def _load(self, path: str) -> tuple[dict[str, Any] | bool | None, Problem | None]:
        self.digests[path] = None
        try:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None, Problem(f"there is no file `{path}`", "`schema` is relative to the folder of this file")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return None, Problem(f"`{path}` can't be read: {reason}")
        if len(content) > MAX_BYTES:
            return None, Problem(f"`{path}` is larger than {MAX_BYTES // 1024 // 1024} MiB")
        self.contents.append(content)
        self.digests[path] = hashlib.sha256(content).hexdigest()
        if not content.strip():
            return None, Problem(f"`{path}` is empty", "the smallest schema is `{}`, which any payload fits")
        try:
            schema = msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8))  # which some editors write
        except (msgspec.DecodeError, RecursionError) as error:
            return None, Problem(f"`{path}` is not JSON: {error}", "a `schema` is a JSON file, not YAML or Python")
        if not isinstance(schema, dict | bool):
            return None, Problem(
                f"`{path}` is not a JSON Schema: it must hold an object", 'for example `{"type": "object"}`'
            )
        problem = schema_problem(schema, path)
        return (None, problem) if problem else (schema, None)
