"""The JSON Schemas of payloads that a file names: read, checked, and hashed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from router.config import wording
from router.config.problems import Problem

MAX_BYTES = 8 * 1024 * 1024


class PayloadSchemas:
    """Reads each schema file once."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[dict[str, Any] | bool | None, Problem | None]] = {}
        self.contents: list[bytes] = []
        """The bytes of the files read, in the order in which they were first asked for."""

    @property
    def paths(self) -> list[str]:
        """The files that were asked for."""
        return [*self._read]

    def get(self, path: str) -> tuple[dict[str, Any] | bool | None, Problem | None]:
        """The schema in the file at this absolute path, or what is wrong with it."""
        if path not in self._read:
            self._read[path] = self._load(path)
        return self._read[path]

    def _load(self, path: str) -> tuple[dict[str, Any] | bool | None, Problem | None]:
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
        if not content.strip():
            return None, Problem(f"`{path}` is empty", "the smallest schema is `{}`, which any payload fits")
        try:
            schema = msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            return None, Problem(f"`{path}` is not JSON: {error}", "a `schema` is a JSON file, not YAML or Python")
        if not isinstance(schema, dict | bool):
            return None, Problem(
                f"`{path}` is not a JSON Schema: it must hold an object", 'for example `{"type": "object"}`'
            )
        problem = _schema_problem(schema, path)
        return (None, problem) if problem else (schema, None)


def _schema_problem(schema: dict[str, Any] | bool, path: str) -> Problem | None:
    from jsonschema import Draft202012Validator  # slow to import, and only needed where a file is read
    from jsonschema.exceptions import SchemaError, UnknownType
    from jsonschema.validators import validator_for
    from referencing.exceptions import Unresolvable

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(cast(Any, schema))
    except SchemaError as error:
        place = "".join(f"/{step}" for step in error.absolute_path) or "/"
        value = msgspec.json.encode(error.instance).decode()
        shown = value if len(value) <= 60 else wording.kind(error.instance)
        return Problem(f"`{path}` is not a valid JSON Schema: {shown} is not allowed at `{place}`")
    except (RecursionError, UnknownType, Unresolvable, TypeError, ValueError) as error:
        return Problem(f"`{path}` is not a valid JSON Schema: {type(error).__name__}")
    return None
