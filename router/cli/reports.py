"""Diagnostics for machines: annotations of GitHub Actions, and SARIF."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from router.config import Diagnostic
from router.config.diagnostics import Related
from router.config.lint import CODES

_MISTAKE = "mistake"
"""The rule of everything that is an error; only warnings have codes."""


def github(found: Sequence[Diagnostic], error: str | None) -> Iterator[str]:
    """A workflow command for each, which GitHub shows beside the line.

    Source: docs.github.com, "Workflow commands for GitHub Actions".
    """
    for one in found:
        place = {
            "file": one.file,
            "line": one.line,
            "col": one.column,
            "endColumn": one.column + one.length,
            "title": one.code or _MISTAKE,
        }
        properties = ",".join(f"{name}={_escaped(str(value), ',:')}" for name, value in place.items())
        yield f"::{one.severity} {properties}::{_escaped(_text(one))}"
    if error:
        yield f"::error::{_escaped(error)}"


def sarif(found: Sequence[Diagnostic], error: str | None) -> dict[str, Any]:
    """One run in SARIF 2.1.0. Source: docs.oasis-open.org/sarif/sarif/v2.1.0."""
    rules = {_MISTAKE: "The file can't be used as it is."} | {
        code: about for code, about in CODES.items() if any(one.code == code for one in found)
    }
    results: list[dict[str, Any]] = [
        {
            "ruleId": one.code or _MISTAKE,
            "level": one.severity,
            "message": {"text": _text(one)},
            "locations": [{"physicalLocation": _location(one)}],
            "relatedLocations": [
                {"id": number, "message": {"text": place.message}, "physicalLocation": _location(place)}
                for number, place in enumerate(one.related, start=1)
            ],
        }
        for one in found
    ]
    if error:
        results.append({"ruleId": _MISTAKE, "level": "error", "message": {"text": error}})
    driver = {
        "name": "router",
        "version": version("extension-router"),
        "rules": [{"id": code, "shortDescription": {"text": about}} for code, about in rules.items()],
    }
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}


def _text(one: Diagnostic) -> str:
    return f"{one.message}\nhint: {one.hint}" if one.hint else one.message


def _location(place: Related) -> dict[str, Any]:
    region = {
        "startLine": place.line,
        "startColumn": place.column,
        "endColumn": place.column + place.length,
    }
    return {"artifactLocation": {"uri": _uri(place.file)}, "region": region}


def _uri(file: str) -> str:
    """Relative to the current directory where it lies below: that is how code scanning finds it in the repository."""
    path = os.path.relpath(file)
    return Path(file).absolute().as_uri() if path.startswith("..") else quote(path.replace(os.sep, "/"))


def _escaped(text: str, more: str = "") -> str:
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
